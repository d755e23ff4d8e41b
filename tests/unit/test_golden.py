"""Golden images: which files of a folder they are, what is made of them, and what stands in where there are none."""

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deployments.engines.golden import MADE_UP_IMAGES, identity_of, made_up_pixels, pick_images, pixels_of
from deployments.imaging import preprocess
from deployments.settings import Limits, PreprocessingSpec
from examples.shape_pictures import draw_shape
from tests.unit.sentences import sentence_of

SPEC = PreprocessingSpec(resize_size=72, crop_size=64)


def folder_of(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "images"
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 80), (number, 0, 0)).save(folder / name, "PNG")
    return folder


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


# Which files


def test_images_are_found_in_subfolders_whatever_their_suffix(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "cat/1.jpeg", "cat/2", "dog/odd/3.WEBP", "4.upload")
    assert names(pick_images(folder, 10)) == ["4.upload", "1.jpeg", "2", "3.WEBP"]


def test_what_is_hidden_or_something_else_by_name_is_not_picked(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "1.png", ".DS_Store", ".git/2.png", "1.txt", "1.json", "1.xml", "labels.csv")
    assert names(pick_images(folder, 10)) == ["1.png"]


def test_more_than_are_wanted_are_picked_evenly(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *(f"{number}.png" for number in range(10)))
    assert names(pick_images(folder, 4)) == ["0.png", "3.png", "6.png", "9.png"]
    assert len(pick_images(folder, 10)) == 10


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    sentence = sentence_of(lambda: pick_images(tmp_path / "nowhere", 10))
    assert "nowhere' does not exist" in sentence


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    assert "has no image" in sentence_of(lambda: pick_images(folder_of(tmp_path, "labels.txt"), 10))


def test_the_identity_is_that_of_the_content(tmp_path: Path) -> None:
    files = pick_images(folder_of(tmp_path, "1.png", "2.png"), 10)
    before = identity_of(files)
    moved = [path.rename(path.with_suffix(".moved")) for path in files]
    assert identity_of(moved) == before
    assert identity_of(moved[:1]) != before
    Image.new("RGB", (80, 80)).save(moved[1], "PNG")
    assert identity_of(moved) != before


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    files = pick_images(folder_of(tmp_path, "1.png"), 10)
    files[0].unlink()
    assert "1.png' cannot be read: No such file" in sentence_of(lambda: identity_of(files))


# Their pixels


@pytest.mark.parametrize("fidelity", ["exact", "fast"])
def test_the_pixels_are_the_services_exact_ones_whatever_the_fidelity(tmp_path: Path, fidelity: str) -> None:
    # Large and a JPEG, which is what a fast decoder takes a short cut with.
    draw_shape("star", 1).resize((900, 700)).save(tmp_path / "large.jpg")
    spec = SPEC.model_copy(update={"fidelity": fidelity})
    expected = preprocess((tmp_path / "large.jpg").read_bytes(), SPEC, Limits())
    np.testing.assert_array_equal(pixels_of([tmp_path / "large.jpg"], spec), expected[None])


def test_what_is_no_image_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_of(tmp_path, "1.png", "2.png", "3.png")
    (folder / "2.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING, logger="ray.serve"):
        pixels = pixels_of(pick_images(folder, 10), SPEC)
    assert (pixels.shape, pixels.dtype) == ((2, 64, 64, 3), np.dtype("uint8"))
    assert pixels[:, 0, 0, 0].tolist() == [0, 2]
    assert "2.png is left out" in caplog.text


def test_files_of_which_none_is_an_image_are_refused(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"no image")
    assert "None of the files" in sentence_of(lambda: pixels_of([tmp_path / "1.png"], SPEC))


# Made up


def test_made_up_pictures_are_the_same_in_another_process() -> None:
    script = f"""
import hashlib
from deployments.engines.golden import made_up_pixels
from deployments.settings import PreprocessingSpec
print(hashlib.sha256(made_up_pixels(PreprocessingSpec(crop_size={SPEC.crop_size}))).hexdigest())
"""
    other = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=os.environ)
    assert other.stdout.strip() == hashlib.sha256(made_up_pixels(SPEC).tobytes()).hexdigest()


@pytest.mark.parametrize("side", [32, 224])
def test_made_up_pictures_are_all_different_and_none_is_flat(side: int) -> None:
    pixels = made_up_pixels(PreprocessingSpec(crop_size=side)).astype(float)
    assert pixels.shape == (MADE_UP_IMAGES, side, side, 3)
    assert pixels.std(axis=(1, 2)).min() > 10
    assert len({picture.tobytes() for picture in pixels}) == MADE_UP_IMAGES
    # Colours as well as shades: a swap of channels must show.
    assert np.abs(pixels[..., 0] - pixels[..., 2]).mean(axis=(1, 2)).min() > 10
    # Neither black nor white cuts off more than a little.
    assert ((pixels == 0) | (pixels == 255)).mean() < 0.05


def test_made_up_pictures_are_coarse_as_photographs_are() -> None:
    pixels = made_up_pixels(PreprocessingSpec(crop_size=64)).astype(float)
    between_neighbours = np.abs(np.diff(pixels, axis=1)).mean()
    between_far_apart = np.abs(pixels[:, :32] - pixels[:, 32:]).mean()
    assert between_neighbours < between_far_apart / 3
