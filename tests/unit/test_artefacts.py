"""What is derived from a model: when it is built anew, and that a second start finds it without torch."""

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms import Compose, Normalize, ToTensor

from deployments import weight_files
from deployments.engines.artefacts import CALIBRATION_IMAGES, MIN_CALIBRATION_IMAGES, Artefacts
from deployments.engines.golden import MADE_UP_IMAGES, made_up_pixels
from deployments.repository import write_manifest
from deployments.weight_files import sha256_of
from examples.shape_pictures import draw_shape
from tests.unit.checkpoints import LABELS, cache, pretrained
from tests.unit.kinds import TINY_ARCHITECTURE, TINY_SPEC, settings, tiny_network
from tests.unit.sentences import sentence_of

pytestmark = pytest.mark.usefixtures("own_cache")
WEIGHTS = "model.safetensors"


# The facts


def test_a_second_start_knows_torchvisions_model_without_torch(torch_home: Path) -> None:
    cache(torch_home, TINY_ARCHITECTURE, torchvision.models.get_model(TINY_ARCHITECTURE, weights=None).state_dict())
    script = f"""
import sys
from deployments.engines.artefacts import Artefacts
from deployments.settings import ModelSettings
model = ModelSettings(name="big", architecture={TINY_ARCHITECTURE!r}, weights="IMAGENET1K_V1")
facts = Artefacts(model).facts
print(len(facts.labels), facts.labels[0], facts.preprocessing.crop_size, "torch" in sys.modules)
"""
    starts = [subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True) for _ in "12"]
    assert [start.stdout for start in starts] == ["1000 tench 224 True\n", "1000 tench 224 False\n"]


def test_the_facts_of_a_model_directory_are_those_of_its_manifest(tiny_path: Path) -> None:
    facts = Artefacts(settings(tiny_path)).facts
    assert (facts.version, facts.architecture, facts.labels) == (3, TINY_ARCHITECTURE, LABELS)
    assert facts.preprocessing == TINY_SPEC


def test_a_model_is_described_with_the_fidelity_of_the_settings(tiny_path: Path) -> None:
    info = Artefacts(settings(tiny_path, fidelity="fast")).describe("torch", "bf16", "cpu")
    assert (info.name, info.version, info.engine, info.precision, info.device) == ("shapes", 3, "torch", "bf16", "cpu")
    assert info.preprocessing == TINY_SPEC.model_copy(update={"fidelity": "fast"})


def test_a_version_that_appears_during_the_start_is_not_mixed_with_the_one_before(
    tiny_path: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_path, tmp_path / "model")
    before, artefacts = Artefacts(settings(tiny_path)), Artefacts(settings(tmp_path / "model"))
    (tmp_path / "model" / "4").mkdir()
    (tmp_path / "model" / "4" / WEIGHTS).write_bytes(b"half a copy")
    np.testing.assert_array_equal(artefacts.golden.logits, before.golden.logits)
    assert artefacts.facts.version == 3


def test_the_version_that_is_asked_for_is_loaded_and_not_the_highest(tiny_path: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_path / "3", tmp_path / "model" / "3")
    shutil.copytree(tiny_path / "3", tmp_path / "model" / "12")
    assert Artefacts(settings(tmp_path / "model"), 3).facts.version == 3
    assert Artefacts(settings(tmp_path / "model")).facts.version == 12


