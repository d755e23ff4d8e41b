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
from deployments.settings import ModelSettings
from tests.unit.checkpoints import ARCHITECTURE, LABELS, SPEC, settle


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(5)
    return settle(torchvision.models.get_model(ARCHITECTURE, weights=None, num_classes=len(LABELS)))


@pytest.fixture(scope="module")
def model_path(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with one version, number 3."""
    model = tmp_path_factory.mktemp("shapes")
    (model / "3").mkdir()
    save_file(network.state_dict(), model / "3" / "model.safetensors")
    write_manifest(
        model / "3", architecture=ARCHITECTURE, weights="model.safetensors", labels=LABELS, preprocessing=SPEC
    )
    return model


@pytest.fixture(scope="module")
def engine(model_path: Path) -> Engine:
    return create_engine(ModelSettings(name="shapes", path=str(model_path), device="cpu"))


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """uint8 (8, 64, 64, 3): noise, and two flat ones."""
    noise = np.random.default_rng(5).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    noise[6], noise[7] = 64, 192
    return noise


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path
