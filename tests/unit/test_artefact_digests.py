"""Where artefacts are found again: by all that decides what the model computes, and by nothing else."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from deployments.engines.artefacts import Artefacts
from deployments.repository import write_manifest
from deployments.settings import ModelSettings
from tests.unit.checkpoints import LABELS
from tests.unit.kinds import TINY_ARCHITECTURE, TINY_SPEC, settings

pytestmark = pytest.mark.usefixtures("own_cache")
WEIGHTS = "model.safetensors"


def describe(directory: Path, **changes: Any) -> None:
    content: dict[str, Any] = {"architecture": TINY_ARCHITECTURE, "labels": LABELS, "preprocessing": TINY_SPEC}
    write_manifest(directory, weights=WEIGHTS, **{**content, **changes})


def digest_of(tmp_path: Path, weights: bytes = b"weights", **changes: Any) -> str:
    """Of a model directory. Nothing of it is loaded."""
    directory = tmp_path / "model" / "1"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / WEIGHTS).write_bytes(weights)
    describe(directory, **changes)
    return Artefacts(settings(tmp_path / "model")).digest


CHANGES: dict[str, dict[str, Any]] = {
    "weights": {"weights": b"other weights"},
    "labels": {"labels": LABELS[:4]},
    "order of the labels": {"labels": LABELS[::-1]},
    "architecture": {"architecture": "resnet34"},
    "size of the input": {"preprocessing": TINY_SPEC.model_copy(update={"crop_size": 30})},
    "normalisation": {"preprocessing": TINY_SPEC.model_copy(update={"mean": (0.1, 0.2, 0.3)})},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_another_content_of_a_model_directory_is_another_digest(tmp_path: Path, change: dict[str, Any]) -> None:
    assert digest_of(tmp_path) == digest_of(tmp_path)
    assert digest_of(tmp_path, **change) != digest_of(tmp_path)


def test_another_version_is_another_digest(tmp_path: Path) -> None:
    before = digest_of(tmp_path)
    shutil.copytree(tmp_path / "model" / "1", tmp_path / "model" / "2")
    assert Artefacts(settings(tmp_path / "model")).digest != before


SAME_CONTENT: dict[str, dict[str, Any]] = {
    "engine": {"engine": "torch"},
    "precision": {"precision": "int8"},
    "threads": {"threads": 7},
    "batch size": {"max_batch_size": 5},
    "tolerance": {"tolerance": {"top1_agreement": 0.9}},
    "fidelity": {"fidelity": "fast"},
}


@pytest.mark.parametrize("change", SAME_CONTENT.values(), ids=SAME_CONTENT)
def test_what_does_not_change_the_model_does_not_change_the_digest(tiny_path: Path, change: dict[str, Any]) -> None:
    assert Artefacts(settings(tiny_path, **change)).digest == Artefacts(settings(tiny_path)).digest


def test_how_pixels_are_decoded_does_not_change_the_digest(tmp_path: Path) -> None:
    fast = TINY_SPEC.model_copy(update={"fidelity": "fast"})
    assert digest_of(tmp_path) == digest_of(tmp_path, preprocessing=fast)


def settings_of_weights(tmp_path: Path, **change: Any) -> ModelSettings:
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    (tmp_path / "other_labels.txt").write_text("\n".join(LABELS[::-1]))
    (tmp_path / "mine.pth").write_bytes(b"weights")
    content = {"architecture": "resnet18", "weights": str(tmp_path / "mine.pth")}
    content["labels"] = str(tmp_path / "labels.txt")
    return ModelSettings.model_validate({"name": "mine", "device": "cpu", **content, **change})


@pytest.mark.parametrize("change", ["architecture", "weights", "labels", "preprocessing"])
def test_another_content_of_a_weights_file_is_another_digest(tmp_path: Path, change: str) -> None:
    (tmp_path / "other.pth").write_bytes(b"other weights")
    values: dict[str, Any] = {
        "architecture": "resnet34",
        "weights": str(tmp_path / "other.pth"),
        "labels": str(tmp_path / "other_labels.txt"),
        "preprocessing": {"crop_size": 30},
    }
    before = Artefacts(settings_of_weights(tmp_path)).digest
    assert Artefacts(settings_of_weights(tmp_path, **{change: values[change]})).digest != before


def test_a_weights_file_that_moves_keeps_its_digest(tmp_path: Path) -> None:
    before = Artefacts(settings_of_weights(tmp_path)).digest
    (tmp_path / "mine.pth").rename(tmp_path / "moved.pth")
    assert Artefacts(settings_of_weights(tmp_path, weights=str(tmp_path / "moved.pth"))).digest == before
