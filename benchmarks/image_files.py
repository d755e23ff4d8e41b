"""Noise in every mode, and image files built byte by byte where Pillow cannot write them."""

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

PNG_GREY, PNG_RGB, PNG_PALETTE, PNG_GREY_ALPHA, PNG_RGB_ALPHA = 0, 2, 3, 4, 6
TIFF_SHORT, TIFF_LONG = 3, 4


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    generator = np.random.default_rng([seed, width, height])
    channels = {"RGB": 3, "CMYK": 4, "RGBA": 4}.get(mode, 1)
    values = generator.integers(0, 256, (height, width, channels), np.uint8).tobytes()
    if mode == "1":
        return Image.frombytes("L", (width, height), values).convert("1", dither=Image.Dither.NONE)
    picture = Image.frombytes(mode, (width, height), values)
    if mode == "P":
        picture.putpalette(generator.integers(0, 256, 768, np.uint8).tobytes())
    return picture


def encode(picture: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour_type: int, pixels: bytes, before_pixels: bytes = b"") -> bytes:
    """pixels: the packed rows, without filter bytes."""
    stride = len(pixels) // height
    rows = b"".join(b"\0" + pixels[start : start + stride] for start in range(0, len(pixels), stride))
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header), before_pixels, png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(
    width: int,
    height: int,
    bits: Sequence[int],
    photometric: int,
    pixels: bytes,
    more: Mapping[int, tuple[int, Sequence[int]]] | None = None,
    order: str = "<",
) -> bytes:
    """An uncompressed TIFF of one strip. more: further tags, or the same with other values. order: as in struct."""
    tags = {
        256: (TIFF_LONG, [width]),
        257: (TIFF_LONG, [height]),
        258: (TIFF_SHORT, bits),
        259: (TIFF_SHORT, [1]),  # no compression
        262: (TIFF_SHORT, [photometric]),
        273: (TIFF_LONG, [8]),  # the strip's place
        277: (TIFF_SHORT, [len(bits)]),
        278: (TIFF_LONG, [height]),  # rows of the strip
        279: (TIFF_LONG, [len(pixels)]),
        **(more or {}),
    }
    pixels += b"\0" * (len(pixels) % 2)
    start = 8 + len(pixels)
    entries, outside = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        raw = struct.pack(order + {TIFF_SHORT: "H", TIFF_LONG: "I"}[kind] * len(values), *values)
        if len(raw) > 4:
            place = start + 2 + 12 * len(tags) + 4 + len(outside)
            raw, outside = struct.pack(order + "I", place), outside + raw
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + raw.ljust(4, b"\0")
    magic = b"II" if order == "<" else b"MM"
    header = magic + struct.pack(order + "HI", 42, start)
    return header + pixels + struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0) + outside


def gif(screen: tuple[int, int], frame: tuple[int, int], disposal: int = 0) -> bytes:
    """A GIF whose frame may be larger than its screen, of two colours; its data ends after the first pixel."""
    colours = b"\0\0\0\xff\xff\xff"
    control = b"!\xf9\x04" + bytes([disposal << 2, 0, 0, 0, 0])
    descriptor = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0)
    return b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + colours + control + descriptor + b"\2\2\x4c\1\0;"


def webp(kind: bytes, body: bytes) -> bytes:
    """kind: the first chunk's, of which body is all."""
    chunk = kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def webp_of_one_colour(width: int, height: int) -> bytes:
    """A whole lossless WebP in 28 bytes: the codes of all channels have one symbol, and so no bits for any pixel."""
    bits = (width - 1) | (height - 1) << 14
    one_symbol, codes = 0b0001, 0
    for code in range(5):
        codes |= one_symbol << 4 * code
    # Neither transforms nor a colour cache nor an entropy image: three zero bits stand before the codes.
    return webp(b"VP8L", b"\x2f" + struct.pack("<I", bits) + (codes << 3).to_bytes(3, "little"))


def jpeg_header(width: int, height: int) -> bytes:
    """Start of image, frame and scan of a grey JPEG, and nothing of its data."""
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"
    return b"\xff\xd8" + frame + b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 0, 63, 0)


def bmp_header(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info
