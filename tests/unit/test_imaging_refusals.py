"""What is refused before its pixels are decoded: other formats, too many pixels, too many frames, wrong arrays."""

import ctypes
import gc
import io
import resource
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.image_files import (
    PNG_RGB,
    TIFF_LONG,
    bmp_header,
    encode,
    gif,
    jpeg_header,
    noise,
    png_chunk,
    tiff,
    webp,
    webp_of_one_colour,
)
from deployments.errors import AnimatedImage, ImageRefused, TooManyPixels, UnsupportedFormat, UnsupportedPixels
from deployments.imaging import decode, open_checked, preprocess
from deployments.settings import Limits, PreprocessingSpec
from tests.unit.pictures import flat, rgb

RED, BLUE = (255, 0, 0), (0, 0, 255)
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTE_COUNTS, COMPRESSION = 322, 323, 324, 325, 259
PNG_BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, PNG_RGB, 0, 0, 0))
    + png_chunk(b"IDAT", b"\x78\x9c")
)
TILES = {
    TILE_WIDTH: (TIFF_LONG, [20_000]),
    TILE_LENGTH: (TIFF_LONG, [20_000]),
    TILE_OFFSETS: (TIFF_LONG, [8]),
    TILE_BYTE_COUNTS: (TIFF_LONG, [8]),
    COMPRESSION: (TIFF_LONG, [8]),
}
BOMBS = {
    "PNG": PNG_BOMB,
    "JPEG": jpeg_header(20_000, 20_000),
    "GIF by its screen": gif((20_000, 20_000), (1, 1)),
    "GIF by its frame": gif((1, 1), (20_000, 20_000)),
    "GIF whose frame is filled when it is opened": gif((1, 1), (20_000, 20_000), disposal=2),
    "BMP": bmp_header(20_000, 20_000),
    "TIFF": tiff(20_000, 20_000, [8], 1, bytes(8)),
    "TIFF by its tile": tiff(16, 16, [8], 1, bytes(8), TILES),
    "WebP, VP8": webp(b"VP8 ", b"\x30\1\0\x9d\1\x2a" + struct.pack("<HH", 16_383, 16_383)),
    "WebP, VP8L": webp(b"VP8L", b"\x2f" + struct.pack("<I", 16_383 | 16_383 << 14) + bytes(8)),
    "WebP, VP8L, a whole file of 28 bytes": webp_of_one_colour(10_000, 10_000),
    "WebP, VP8X": webp(b"VP8X", bytes(4) + (19_999).to_bytes(3, "little") * 2),
    # Of these, Pillow's own check would make nothing: it lets up to 178 million pixels pass.
    "WebP, VP8, over our limit only": webp(b"VP8 ", b"\x30\1\0\x9d\1\x2a" + struct.pack("<HH", 8_000, 8_000)),
    "WebP, VP8X, over our limit only": webp(b"VP8X", bytes(4) + b"\x6f\x11\1" + b"\xe7\3\0"),  # 70,000 x 1,000
}


