"""What is told to be short from its header is short, and a photograph of the usual size is told to be."""

import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.hostile_files import frames, in_jpeg, in_png, jpeg_frame, png_header, png_of, segment
from benchmarks.image_files import encode, noise, png_chunk
from deployments.decode_cost import SHORT_BYTES, SHORT_PIXELS, count_scans, is_short
from deployments.imaging import preprocess
from deployments.settings import Limits, PreprocessingSpec
from tests.unit.hostile import SLOW

SPEC = PreprocessingSpec()
JPEG, PNG = encode(noise(500, 375), "JPEG"), encode(noise(300, 200), "PNG")
COMMENT = 0xFE
FLAT = Image.new("RGBA", (1390, 1390), (1, 2, 3, 4))
SHORT = {
    "JPEG": JPEG,
    "JPEG of a megapixel": encode(noise(1200, 900), "JPEG", quality=30),
    "JPEG, progressive": encode(noise(400, 300), "JPEG", progressive=True, quality=60),
    "JPEG, grey": encode(noise(500, 375, "L"), "JPEG"),
    "JPEG with some metadata": in_jpeg(segment(COMMENT, bytes(3000)) * 4),
    "PNG": PNG,
    "PNG, alpha": encode(noise(300, 200, "RGBA"), "PNG"),
    "PNG, palette": encode(noise(300, 200, "P"), "PNG", transparency=1),
    "PNG with a profile": in_png(png_chunk(b"iCCP", bytes(3000))),
    "half a JPEG": JPEG[: len(JPEG) // 2],
    "half a PNG": PNG[: len(PNG) // 2],
}
NOT_SHORT = {
    "nothing": b"",
    "WebP": encode(noise(20, 20), "WEBP"),
    "GIF": encode(noise(20, 20, "P"), "GIF"),
    "BMP": encode(noise(20, 20), "BMP"),
    "TIFF": encode(noise(20, 20), "TIFF"),
    "a large JPEG": encode(Image.new("L", (2000, 1500)), "JPEG"),
    "a JPEG of many scans": encode(noise(900, 900), "JPEG", progressive=True, quality=5),
    "an arithmetic JPEG": jpeg_frame(JPEG, marker=0xC9),
    "a lossless JPEG": jpeg_frame(JPEG, marker=0xC3),
    "a JPEG of no height": jpeg_frame(JPEG, height=0),
    "a JPEG with much metadata": in_jpeg(segment(COMMENT, bytes(20_000))),
    "a JPEG of many segments": in_jpeg(segment(COMMENT, b"") * 300),
    "a JPEG with something between its segments": in_jpeg(b"\0\0\0"),
    "a JPEG of filling": in_jpeg(b"\xff" * 1000),
    "a large PNG": encode(Image.new("1", (2000, 1500)), "PNG"),
    "a PNG of one column": png_of(png_header(1, 700), bytes(4 * 700)),
    "a PNG of one row": png_of(png_header(700, 1), bytes(2101)),
    "a PNG of no width": png_of(png_header(0, 8), bytes(25)),
    "a PNG of many bytes": PNG + bytes(SHORT_BYTES),
    "a PNG of many chunks": in_png(png_chunk(b"abCd", b"") * 300),
    "a PNG of many chunks behind its pixels": PNG[:-12] + png_chunk(b"tEXt", b"a\0") * 300 + PNG[-12:],
    "a PNG with much metadata": in_png(png_chunk(b"tEXt", bytes(20_000))),
    "a PNG with two headers": png_header(8, 8) + PNG[8:],
    "an animated PNG": frames("PNG", 2),
    **SLOW,
}
# Each at the bounds, in its own way.
WORST: dict[str, bytes] = {
    "pixels of a JPEG": encode(noise(1390, 1390), "JPEG", quality=8),
    "pixels with alpha": encode(FLAT.resize((1380, 1380)), "PNG"),
    "bytes of a PNG": encode(noise(400, 430), "PNG"),
    "profiles": in_png(png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20 - 100), 9)) * 15),
}


@pytest.mark.parametrize("what", SHORT)
def test_photographs_of_the_usual_size_are_short(what: str) -> None:
    assert is_short(SHORT[what], SPEC)


@pytest.mark.parametrize("what", NOT_SHORT)
def test_what_may_take_long_or_is_out_of_the_ordinary_is_not(what: str) -> None:
    assert not is_short(NOT_SHORT[what], SPEC)


@pytest.mark.parametrize("what", WORST)
def test_what_is_short_is_decoded_in_no_time(what: str) -> None:
    assert is_short(WORST[what], SPEC)
    started = time.process_time()
    preprocess(WORST[what], SPEC, Limits())
    assert time.process_time() - started < 1  # A tenth of it on a core of 2021 that nobody else uses.


def test_telling_costs_next_to_nothing_whatever_the_bytes_are() -> None:
    many = [*NOT_SHORT.values(), *SHORT.values()]
    started = time.process_time()
    for data in many:
        is_short(data, SPEC)
    assert time.process_time() - started < 0.5


def test_scans_are_counted() -> None:
    assert count_scans(JPEG) == 1
    assert count_scans(SHORT["JPEG, progressive"]) == 10


@settings(max_examples=100, deadline=None)
@given(width=st.integers(1, 3000), height=st.integers(1, 3000), image_format=st.sampled_from(["JPEG", "PNG"]))
def test_the_pixels_of_the_header_decide(width: int, height: int, image_format: str) -> None:
    if image_format == "JPEG":
        data = jpeg_frame(JPEG, width=width, height=height)
    else:
        data = PNG[:16] + struct.pack(">II", width, height) + PNG[24:]
    shorter, longer = sorted((width, height))
    expected = width * height + 256 * int(256 * longer / shorter) <= SHORT_PIXELS
    assert is_short(data, SPEC) == expected


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_are_short_or_not(data: Any) -> None:
    start = data.draw(st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", JPEG[:700], PNG[:100]]))
    tail = data.draw(st.binary(max_size=200))
    cut = data.draw(st.integers(0, len(start)))
    assert is_short(start[:cut] + tail, SPEC) in (True, False)
    assert np.all(np.array(count_scans(start[:cut] + tail)) >= 0)
