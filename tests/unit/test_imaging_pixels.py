"""What becomes of pixels that are not 8-bit RGB."""

import struct

import numpy as np
import pytest
from PIL import Image

from benchmarks.image_files import (
    PNG_GREY,
    PNG_GREY_ALPHA,
    PNG_PALETTE,
    PNG_RGB,
    PNG_RGB_ALPHA,
    TIFF_SHORT,
    encode,
    png,
    png_chunk,
    tiff,
)
from deployments.errors import UnsupportedPixels
from deployments.imaging import decode
from deployments.messages import Pixels
from deployments.settings import Limits
from tests.unit.pictures import flat, rgb

BACKGROUND = (10, 20, 30)
WHITE = (255, 255, 255)
PALETTE = png_chunk(b"PLTE", bytes([1, 2, 3, 40, 50, 60, 70, 80, 90]))
COLOUR_MAP, EXTRA_SAMPLES, SAMPLE_FORMAT = 320, 338, 339
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, MAPPED, SEPARATED, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
ASSOCIATED_ALPHA = {EXTRA_SAMPLES: (TIFF_SHORT, [1])}
ALPHA = {EXTRA_SAMPLES: (TIFF_SHORT, [2])}


def decoded(data: bytes, background: tuple[int, int, int] = BACKGROUND) -> Pixels:
    return np.asarray(decode(data, Limits(alpha_background=background)))


def transparent(*colour: int) -> bytes:
    return png_chunk(b"tRNS", struct.pack(f">{len(colour)}H", *colour))


def grey(*values: int) -> Pixels:
    return rgb([(value, value, value) for value in values])


@pytest.mark.parametrize(
    ("data", "values"),
    [
        pytest.param(png(3, 1, 8, PNG_GREY, bytes([0, 100, 255])), (0, 100, 255), id="8-bit PNG"),
        pytest.param(png(4, 1, 2, PNG_GREY, b"\x1b"), (0, 85, 170, 255), id="2-bit PNG"),
        pytest.param(png(2, 1, 4, PNG_GREY, b"\x1b"), (17, 187), id="4-bit PNG"),
        pytest.param(tiff(2, 1, [8], BLACK_IS_ZERO, b"\1\xfe"), (1, 254), id="TIFF"),
        pytest.param(tiff(2, 1, [8], WHITE_IS_ZERO, b"\1\xfe"), (254, 1), id="TIFF in which zero is white"),
    ],
)
def test_grey_is_the_value_in_all_channels(data: bytes, values: tuple[int, ...]) -> None:
    np.testing.assert_array_equal(decoded(data), grey(*values))


@pytest.mark.parametrize(
    ("data", "values"),
    [
        pytest.param(png(4, 1, 1, PNG_GREY, b"\x50"), (0, 255, 0, 255), id="PNG"),
        pytest.param(tiff(4, 1, [1], BLACK_IS_ZERO, b"\x50"), (0, 255, 0, 255), id="TIFF"),
        pytest.param(tiff(4, 1, [1], WHITE_IS_ZERO, b"\x50"), (255, 0, 255, 0), id="TIFF in which zero is white"),
    ],
)
def test_bilevel_is_black_and_white(data: bytes, values: tuple[int, ...]) -> None:
    np.testing.assert_array_equal(decoded(data), grey(*values))


def test_palette_gives_its_colours() -> None:
    result = decoded(png(3, 1, 8, PNG_PALETTE, b"\2\0\1", PALETTE))
    np.testing.assert_array_equal(result, rgb([(70, 80, 90), (1, 2, 3), (40, 50, 60)]))


def test_palette_entries_with_alpha_are_laid_over_the_background() -> None:
    result = decoded(png(3, 1, 8, PNG_PALETTE, b"\0\1\2", PALETTE + png_chunk(b"tRNS", b"\x00\x80")))
    # (40, 50, 60) at 128/255 over (10, 20, 30); the third entry has no alpha and is opaque.
    np.testing.assert_array_equal(result, rgb([BACKGROUND, (25, 35, 45), (70, 80, 90)]))


