"""Which part of an image the model saw: it agrees with the pixels that are kept, however the file is turned."""

import io
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image

from deployments.imaging import decode, preprocess
from deployments.seen_area import EXIF, Area, seen_area, upright_size
from deployments.settings import Limits, PreprocessingSpec

SPEC = PreprocessingSpec(resize_size=64, crop_size=48)


def saved(picture: Image.Image, image_format: str, orientation: int | None = None) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    # Of TIFF, the orientation is a tag like any other.
    picture.save(buffer, image_format, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_image(image_format: str, orientation: int) -> None:
    encoded = saved(Image.new("RGB", (90, 60), "white"), image_format, orientation)
    assert upright_size(encoded) == decode(encoded, Limits()).size


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_without_an_orientation_the_size_is_that_of_the_file(image_format: str) -> None:
    assert upright_size(saved(Image.new("RGB", (90, 60)), image_format)) == (90, 60)


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (64, 64), (301, 100), (48, 500)])
def test_the_area_is_what_is_left_of_the_image(size: tuple[int, int]) -> None:
    """Colours that tell the place: red goes with the columns, green with the rows."""
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    pixels = np.stack([across, down, np.zeros_like(across)], axis=2).round().astype(np.uint8)
    kept = preprocess(pixels, SPEC, Limits()).astype(float) / 255
    area = seen_area(*size, SPEC)
    half_a_pixel = 0.5 / 48
    for start, length, ends in (
        (area.left, area.width, (kept[:, 0, 0].mean(), kept[:, -1, 0].mean())),
        (area.top, area.height, (kept[0, :, 1].mean(), kept[-1, :, 1].mean())),
    ):
        first, last = start + length * half_a_pixel, start + length * (1 - half_a_pixel)
        assert ends == pytest.approx((first, last), abs=0.01)


def test_where_the_model_sees_a_border_the_area_reaches_beyond_the_image() -> None:
    assert seen_area(32, 64, PreprocessingSpec(resize_size=32, crop_size=48)) == Area(0.125, -0.25, 0.75, 1.5)


BROKEN = {
    "nothing": b"",
    "no image": b"hello" * 10,
    "a JPEG of segments without end": b"\xff\xd8\xff" + b"\xe0\x00\x02" * 10_000,
    "a directory that is far away": b"II*\0" + struct.pack("<I", 2**32 - 1),
    "a directory that is the header": b"II*\0" + struct.pack("<I", 0),
    "a directory of tags without end": b"MM\0*" + struct.pack(">IH", 8, 65_535) + b"\x01\x00" * 6 * 1000,
    "a PNG of chunks without end": b"\x89PNG\r\n\x1a\n" + bytes(12) * 10_000,
    "a cut EXIF": b"\xff\xd8\xff\xe1\xff\xff" + EXIF + b"II*\0\x08",
    "a RIFF of no bytes": b"RIFF\0\0\0\0WEBP",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_broken_header_says_nothing(data: bytes) -> None:
    assert upright_size(data) is None


def test_whatever_the_bytes_are_something_is_said_or_nothing() -> None:
    rng = np.random.default_rng(5)
    whole = [saved(Image.new("RGB", (40, 30)), name, 6) for name in ("JPEG", "PNG", "WEBP", "TIFF")]
    for number in range(2000):
        data = bytearray(whole[number % len(whole)])
        for _ in range(3):
            data[rng.integers(len(data))] = rng.integers(256)
        size = upright_size(bytes(data[: rng.integers(len(data) + 1)]))
        assert size is None or min(size) > 0
