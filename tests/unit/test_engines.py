"""Engines against torchvision's own pipeline, and what they say of themselves."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from torchvision.transforms import Compose, Normalize, ToTensor

from deployments.engines import create_engine, sources
from deployments.engines.base import Engine
from deployments.engines.registry import automatic
from deployments.messages import ModelInfo
from deployments.settings import ModelSettings, PreprocessingSpec
from tests.unit.checkpoints import (
    ARCHITECTURE,
    LABELS,
    SPEC,
    cache,
    pretrained,
    settings_of_file,
    settle,
)

# Numerics


def test_logits_are_those_of_torchvisions_own_pipeline(
    engine: Engine, network: torch.nn.Module, pixels: NDArray[np.uint8]
) -> None:
    transform = Compose([ToTensor(), Normalize(SPEC.mean, SPEC.std)])
    with torch.inference_mode():
        expected = network(torch.stack([transform(image) for image in pixels])).numpy()
    np.testing.assert_allclose(engine.infer(pixels), expected, rtol=0, atol=1e-5)


def test_different_images_get_different_logits(engine: Engine, pixels: NDArray[np.uint8]) -> None:
    # Without this, the comparison above would hold for any arithmetic.
    assert engine.infer(pixels).std(axis=0).min() > 0.01


def test_logits_are_float32_with_a_row_an_image(engine: Engine, pixels: NDArray[np.uint8]) -> None:
    logits = engine.infer(pixels)
    assert logits.dtype == np.dtype("float32")
    assert logits.shape == (8, len(LABELS))


@pytest.mark.parametrize("batch_size", range(2, 9))
def test_an_image_gets_the_same_logits_in_a_batch_as_alone(
    engine: Engine, pixels: NDArray[np.uint8], batch_size: int
) -> None:
    alone = np.concatenate([engine.infer(pixels[i : i + 1]) for i in range(batch_size)])
    np.testing.assert_allclose(engine.infer(pixels[:batch_size]), alone, rtol=0, atol=1e-4)


def test_inference_changes_neither_the_pixels_nor_the_next_answer(engine: Engine, pixels: NDArray[np.uint8]) -> None:
    before = pixels.copy()
    first = engine.infer(pixels)
    np.testing.assert_array_equal(engine.infer(pixels), first)
    np.testing.assert_array_equal(pixels, before)


def test_pretrained_weights_get_the_input_that_torchvision_gives_them(torch_home: Path) -> None:
    # GoogLeNet's weights are older than ImageNet's usual means, and torchvision rescales the input in front of them.
    torch.manual_seed(5)
    untrained = torchvision.models.googlenet(weights=None, num_classes=1000, aux_logits=True, init_weights=False)
    cache(torch_home, "googlenet", settle(untrained).state_dict())
    engine = create_engine(pretrained("googlenet"))

    weights = torchvision.models.GoogLeNet_Weights.IMAGENET1K_V1
    reference = torchvision.models.googlenet(weights=weights).eval()
    image = np.random.default_rng(5).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    spec = weights.transforms()
    with torch.inference_mode():
        expected = reference(Compose([ToTensor(), Normalize(spec.mean, spec.std)])(image)[None]).numpy()
    # Looser than above by the size of these logits, which reach 20.
    np.testing.assert_allclose(engine.infer(image[None]), expected, rtol=0, atol=2e-4)


def test_pretrained_tensors_have_the_names_of_torchvisions_own_module(torch_home: Path) -> None:
    # DenseNet's are published under older names, norm.1 where its module has norm1, and without counts of batches.
    own = torchvision.models.get_model("densenet121", weights=None).state_dict()
    weights = {key: torch.full_like(tensor, 3) for key, tensor in own.items() if "num_batches" not in key}
    older = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])")
    cache(torch_home, "densenet121", {older.sub(r"\1.\2", key): tensor for key, tensor in weights.items()})
    state = sources.pretrained_state("densenet121")
    assert state.keys() == own.keys()
    assert all((state[key] == 3).all() for key in weights)


# What an engine says of itself


def test_a_version_on_disk_is_described_by_its_manifest(engine: Engine) -> None:
    info = engine.info()
    assert (info.name, info.version, info.architecture) == ("shapes", 3, ARCHITECTURE)
    assert (info.labels, info.preprocessing) == (LABELS, SPEC)
    assert (info.engine, info.precision, info.device) == ("torch", "fp32", "cpu")


def test_a_checkpoint_with_labels_is_served(
    network: torch.nn.Module, engine: Engine, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    mine = create_engine(settings_of_file(tmp_path, tmp_path / "mine.pth"))
    assert (mine.info().labels, mine.info().preprocessing) == (LABELS, SPEC)
    np.testing.assert_array_equal(mine.infer(pixels), engine.infer(pixels))


def test_pretrained_weights_bring_their_labels_and_preprocessing(torch_home: Path) -> None:
    cache(torch_home, ARCHITECTURE, torchvision.models.get_model(ARCHITECTURE, weights=None).state_dict())
    info = create_engine(pretrained(ARCHITECTURE)).info()
    assert (len(info.labels), info.labels[0], info.labels[999]) == (1000, "tench", "toilet tissue")
    assert info.preprocessing == PreprocessingSpec()


# Whichever runs


@pytest.fixture(scope="module")
def measured(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ModelInfo, Path]]:
    """What auto takes at a first start with the libraries that are installed, and the cache that it leaves."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("APERTURE_CACHE", str(cache))
        settings = ModelSettings(name="shapes", path=str(model_path), device="cpu", max_batch_size=2)
        yield create_engine(settings).info(), cache


