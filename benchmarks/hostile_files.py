"""Files that no camera writes, by what is wrong with them, and what becomes of each.

`picture` for those that have one all the same; else the code of the error, or several where Pillow may choose.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from benchmarks.image_files import (
    PNG_PALETTE,
    PNG_RGB,
    TIFF_LONG,
    TIFF_SHORT,
    encode,
    gif,
    noise,
    png,
    png_chunk,
    tiff,
    webp,
)

PICTURE, CORRUPT, PIXELS, UNKNOWN = "picture", "corrupt_image", "too_many_pixels", "unsupported_format"
PNG_MAGIC_AND_HEADER = 33  # bytes
EXIF_MARKER, COMMENT_MARKER, ICC_MARKER = 0xE1, 0xFE, 0xE2

JPEG = encode(noise(64, 48), "JPEG")
PNG = encode(noise(64, 48), "PNG")


@dataclass(frozen=True)
class Hostile:
    data: bytes
    ends: Sequence[str]


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def in_jpeg(inserted: bytes) -> bytes:
    return JPEG[:2] + inserted + JPEG[2:]


def in_png(inserted: bytes) -> bytes:
    return PNG[:PNG_MAGIC_AND_HEADER] + inserted + PNG[PNG_MAGIC_AND_HEADER:]


def png_header(width: int, height: int, *, colour_type: int = PNG_RGB, interlaced: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)


def png_of(header: bytes, rows: bytes) -> bytes:
    return header + png_chunk(b"IDAT", zlib.compress(rows, 9)) + png_chunk(b"IEND", b"")


def exif_tags(tags: int, each_bytes: int) -> bytes:
    """EXIF whose tags all hold the same bytes: as many times its own size in memory as it has tags."""
    directory = struct.pack("<H", tags) + b"".join(
        struct.pack("<HHII", 0x9000 + number, 7, each_bytes, 8) for number in range(tags)
    )
    return b"II*\0" + struct.pack("<I", 8) + directory.ljust(each_bytes, b"\0")


def tiff_of_tags(tags: int, each_bytes: int) -> bytes:
    """As `exif_tags`, but a picture of its own."""
    more = {0xC000 + number: (TIFF_LONG, [0]) for number in range(tags)}
    data = bytearray(tiff(8, 8, [8], 1, bytes(64), more))
    start = struct.unpack_from("<I", data, 4)[0]
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        if struct.unpack_from("<H", data, entry)[0] >= 0xC000:
            struct.pack_into("<HII", data, entry + 2, 7, each_bytes, 0)
    return bytes(data).ljust(each_bytes + 8, b"\0")


def bmp(width: int, height: int, bits: int, compression: int, content: bytes, **header: int) -> bytes:
    info = {"size": 40, "planes": 1, "colours": 0, "offset": 54} | header
    head = struct.pack("<IiiHH", info["size"], width, height, info["planes"], bits)
    head += struct.pack("<IIiiII", compression, 0, 0, 0, info["colours"], 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, info["offset"]) + head + content


def frames(image_format: str, count: int, **options: Any) -> bytes:
    pictures = [Image.new("RGB", (2, 2), (number % 256, number // 256, 0)) for number in range(count)]
    return encode(pictures[0], image_format, save_all=True, append_images=pictures[1:], **options)


def cyclic_tiff() -> bytes:
    data = bytearray(tiff(8, 8, [8], 1, bytes(64)))
    start = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, start)[0]
    struct.pack_into("<I", data, start + 2 + 12 * entries, start)
    return bytes(data)


def jpeg_frame(data: bytes, **changes: int) -> bytes:
    """A JPEG with other figures in its frame header: height, width, sampling of the first component."""
    changed = bytearray(data)
    start = data.index(b"\xff\xc0") + 5
    for name, value in changes.items():
        place, kind = {"height": (0, ">H"), "width": (2, ">H"), "sampling": (6, "B"), "marker": (-4, "B")}[name]
        struct.pack_into(kind, changed, start + place, value)
    return bytes(changed)


def zipped() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("page.html", "<script>alert(1)</script>")
    return archive.getvalue()


INFLATED = zlib.compress(bytes(2**20 - 100), 9)  # 1 MiB in 1 KB
METADATA = {
    "JPEG, a comment of 64 KB": Hostile(in_jpeg(segment(COMMENT_MARKER, bytes(65_000))), [PICTURE]),
    "JPEG, 200 profiles": Hostile(in_jpeg(segment(ICC_MARKER, b"ICC_PROFILE\0\1\xff" + bytes(9000)) * 200), [PICTURE]),
    "JPEG, EXIF of tags that hold it all": Hostile(
        in_jpeg(segment(EXIF_MARKER, b"Exif\0\0" + exif_tags(5000, 61_000))), [PICTURE]
    ),
    "JPEG, EXIF that ends at once": Hostile(in_jpeg(segment(EXIF_MARKER, b"Exif\0\0II*\0")), [PICTURE]),
    "PNG, text that inflates a thousandfold": Hostile(in_png(png_chunk(b"zTXt", b"a\0\0" + INFLATED) * 100), [CORRUPT]),
    "PNG, international text that does": Hostile(
        in_png(png_chunk(b"iTXt", b"a\0\1\0\0\0" + INFLATED) * 100), [CORRUPT]
    ),
    "PNG, text after the pixels": Hostile(PNG[:-12] + png_chunk(b"zTXt", b"a\0\0" + INFLATED) * 100, [CORRUPT]),
    "PNG, a profile of 8 MiB": Hostile(
        in_png(png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**23), 9))), [CORRUPT]
    ),
    "PNG, EXIF of tags that hold it all": Hostile(in_png(png_chunk(b"eXIf", exif_tags(500, 20_000))), [PICTURE]),
    "TIFF of tags that hold it all": Hostile(tiff_of_tags(2000, 10_000), [PICTURE]),
    "TIFF of a tag with 4 billion values": Hostile(
        tiff(8, 8, [8], 1, bytes(64)).replace(struct.pack("<HHI", 277, TIFF_SHORT, 1), b"\x15\1\3\0\xff\xff\xff\xff"),
        [CORRUPT, PICTURE, "unsupported_pixels"],
    ),
    "WebP, EXIF and XMP that are none": Hostile(
        encode(noise(16, 16), "WEBP", exif=b"Exif\0\0" + bytes(60_000), xmp=bytes(60_000)), [PICTURE]
    ),
}
SIZES = {
    "PNG, more rows than declared": Hostile(png_of(png_header(8, 8), bytes(25 * 5000)), [PICTURE]),
    "PNG, rows of nothing": Hostile(png_of(png_header(3000, 3000), b""), [CORRUPT]),
    "PNG, no pixel of 10 million": Hostile(png_header(5000, 2000) + png_chunk(b"IDAT", b"\x78\x9c"), [CORRUPT]),
    "PNG, a width of 0": Hostile(png_of(png_header(0, 8), bytes(25)), [CORRUPT]),
    "PNG, a height of 2 billion": Hostile(png_of(png_header(1, 2**31 - 1), bytes(4)), [PIXELS]),
    "PNG, two headers": Hostile(
        png_header(8, 8) + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)) + PNG[33:], [PIXELS]
    ),
    "PNG of one column": Hostile(png_of(png_header(1, 700), bytes(4 * 700)), [PICTURE]),
    "PNG of one row": Hostile(png_of(png_header(700, 1), bytes(2101)), [PICTURE]),
    "PNG of a column at the limit of pixels": Hostile(png_of(png_header(1, 50_000_000), b"\0\1\2\3"), [PIXELS]),
    "PNG, interlaced": Hostile(png_of(png_header(8, 8, interlaced=1), b"\0" * (8 * 8 * 3 + 15)), [PICTURE]),
    "PNG, an interlacing that does not exist": Hostile(
        png_of(png_header(8, 8, interlaced=7), bytes(8 * 25)), [CORRUPT]
    ),
    "PNG, colours beyond its palette": Hostile(
        png(4, 1, 8, PNG_PALETTE, b"\0\1\xfe\xff", png_chunk(b"PLTE", b"\1\2\3")), [PICTURE, CORRUPT]
    ),
    "JPEG of one column": Hostile(encode(noise(1, 700), "JPEG"), [PICTURE]),
    "JPEG of one column, as high as can be": Hostile(encode(Image.new("L", (1, 65_500)), "JPEG"), [PIXELS]),
    # libjpeg paints what the data lacks grey, if they end as they should.
    "JPEG, declared larger than it is": Hostile(jpeg_frame(JPEG, width=900, height=900), [PICTURE]),
    "JPEG, declared smaller than it is": Hostile(jpeg_frame(JPEG, width=8, height=8), [PICTURE]),
    "JPEG, a height of 0 that comes later": Hostile(jpeg_frame(JPEG, height=0), [CORRUPT]),
    "JPEG, samples that do not fit": Hostile(jpeg_frame(JPEG, sampling=0x44), [CORRUPT, PICTURE]),
    "JPEG, samples of 0": Hostile(jpeg_frame(JPEG, sampling=0), [CORRUPT]),
    "JPEG, a lossless frame": Hostile(jpeg_frame(JPEG, marker=0xC3), [CORRUPT]),
    "JPEG, an arithmetic frame": Hostile(jpeg_frame(JPEG, marker=0xC9), [CORRUPT, PICTURE]),
    "JPEG, two frames": Hostile(
        JPEG[: JPEG.index(b"\xff\xc4")]
        + b"\xff\xc0\0\x0b\x08\xff\xff\xff\xff\1\1\x11\0"
        + JPEG[JPEG.index(b"\xff\xc4") :],
        [PIXELS],
    ),
    "JPEG, a restart at each block and none there": Hostile(in_jpeg(segment(0xDD, b"\0\1")), [PICTURE, CORRUPT]),
    "JPEG of restarts": Hostile(JPEG[:-2] + b"\xff\xd0" * 5000 + JPEG[-2:], [PICTURE]),
    "GIF, a frame beyond its screen": Hostile(gif((4, 4), (500, 500)), [CORRUPT, PICTURE]),
    "GIF of 65,535 columns": Hostile(gif((65_535, 1), (65_535, 1)), [PIXELS, CORRUPT]),
    "WebP, a frame smaller than its canvas": Hostile(
        webp(b"VP8X", bytes(4) + b"\xff\x03\0\xff\x03\0") + encode(noise(8, 8), "WEBP")[12:], [CORRUPT, PICTURE]
    ),
    "TIFF of strips that are not there": Hostile(
        tiff(8, 8, [8], 1, bytes(64), {273: (TIFF_LONG, [2**32 - 9])}), [CORRUPT]
    ),
    "TIFF of strips of 4 GB": Hostile(
        tiff(8, 8, [8], 1, bytes(64), {279: (TIFF_LONG, [2**32 - 1])}), [PICTURE, CORRUPT]
    ),
    "TIFF whose rows are 4 billion": Hostile(
        tiff(8, 8, [8], 1, bytes(64), {278: (TIFF_LONG, [2**32 - 1])}), [PICTURE, CORRUPT]
    ),
    "TIFF of 60,000 samples": Hostile(tiff(8, 8, [8], 1, bytes(64), {277: (TIFF_SHORT, [60_000])}), [CORRUPT]),
    "TIFF that points at itself": Hostile(cyclic_tiff(), [PICTURE, CORRUPT, "animated_image"]),
    "BMP, a width of -1": Hostile(bmp(-1, 8, 24, 0, bytes(200)), [PIXELS]),
    "BMP, the lowest height": Hostile(bmp(8, -(2**31), 24, 0, bytes(200)), [PIXELS, CORRUPT]),
    "BMP, no bits": Hostile(bmp(8, 8, 0, 0, bytes(200)), [CORRUPT, UNKNOWN]),
    "BMP, a header of 4 GB": Hostile(bmp(8, 8, 24, 0, bytes(200), size=2**32 - 1), [CORRUPT]),
    "BMP, 4 billion colours": Hostile(bmp(8, 8, 8, 0, bytes(2000), colours=2**32 - 1), [CORRUPT]),
    "BMP, pixels far behind its end": Hostile(bmp(8, 8, 24, 0, bytes(200), offset=2**31), [CORRUPT]),
    "BMP, runs beyond its rows": Hostile(
        bmp(8, 8, 8, 1, bytes(1024) + b"\xff\1" * 5000, offset=1078), [PICTURE, CORRUPT]
    ),
    "BMP, jumps beyond its rows": Hostile(
        bmp(8, 8, 8, 1, bytes(1024) + b"\0\2\xff\xff" * 5000, offset=1078), [PICTURE, CORRUPT]
    ),
    "BMP, no pixel of 10 million": Hostile(
        bmp(5000, 2000, 8, 1, bytes(1024) + b"\0\1", offset=1078), [PICTURE, CORRUPT]
    ),
}
FRAMES = {
    "GIF of 1,000 frames": Hostile(frames("GIF", 1000), [PICTURE, "animated_image"]),
    "PNG of 1,000 frames": Hostile(frames("PNG", 1000), [PICTURE, "animated_image"]),
    "PNG that says it has 2 billion frames": Hostile(
        in_png(png_chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))), [PICTURE, CORRUPT, "animated_image"]
    ),
    "WebP of 300 frames": Hostile(frames("WEBP", 300, lossless=True, method=0), [PICTURE, "animated_image"]),
    "TIFF of 200 pages": Hostile(frames("TIFF", 200), [PICTURE, "animated_image"]),
}
POLYGLOTS = {
    "a GIF that is a ZIP, too": Hostile(encode(noise(8, 8, "P"), "GIF") + zipped(), [PICTURE]),
    "a JPEG that is a page, too": Hostile(
        in_jpeg(segment(COMMENT_MARKER, b"<html><script>alert(1)</script><!--")) + b"--></html>", [PICTURE]
    ),
    "a PNG with a script behind it": Hostile(PNG + b"<?php system($_GET['a']); ?>", [PICTURE]),
    "a BMP that is a script, too": Hostile(b"BM=1/*" + bytes(50) + b"*/;alert(1)", [CORRUPT]),
    "a PDF with a JPEG in it": Hostile(b"%PDF-1.7\n" + JPEG, [UNKNOWN]),
    "a ZIP with a PNG in it": Hostile(zipped() + PNG, [UNKNOWN]),
}
SMALL = METADATA | SIZES | FRAMES | POLYGLOTS