def test_weights_are_hashed_once_for_a_load(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []

    def counted(path: Path) -> str:
        hashed.append(path)
        return sha256_of(path)

    monkeypatch.setattr(weight_files, "sha256_of", counted)
    artefacts = Artefacts(settings(tiny_path))
    assert artefacts.network is not None
    assert artefacts.golden is not None
    assert hashed == [tiny_path / "3" / WEIGHTS]


def test_a_model_without_a_path_has_the_one_version_1(torch_home: Path) -> None:
    cache(torch_home, TINY_ARCHITECTURE, torchvision.models.get_model(TINY_ARCHITECTURE, weights=None).state_dict())
    assert Artefacts(pretrained(TINY_ARCHITECTURE), 1).facts.version == 1
    assert sentence_of(lambda: Artefacts(pretrained(TINY_ARCHITECTURE), 2)) == (
        "Model 'big' has no path and so the one version 1, not version 2."
    )


# The reference


def test_the_reference_is_torchvisions_own_pipeline(tiny_path: Path) -> None:
    golden = Artefacts(settings(tiny_path)).golden
    transform = Compose([ToTensor(), Normalize(TINY_SPEC.mean, TINY_SPEC.std)])
    with torch.inference_mode():
        expected = tiny_network()(torch.stack([transform(image) for image in golden.pixels])).numpy()
    np.testing.assert_allclose(golden.logits, expected, rtol=0, atol=1e-4)
    # Without this, the comparison would hold for any arithmetic, and the guard for any engine.
    assert expected.std(axis=0).min() > 0.1


def test_without_golden_images_they_are_made_up(tiny_path: Path) -> None:
    golden = Artefacts(settings(tiny_path)).golden
    assert not golden.are_photographs
    assert len(golden.logits) == MADE_UP_IMAGES
    np.testing.assert_array_equal(golden.pixels, made_up_pixels(TINY_SPEC))


def test_golden_images_beside_the_weights_are_taken_and_those_of_the_settings_before_them(
    tiny_path: Path, tmp_path: Path, photographs: Path
) -> None:
    shutil.copytree(tiny_path, tmp_path / "model")
    (tmp_path / "model" / "3" / "golden").mkdir()
    draw_shape("heart", 7).save(tmp_path / "model" / "3" / "golden" / "heart.png")
    beside = Artefacts(settings(tmp_path / "model")).golden
    assert (len(beside.pixels), beside.are_photographs) == (1, True)
    stated = Artefacts(settings(tmp_path / "model", golden=str(photographs))).golden
    assert (len(stated.pixels), stated.are_photographs) == (12, True)
    assert stated.identity != beside.identity


def test_the_reference_is_computed_once(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Artefacts(settings(tiny_path)).golden
    monkeypatch.setattr(Artefacts, "_reference", never)
    second = Artefacts(settings(tiny_path)).golden
    np.testing.assert_array_equal(second.logits, first.logits)
    assert second.identity == first.identity


def test_a_reference_that_cannot_be_read_is_computed_again(
    tiny_path: Path, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Artefacts(settings(tiny_path)).golden
    (path,) = own_cache.rglob("golden.npz")
    path.write_bytes(path.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING, logger="ray.serve"):
        again = Artefacts(settings(tiny_path)).golden
    np.testing.assert_array_equal(again.logits, first.logits)
    assert "cannot be read and is built again" in caplog.text


def test_broken_weights_are_one_sentence_and_no_reference(tiny_path: Path, tmp_path: Path, own_cache: Path) -> None:
    state = load_file(tiny_path / "3" / WEIGHTS)
    state["classifier.1.bias"][0] = float("nan")
    (tmp_path / "model" / "1").mkdir(parents=True)
    save_file(state, tmp_path / "model" / "1" / WEIGHTS)
    write_manifest(
        tmp_path / "model" / "1",
        architecture=TINY_ARCHITECTURE,
        weights=WEIGHTS,
        labels=LABELS,
        preprocessing=TINY_SPEC,
    )
    sentence = sentence_of(lambda: Artefacts(settings(tmp_path / "model")).golden)
    assert "not finite" in sentence
    assert list(own_cache.rglob("golden*")) == []


def never(*_: object) -> None:
    raise AssertionError("It is there already.")


# Calibration


@pytest.fixture
def calibration(tmp_path: Path) -> Callable[[int], str]:
    def folder(count: int) -> str:
        (tmp_path / "calibration").mkdir()
        picture = (40 * np.ones((40, 40, 3))).astype(np.uint8)
        for number in range(count):
            picture[0, 0] = number % 250, number // 250, 0
            Image.fromarray(picture).save(tmp_path / "calibration" / f"{number}.bmp")
        return str(tmp_path / "calibration")

    return folder


def test_calibration_images_are_read_up_to_what_is_needed(tiny_path: Path, calibration: Callable[[int], str]) -> None:
    pixels = Artefacts(settings(tiny_path, calibration=calibration(CALIBRATION_IMAGES + 20))).calibration_pixels()
    assert (pixels.shape, pixels.dtype) == ((CALIBRATION_IMAGES, 32, 32, 3), np.dtype("uint8"))


def test_too_few_calibration_images_are_refused_with_their_count(
    tiny_path: Path, calibration: Callable[[int], str]
) -> None:
    artefacts = Artefacts(settings(tiny_path, calibration=calibration(MIN_CALIBRATION_IMAGES - 1)))
    sentence = sentence_of(artefacts.calibration_pixels)
    for words in (f"at least {MIN_CALIBRATION_IMAGES} images", "'shapes' has 199", "set calibration to a folder"):
        assert words in sentence


def test_golden_images_calibrate_where_no_others_are_stated(tiny_path: Path, calibration: Callable[[int], str]) -> None:
    artefacts = Artefacts(settings(tiny_path, golden=calibration(MIN_CALIBRATION_IMAGES)))
    np.testing.assert_array_equal(artefacts.calibration_pixels(), artefacts.golden.pixels)


def test_made_up_pictures_calibrate_nothing(tiny_path: Path) -> None:
    assert "has 0;" in sentence_of(Artefacts(settings(tiny_path)).calibration_pixels)


def test_the_identity_of_the_calibration_images_is_that_of_their_content(
    tiny_path: Path, calibration: Callable[[int], str]
) -> None:
    folder = calibration(3)
    identity = Artefacts(settings(tiny_path, calibration=folder)).calibration_identity
    assert Artefacts(settings(tiny_path, calibration=folder)).calibration_identity == identity
    Image.new("RGB", (40, 40)).save(Path(folder) / "4.bmp")
    assert Artefacts(settings(tiny_path, calibration=folder)).calibration_identity != identity