def test_auto_serves_the_first_of_all_that_are_installed(measured: tuple[ModelInfo, Path]) -> None:
    info, cache = measured
    (path,) = cache.rglob("rows.json")
    rows = json.loads(path.read_text())["rows"]
    assert (info.engine, info.precision) == (rows[0]["choice"]["engine"], "fp32")
    # Each of these libraries computes what torch does.
    assert {row["choice"]["engine"] for row in rows if row["images_per_s"]} == {
        choice.engine for choice in automatic("cpu", None, ("fp32",))
    }


def test_a_second_start_imports_torch_only_if_torch_is_what_runs(
    measured: tuple[ModelInfo, Path], model_path: Path
) -> None:
    script = f"""
import sys
from deployments.engines import create_engine
from deployments.messages import ModelInfo
from deployments.settings import ModelSettings
settings = ModelSettings(name="shapes", path={str(model_path)!r}, device="cpu", max_batch_size=2)
print(create_engine(settings).info().engine, "torch" in sys.modules)
"""
    second = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    engine = measured[0].engine
    assert second.stdout == f"{engine} {engine == 'torch'}\n"


# The dummy


@pytest.mark.parametrize("label", ["red", "green", "blue"])
def test_the_dummy_separates_the_primary_colours(label: str) -> None:
    dummy = create_engine(ModelSettings(name="dummy", engine="dummy"))
    pixels = np.full((1, 224, 224, 3), 60, dtype=np.uint8)
    pixels[..., dummy.info().labels.index(label)] = 220
    assert dummy.info().labels[dummy.infer(pixels)[0].argmax()] == label


def test_the_dummy_answers_a_batch_as_it_answers_alone() -> None:
    dummy = create_engine(ModelSettings(name="dummy", engine="dummy"))
    pixels = np.random.default_rng(5).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    alone = np.concatenate([dummy.infer(pixels[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(dummy.infer(pixels), alone, rtol=0, atol=1e-5)


def test_the_dummy_takes_the_preprocessing_that_it_is_given() -> None:
    assert create_engine(ModelSettings(name="dummy", engine="dummy", preprocessing=SPEC)).info().preprocessing == SPEC