@pytest.fixture(params=["exact", "fast"])
def spec(request: pytest.FixtureRequest) -> PreprocessingSpec:
    """What is refused does not depend on it."""
    return PreprocessingSpec(fidelity=request.param)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Whatever would take 64 MiB more than there are now fails with MemoryError."""
    if sys.platform != "linux":
        pytest.skip("Only Linux can limit a process's memory to a little more than it has.")
    # What earlier tests left free on the heap could be had again without asking the system for it.
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 64 * 2**20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"hello, world", id="text"),
        pytest.param(bytes(1000), id="zeros"),
        pytest.param(b"<!doctype html><html></html>", id="HTML"),
        pytest.param(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", id="PDF"),
        pytest.param(b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>', id="SVG"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n%%EndComments\n", id="EPS"),
        pytest.param(encode(flat("RGB", RED), "ICO"), id="ICO"),
        pytest.param(encode(flat("RGB", RED), "ICNS"), id="ICNS"),
        pytest.param(encode(flat("RGB", RED), "PPM"), id="PPM"),
        pytest.param(encode(flat("RGB", RED), "TGA"), id="TGA"),
        pytest.param(encode(flat("RGB", RED), "JPEG2000"), id="JPEG 2000"),
        pytest.param(encode(flat("RGB", RED), "AVIF"), id="AVIF"),
        pytest.param(b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(16), id="WAVE, in the container of WebP"),
    ],
)
def test_other_formats_are_refused(data: bytes, spec: PreprocessingSpec) -> None:
    with pytest.raises(UnsupportedFormat):
        preprocess(data, spec, Limits())


@pytest.mark.usefixtures("little_memory")
def test_little_memory_is_too_little_for_a_bomb() -> None:
    with pytest.raises(MemoryError):
        bytes(10_000 * 10_000)


def test_webp_of_28_bytes_is_a_picture() -> None:
    data = webp_of_one_colour(5, 3)
    assert (len(data), decode(data, Limits()).size) == (28, (5, 3))


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
def test_too_many_pixels_are_refused_before_they_are_allocated(data: bytes, spec: PreprocessingSpec) -> None:
    with pytest.raises(TooManyPixels):
        preprocess(data, spec, Limits())


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_max_pixels_are_allowed_and_one_more_is_not(image_format: str) -> None:
    data = encode(noise(30, 20), image_format)
    assert decode(data, Limits(max_pixels=600)).size == (30, 20)
    with pytest.raises(TooManyPixels, match="30 x 20 = 600"):
        decode(data, Limits(max_pixels=599))


def test_more_pixels_than_pillow_allows_are_a_setting() -> None:
    assert open_checked(PNG_BOMB, Limits(max_pixels=400_000_000)).size == (20_000, 20_000)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("size", [(1, 1000), (1000, 1)], ids=["a column", "a row"])
@pytest.mark.parametrize("as_array", [False, True], ids=["file", "array"])
def test_picture_that_would_be_too_large_once_resized_is_refused(
    size: tuple[int, int], as_array: bool, spec: PreprocessingSpec
) -> None:
    picture = noise(*size)
    with pytest.raises(TooManyPixels, match="= 65536000 pixels"):
        preprocess(np.asarray(picture) if as_array else encode(picture, "PNG"), spec, Limits())


def test_array_of_too_many_pixels_is_refused() -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    with pytest.raises(TooManyPixels, match="30 x 20 = 600"):
        preprocess(pixels, PreprocessingSpec(resize_size=8, crop_size=8), Limits(max_pixels=599))


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.zeros((8, 8, 3), np.float32), id="float"),
        pytest.param(np.zeros((8, 8, 3), np.int8), id="signed"),
        pytest.param(np.zeros((8, 8, 3), np.uint16), id="16-bit"),
        pytest.param(np.zeros((8, 8, 3), np.bool_), id="bool"),
        pytest.param(np.zeros((8, 8), np.uint8), id="two axes"),
        pytest.param(np.zeros((1, 8, 8, 3), np.uint8), id="a batch"),
        pytest.param(np.zeros((3, 8, 8), np.uint8), id="channels first"),
        pytest.param(np.zeros((8, 8, 1), np.uint8), id="one channel"),
        pytest.param(np.zeros((8, 8, 4), np.uint8), id="four channels"),
        pytest.param(np.zeros((0, 8, 3), np.uint8), id="no rows"),
        pytest.param(np.zeros((8, 0, 3), np.uint8), id="no columns"),
        pytest.param(np.uint8(1), id="no axes"),
    ],
)
def test_array_of_other_pixels_is_refused(pixels: NDArray[Any], spec: PreprocessingSpec) -> None:
    with pytest.raises(UnsupportedPixels):
        preprocess(pixels, spec, Limits())


ANIMATED: dict[str, tuple[str, dict[str, Any]]] = {
    "GIF": ("GIF", {}),
    "WebP": ("WEBP", {"lossless": True}),
    "APNG": ("PNG", {}),
    "TIFF of two pages": ("TIFF", {}),
}
STILL = ANIMATED | {"JPEG": ("JPEG", {"quality": 100, "subsampling": 0}), "BMP": ("BMP", {})}


def animation(image_format: str, options: dict[str, Any]) -> bytes:
    return encode(flat("RGB", RED), image_format, save_all=True, append_images=[flat("RGB", BLUE)], **options)


@pytest.mark.parametrize("file", ANIMATED.values(), ids=ANIMATED.keys())
def test_first_frame_of_an_animation_is_the_picture(file: tuple[str, dict[str, Any]]) -> None:
    result = decode(animation(*file), Limits(animated="first_frame"))
    np.testing.assert_array_equal(np.asarray(result), rgb(*[[RED] * 16] * 16))


@pytest.mark.parametrize("file", ANIMATED.values(), ids=ANIMATED.keys())
def test_animation_is_refused_where_that_is_set(file: tuple[str, dict[str, Any]]) -> None:
    with pytest.raises(AnimatedImage):
        decode(animation(*file), Limits(animated="refuse"))


@pytest.mark.parametrize("file", STILL.values(), ids=STILL.keys())
def test_still_passes_where_animations_are_refused(file: tuple[str, dict[str, Any]]) -> None:
    image_format, options = file
    result = decode(encode(flat("RGB", RED), image_format, **options), Limits(animated="refuse"))
    # JPEG stores red as Y = 76, Cb = 85, Cr = 255, from which it comes back as (254, 0, 0).
    np.testing.assert_allclose(np.asarray(result, np.int16), rgb(*[[RED] * 16] * 16), atol=1)


def test_photograph_with_a_preview_passes_where_animations_are_refused() -> None:
    photograph, preview = noise(32, 32), noise(16, 16)
    data = encode(photograph, "MPO", save_all=True, append_images=[preview])
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == "MPO"
    result = decode(data, Limits(animated="refuse"))
    np.testing.assert_array_equal(np.asarray(result), np.asarray(decode(encode(photograph, "JPEG"), Limits())))


def test_a_jpeg_with_hundreds_of_scans_is_refused_before_it_is_decoded(spec: PreprocessingSpec) -> None:
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 90).save(buffer, "JPEG", progressive=True)
    encoded = buffer.getvalue()
    # One more AC scan of the last component, with an end-of-band run that covers every block.
    last_scan = encoded[encoded.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageRefused, match="more than 100 scans"):
        preprocess(encoded[:-2] + last_scan * 200 + encoded[-2:], spec, Limits())
    assert preprocess(encoded, spec, Limits()).shape == (spec.crop_size, spec.crop_size, 3)
