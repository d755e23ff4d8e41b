"""Pictures that were taken with the camera turned are upright before anything else is done with them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.image_files import TIFF_SHORT, encode, noise, tiff
from deployments.imaging import decode, preprocess
from deployments.messages import Pixels
from deployments.settings import Limits, PreprocessingSpec
from tests.unit.pictures import rgb

ORIENTATION = 274


def decoded(data: bytes) -> Pixels:
    return np.asarray(decode(data, Limits()))


def as_is(pixels: Pixels) -> Pixels:
    return pixels


# The place of the first row and the first column, by Exif 2.32, 4.6.4.
ORIENTATIONS: dict[int, tuple[str, Callable[[Pixels], Pixels]]] = {
    1: ("top, left", as_is),
    2: ("top, right", lambda pixels: pixels[:, ::-1]),
    3: ("bottom, right", lambda pixels: pixels[::-1, ::-1]),
    4: ("bottom, left", lambda pixels: pixels[::-1]),
    5: ("left, top", lambda pixels: pixels.transpose(1, 0, 2)),
    6: ("right, top", lambda pixels: np.rot90(pixels, -1)),
    7: ("right, bottom", lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2)),
    8: ("left, bottom", lambda pixels: np.rot90(pixels, 1)),
}
ROTATABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("JPEG", {"quality": 90}),
    "PNG": ("PNG", {}),
    "WebP": ("WEBP", {"lossless": True}),
    "TIFF": ("TIFF", {}),
    "TIFF, LZW": ("TIFF", {"compression": "tiff_lzw"}),
}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


@pytest.mark.parametrize("file", ROTATABLE.values(), ids=ROTATABLE.keys())
@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=[name for name, _ in ORIENTATIONS.values()])
def test_picture_is_turned_as_its_exif_says(orientation: int, file: tuple[str, dict[str, Any]]) -> None:
    image_format, options = file
    picture = noise(5, 3)
    unturned = decoded(encode(picture, image_format, **options))
    turned = decoded(encode(picture, image_format, exif=exif(orientation), **options))
    np.testing.assert_array_equal(turned, ORIENTATIONS[orientation][1](unturned))


def test_16_bit_picture_is_turned_as_its_exif_says() -> None:
    data = tiff(2, 1, [16], 1, b"\0\1\0\2", {ORIENTATION: (TIFF_SHORT, [6])})
    np.testing.assert_array_equal(decoded(data), rgb([(1, 1, 1)], [(2, 2, 2)]))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_picture_in_other_pixels_is_turned_as_its_exif_says(mode: str) -> None:
    picture = noise(5, 3, mode)
    turned = decoded(encode(picture, "PNG", exif=exif(6)))
    np.testing.assert_array_equal(turned, np.rot90(decoded(encode(picture, "PNG")), -1))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientation_that_means_nothing_turns_nothing(orientation: int) -> None:
    picture = noise(5, 3)
    result = decoded(encode(picture, "PNG", exif=exif(orientation)))
    np.testing.assert_array_equal(result, np.asarray(picture))


# What is wrong with the metadata is warned of in the log.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize(
    "metadata",
    [
        b"Exif\0\0not a TIFF header",
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x05\1\x12",
    ],
    ids=["no header", "nothing", "a list beyond the end", "a list cut short"],
)
def test_exif_that_cannot_be_read_turns_nothing(metadata: bytes, image_format: str) -> None:
    options = {"lossless": True} if image_format == "WEBP" else {}
    picture = noise(5, 3)
    expected = decoded(encode(picture, image_format, **options))
    np.testing.assert_array_equal(decoded(encode(picture, image_format, exif=metadata, **options)), expected)


def test_picture_is_turned_before_it_is_resized() -> None:
    spec = PreprocessingSpec(resize_size=32, crop_size=24)
    picture = noise(90, 50)
    upright = np.rot90(np.asarray(picture), -1)
    result = preprocess(encode(picture, "PNG", exif=exif(6)), spec, Limits())
    np.testing.assert_array_equal(result, preprocess(upright, spec, Limits()))
