"""One small model on disk for all tests of engines."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from safetensors.torch import save_file

from deployments.engines import create_engine
from deployments.engines.base import Engine
from deployments.repository import write_manifest
from deployments.settings import ModelSettings, PreprocessingSpec
from examples import shape_pictures
from examples.shape_pictures import draw_shape
from tests.unit.checkpoints import ARCHITECTURE, LABELS, SPEC, settle
from tests.unit.kinds import TINY_ARCHITECTURE, TINY_SPEC, Registry, tiny_network

# The models of these tests are too small for more; threads that wait for each other on busy cores take seconds.
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(5)
    return settle(torchvision.models.get_model(ARCHITECTURE, weights=None, num_classes=len(LABELS)))


@pytest.fixture(scope="module")
def model_path(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with one version, number 3."""
    return write_version(tmp_path_factory.mktemp("shapes"), network, ARCHITECTURE, SPEC)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, of a network that takes next to no time, for tests of what is around it."""
    return write_version(tmp_path_factory.mktemp("shapes"), tiny_network(), TINY_ARCHITECTURE, TINY_SPEC)


def write_version(model: Path, network: torch.nn.Module, architecture: str, spec: PreprocessingSpec) -> Path:
    (model / "3").mkdir()
    save_file(network.state_dict(), model / "3" / "model.safetensors")
    write_manifest(
        model / "3", architecture=architecture, weights="model.safetensors", labels=LABELS, preprocessing=spec
    )
    return model


@pytest.fixture(scope="module")
def engine(model_path: Path) -> Engine:
    return create_engine(ModelSettings(name="shapes", path=str(model_path), engine="torch", device="cpu"))


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """uint8 (8, 64, 64, 3): noise, and two flat ones."""
    noise = np.random.default_rng(5).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    noise[6], noise[7] = 64, 192
    return noise


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 images, which is what a model below float32 needs to be judged."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(12):
        draw_shape(shape_pictures.LABELS[number % 10], number).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, for tests of what is in it."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("APERTURE_CACHE", str(cache))
    return cache


@pytest.fixture
def torch_home(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch's own cache, empty. So is ours, which takes torchvision's names for the weights that it published."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """No engines but those that the test adds."""
    return Registry(monkeypatch)