def test_transparent_palette_entry_of_a_gif_is_the_background() -> None:
    picture = Image.new("P", (2, 1), 1)
    picture.putpalette([1, 2, 3, 40, 50, 60])
    picture.putpixel((0, 0), 0)
    result = decoded(encode(picture, "GIF", transparency=0))
    np.testing.assert_array_equal(result, rgb([BACKGROUND, (40, 50, 60)]))


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        # 215 of 255 are left of white by black; 10, 20 and 30 of 255 of those are taken by the inks.
        pytest.param(encode(flat("CMYK", (10, 20, 30, 40)), "JPEG", quality=100), (207, 198, 190), id="CMYK JPEG"),
        pytest.param(tiff(1, 1, [8] * 4, SEPARATED, bytes([10, 20, 30, 40])), (207, 198, 190), id="CMYK TIFF"),
        pytest.param(
            tiff(1, 1, [16] * 4, SEPARATED, struct.pack("<4H", 0x0AFF, 0x14FF, 0x1EFF, 0x28FF)),
            (207, 198, 190),
            id="CMYK TIFF of 16 bits",
        ),
        # R = Y + 1.402 (Cr - 128), G = Y - 0.714 (Cr - 128) - 0.344 (Cb - 128), B = Y + 1.772 (Cb - 128)
        pytest.param(tiff(1, 1, [8] * 3, YCBCR, bytes([100, 128, 200])), (200, 48, 100), id="YCbCr TIFF"),
        pytest.param(encode(flat("RGB", (200, 100, 50)), "JPEG", quality=100), (200, 100, 50), id="YCbCr JPEG"),
    ],
)
def test_other_colour_spaces_are_converted(data: bytes, colour: tuple[int, int, int]) -> None:
    assert tuple(decoded(data)[0, 0]) == colour


def test_ycck_jpeg_is_converted() -> None:
    # Pillow stores 255 less the ink: (100, 128, 178, 215), of which the Adobe segment then says that it is YCCK.
    stored_as_cmyk = encode(flat("CMYK", (155, 127, 77, 40)), "JPEG", quality=100)
    transform = stored_as_cmyk.index(b"Adobe") + 11
    ycck = stored_as_cmyk[:transform] + b"\2" + stored_as_cmyk[transform + 1 :]
    # Y, Cb, Cr are the inks (170, 64, 100) on 215 of 255.
    assert tuple(decoded(ycck)[0, 0]) == (72, 161, 131)


@pytest.mark.parametrize(
    ("data", "pixel"),
    [
        pytest.param(png(1, 1, 16, PNG_GREY, b"\x12\xff"), (0x12,) * 3, id="grey PNG"),
        pytest.param(png(1, 1, 16, PNG_RGB, b"\x12\xff\xab\0\xff\x80"), (0x12, 0xAB, 0xFF), id="RGB PNG"),
        pytest.param(png(1, 1, 16, PNG_GREY_ALPHA, b"\x12\xff\xff\xff"), (0x12,) * 3, id="grey PNG with alpha"),
        pytest.param(
            png(1, 1, 16, PNG_RGB_ALPHA, b"\x12\xff\xab\0\xff\x80\xff\xff"), (0x12, 0xAB, 0xFF), id="RGB PNG with alpha"
        ),
        pytest.param(tiff(1, 1, [16], BLACK_IS_ZERO, b"\xff\x12"), (0x12,) * 3, id="grey TIFF, little-endian"),
        pytest.param(tiff(1, 1, [16], BLACK_IS_ZERO, b"\x12\xff", order=">"), (0x12,) * 3, id="grey TIFF, big-endian"),
        pytest.param(tiff(1, 1, [16] * 3, RGB, b"\xff\x12\0\xab\x80\xff"), (0x12, 0xAB, 0xFF), id="RGB TIFF"),
    ],
)
def test_of_16_bits_the_high_byte_is_kept(data: bytes, pixel: tuple[int, int, int]) -> None:
    assert tuple(decoded(data)[0, 0]) == pixel


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # A value v at alpha 128 over b is (128 v + 127 b) / 255, rounded.
        pytest.param(png(2, 1, 8, PNG_GREY_ALPHA, b"\x40\x80\x40\xff"), [(37, 42, 47), (64, 64, 64)], id="LA PNG"),
        pytest.param(
            png(2, 1, 8, PNG_RGB_ALPHA, b"\x40\x50\x60\x80\1\2\3\0"), [(37, 50, 63), BACKGROUND], id="RGBA PNG"
        ),
        pytest.param(
            png(2, 1, 16, PNG_GREY_ALPHA, b"\x40\0\x80\0\x80\0\0\0"), [(37, 42, 47), BACKGROUND], id="LA PNG of 16 bits"
        ),
        pytest.param(
            encode(Image.new("RGBA", (2, 1), (64, 80, 96, 128)), "WEBP", lossless=True),
            [(37, 50, 63)] * 2,
            id="RGBA WebP",
        ),
        pytest.param(tiff(1, 1, [8, 8], BLACK_IS_ZERO, b"\x40\x80", ALPHA), [(37, 42, 47)], id="LA TIFF"),
        pytest.param(tiff(1, 1, [8] * 4, RGB, b"\x40\x50\x60\x80", ALPHA), [(37, 50, 63)], id="RGBA TIFF"),
        # What is multiplied by alpha already, as 64 is from 127, only lacks its share of the background.
        pytest.param(tiff(1, 1, [8, 8], BLACK_IS_ZERO, b"\x40\x80", ASSOCIATED_ALPHA), [(69, 74, 79)], id="La TIFF"),
        pytest.param(tiff(1, 1, [8] * 4, RGB, b"\x40\x40\x40\x80", ASSOCIATED_ALPHA), [(69, 74, 79)], id="RGBa TIFF"),
        pytest.param(
            tiff(1, 1, [8, 8], MAPPED, b"\1\x80", ALPHA | {COLOUR_MAP: (TIFF_SHORT, [0x4000] * 768)}),
            [(37, 42, 47)],
            id="PA TIFF",
        ),
    ],
)
def test_alpha_is_laid_over_the_background(data: bytes, expected: list[tuple[int, int, int]]) -> None:
    np.testing.assert_array_equal(decoded(data), rgb(expected))


