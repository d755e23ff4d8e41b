"""Whatever becomes of a file on its way, it is a picture or one of our errors; half a file is never a picture."""

from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from benchmarks.image_files import PNG_PALETTE, PNG_RGB, encode, jpeg_header, noise, png
from deployments.errors import ApertureError, CorruptImage, UnsupportedFormat
from deployments.imaging import decode, preprocess
from deployments.settings import Limits, PreprocessingSpec

# Pillow warns of some of what is wrong; here it is to go on, as it does where warnings are not errors.
pytestmark = pytest.mark.filterwarnings("ignore")

SPEC = PreprocessingSpec(resize_size=32, crop_size=24)
LIMITS = Limits(max_pixels=1_000_000)
# The longest of the magic numbers, that of WebP, with the name of its first chunk.
MAGIC = 16
FILES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "JPEG": ("RGB", "JPEG", {}),
    "JPEG, progressive": ("RGB", "JPEG", {"progressive": True}),
    "JPEG, CMYK": ("CMYK", "JPEG", {}),
    "PNG": ("RGB", "PNG", {}),
    "PNG, palette": ("P", "PNG", {"transparency": 1}),
    "WebP": ("RGB", "WEBP", {}),
    "WebP, lossless": ("RGB", "WEBP", {"lossless": True}),
    "WebP, alpha": ("RGBA", "WEBP", {}),
    "GIF": ("P", "GIF", {"transparency": 1}),
    "BMP": ("RGB", "BMP", {}),
    "TIFF": ("RGB", "TIFF", {}),
    "TIFF, LZW": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "TIFF, JPEG": ("RGB", "TIFF", {"compression": "jpeg"}),
}
ANIMATED = ("GIF", "WEBP", "PNG", "TIFF")
files = pytest.mark.parametrize("file", FILES.values(), ids=FILES.keys())


def encoded(file: tuple[str, str, dict[str, Any]]) -> bytes:
    mode, image_format, options = file
    return encode(noise(40, 30, mode), image_format, **options)


@files
def test_file_cut_in_its_first_60_percent_is_corrupt(file: tuple[str, str, dict[str, Any]]) -> None:
    data = encoded(file)
    for cut in np.linspace(MAGIC, len(data) * 6 // 10, 40, dtype=int):
        with pytest.raises(CorruptImage):
            decode(data[:cut], LIMITS)


@files
def test_file_cut_in_its_magic_number_is_corrupt_or_unknown(file: tuple[str, str, dict[str, Any]]) -> None:
    data = encoded(file)
    for cut in range(MAGIC):
        with pytest.raises((CorruptImage, UnsupportedFormat)):
            decode(data[:cut], LIMITS)


@files
def test_file_cut_near_its_end_is_a_picture_or_corrupt(file: tuple[str, str, dict[str, Any]]) -> None:
    data = encoded(file)
    for cut in range(max(MAGIC, len(data) - 40), len(data)):
        with suppress(CorruptImage):
            assert decode(data[:cut], LIMITS).size == (40, 30)


@files
def test_flipped_bytes_give_a_picture_or_one_of_our_errors(file: tuple[str, str, dict[str, Any]]) -> None:
    generator = np.random.default_rng(0)
    data = np.frombuffer(encoded(file), np.uint8)
    for attempt in range(60):
        # Half of the flips fall into the header, which is small and says most.
        end = min(len(data), 100) if attempt % 2 else len(data)
        flipped = data.copy()
        flipped[generator.integers(0, end, 1 + attempt % 4)] = generator.integers(0, 256)
        with suppress(ApertureError):
            assert preprocess(flipped.tobytes(), SPEC, LIMITS).shape == (24, 24, 3)


@pytest.mark.parametrize("image_format", ANIMATED)
def test_cut_animation_gives_a_picture_or_one_of_our_errors(image_format: str) -> None:
    data = encode(noise(12, 9), image_format, save_all=True, append_images=[noise(12, 9, seed=1)])
    for cut in np.linspace(0, len(data), 100, dtype=int):
        with suppress(ApertureError):
            assert decode(data[:cut], Limits(animated="refuse")).size == (12, 9)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(jpeg_header(8, 8), id="JPEG without data"),
        pytest.param(png(2, 2, 8, PNG_RGB, b"\1\2\3\4\5\6"), id="PNG with half of its rows"),
        pytest.param(png(1, 1, 8, PNG_PALETTE, b"\1"), id="PNG without its palette"),
        pytest.param(png(1, 1, 7, PNG_RGB, b"\1\2\3"), id="PNG of a depth that does not exist"),
        pytest.param(b"BM, as some text begins", id="text that begins like a BMP"),
    ],
)
def test_file_that_breaks_its_format_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptImage):
        decode(data, LIMITS)


def test_message_of_a_corrupt_file_names_its_format() -> None:
    data = encode(noise(40, 30), "JPEG")
    with pytest.raises(CorruptImage, match="The JPEG image is truncated or corrupt"):
        decode(data[: len(data) // 2], LIMITS)
