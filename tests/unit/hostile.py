"""Files that keep a decoder busy for seconds, as large as a body may be."""

import zlib

from benchmarks.hostile_files import COMMENT_MARKER, INFLATED, in_jpeg, in_png, png_header, segment
from benchmarks.image_files import png_chunk

BODY_BYTES = 10 * 2**20


def tiny_chunks() -> bytes:
    """A sound PNG in chunks of a byte each."""
    rows = zlib.compress(bytes(301 * 100 * 8), 0)
    pixels = b"".join(png_chunk(b"IDAT", rows[start : start + 1]) for start in range(len(rows)))
    return png_header(100, 800) + pixels + png_chunk(b"IEND", b"")


# Each keeps Pillow or zlib busy for seconds.
SLOW = {
    "JPEG of empty comments": in_jpeg(segment(COMMENT_MARKER, b"") * (BODY_BYTES // 4)),
    "JPEG of filling": in_jpeg(b"\xff" * BODY_BYTES),
    "PNG of empty chunks": in_png(png_chunk(b"abCd", b"") * (BODY_BYTES // 12)),
    "PNG of tiny chunks": tiny_chunks(),
    "PNG of profiles that inflate": in_png(png_chunk(b"iCCP", b"a\0\0" + INFLATED) * (BODY_BYTES // 1100)),
}