def test_fourth_channel_without_a_meaning_is_dropped() -> None:
    no_meaning = {EXTRA_SAMPLES: (TIFF_SHORT, [0])}
    np.testing.assert_array_equal(decoded(tiff(1, 1, [8] * 4, RGB, b"\1\2\3\0", no_meaning)), rgb([(1, 2, 3)]))


@pytest.mark.parametrize("background", [WHITE, (0, 0, 0), BACKGROUND], ids=["white", "black", "a colour"])
def test_background_is_the_one_that_is_set(background: tuple[int, int, int]) -> None:
    result = decoded(encode(Image.new("RGBA", (1, 1), (1, 2, 3, 0)), "PNG"), background)
    np.testing.assert_array_equal(result, rgb([background]))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(png(4, 1, 1, PNG_GREY, b"\x50", transparent(0)), [BACKGROUND, WHITE] * 2, id="black, 1 bit"),
        pytest.param(png(4, 1, 1, PNG_GREY, b"\x50", transparent(1)), [(0, 0, 0), BACKGROUND] * 2, id="white, 1 bit"),
        pytest.param(png(2, 1, 2, PNG_GREY, b"\x80", transparent(2)), [BACKGROUND, (0, 0, 0)], id="grey, 2 bits"),
        pytest.param(png(2, 1, 4, PNG_GREY, b"\x1b", transparent(11)), [(17, 17, 17), BACKGROUND], id="grey, 4 bits"),
        pytest.param(png(2, 1, 8, PNG_GREY, b"\1\2", transparent(2)), [(1, 1, 1), BACKGROUND], id="grey, 8 bits"),
        pytest.param(
            png(3, 1, 16, PNG_GREY, b"\x12\x34\x12\x35\x34\0", transparent(0x1234)),
            [BACKGROUND, (0x12,) * 3, (0x34,) * 3],
            id="grey, 16 bits, both of whose bytes count",
        ),
        pytest.param(
            png(2, 1, 8, PNG_RGB, b"\1\2\3\1\2\4", transparent(1, 2, 3)), [BACKGROUND, (1, 2, 4)], id="RGB, 8 bits"
        ),
        pytest.param(
            png(2, 1, 16, PNG_RGB, b"\x12\x34" * 3 + b"\x34\x12" * 3, transparent(0x1234, 0x1234, 0x1234)),
            [BACKGROUND, (0x34,) * 3],
            id="RGB, 16 bits",
        ),
    ],
)
def test_transparent_colour_is_the_background(data: bytes, expected: list[tuple[int, int, int]]) -> None:
    np.testing.assert_array_equal(decoded(data), rgb(expected))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(tiff(1, 1, [8] * 3, LAB, b"\x64\0\0"), id="LAB"),
        pytest.param(tiff(1, 1, [32], BLACK_IS_ZERO, bytes(4), {SAMPLE_FORMAT: (TIFF_SHORT, [3])}), id="32-bit float"),
        pytest.param(tiff(1, 1, [32], BLACK_IS_ZERO, bytes(4)), id="32-bit integer"),
        pytest.param(tiff(1, 1, [16], BLACK_IS_ZERO, bytes(2), {SAMPLE_FORMAT: (TIFF_SHORT, [2])}), id="16-bit signed"),
        pytest.param(tiff(2, 1, [12], BLACK_IS_ZERO, b"\xff\xf0\x12"), id="12-bit"),
        pytest.param(tiff(1, 1, [16], WHITE_IS_ZERO, b"\xff\x12"), id="16-bit in which zero is white"),
    ],
)
def test_other_pixels_are_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedPixels):
        decoded(data)
