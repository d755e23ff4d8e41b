"""Which files are certainly decoded within a tenth of a second, told from their headers in microseconds.

Ordinary photographs are: JPEG and PNG files of some hundred kilobytes. Of everything else (other formats, large
pictures, much metadata, whatever is out of the ordinary) this module says nothing, and deployments/decoding.py has it
decoded where it can be stopped. Nothing is judged here: what is broken is refused by deployments/imaging.py.

What bounds the time: the pixels, times the scans of a JPEG; the bytes, because a stream may have many that give no
pixel (empty blocks of deflate); the segments or chunks, of which Pillow reads each in Python (10 MB of empty ones took
it 8 s); and the bytes of metadata, since a tag of EXIF may point at all of the others, and compressed chunks inflate.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from deployments.resizing import resized

if TYPE_CHECKING:  # As in deployments/imaging.py.
    from deployments.settings import PreprocessingSpec

# With all of these at their bounds, decoding took at most 0.1 s on a core of 2021; a process costs it half a
# millisecond.
SHORT_BYTES: Final = 512 * 1024
SHORT_PIXELS: Final = 2_000_000
SHORT_SEGMENTS: Final = 256
SHORT_METADATA_BYTES: Final = 16 * 1024

JPEG_START: Final = b"\xff\xd8"
JPEG_START_OF_SCAN: Final = b"\xff\xda"
# Baseline, extended and progressive with Huffman codes: the frames that cameras and libraries write.
JPEG_FRAMES: Final = (0xC0, 0xC1, 0xC2)
JPEG_PROGRESSIVE: Final = 0xC2
# Markers with a length behind them that may stand before the first scan: tables, application data, comments.
JPEG_SEGMENTS: Final = frozenset((0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))

PNG_START: Final = b"\x89PNG\r\n\x1a\n"
PNG_HEADER_BYTES: Final = 13
# The chunks of an animation, of which the first frame may be another picture.
PNG_ANIMATION: Final = (b"acTL", b"fcTL", b"fdAT")

Size = tuple[int, int]


def is_short(data: bytes, spec: PreprocessingSpec) -> bool:
    """Whether a file is certainly brought to the model's pixels in no more than a tenth of a second."""
    if len(data) > SHORT_BYTES:
        return False
    size, passes = _jpeg(data) if data.startswith(JPEG_START) else (_png_size(data), 1)
    if size is None or 0 in size:
        return False
    width, height = resized(*size, spec.resize_size)
    # A picture one pixel high grows by resize_size squared before it is cropped.
    return size[0] * size[1] * passes + width * height <= SHORT_PIXELS


def count_scans(data: bytes) -> int:
    """The scans of a JPEG, and those of its previews."""
    # In coded data every FF is followed by 00 or a restart marker. bytes.count takes five times as long, and holds the
    # GIL.
    coded = np.frombuffer(data, np.uint8)
    first, second = JPEG_START_OF_SCAN
    return int(np.count_nonzero((coded[:-1] == first) & (coded[1:] == second)))


def _jpeg(data: bytes) -> tuple[Size | None, int]:
    """Width and height of a JPEG that is plain up to its first scan (ITU T.81, annex B), and how often it is gone
    through."""
    size, components, may_repeat, place = None, 0, True, len(JPEG_START)
    for _ in range(SHORT_SEGMENTS):
        if place > min(SHORT_METADATA_BYTES, len(data) - 10) or data[place] != 0xFF:
            break
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == JPEG_START_OF_SCAN[1]:
            # With all components in its first scan, a sequential one has no other.
            is_single = not may_repeat and data[place + 4] == components
            return size, 1 if is_single else count_scans(data)
        if marker in JPEG_FRAMES:
            height, width, components = struct.unpack_from(">HHB", data, place + 5)
            size, may_repeat = (width, height), marker == JPEG_PROGRESSIVE
        elif marker not in JPEG_SEGMENTS:
            break
        place += 2 + max(2, length)
    return None, 0


def _png_size(data: bytes) -> Size | None:
    """Width and height of a PNG of one picture with little besides (PNG, 3rd edition, 5)."""
    begins = PNG_START + struct.pack(">I", PNG_HEADER_BYTES) + b"IHDR"
    if not data.startswith(begins) or len(data) < len(begins) + PNG_HEADER_BYTES:
        return None
    place, metadata_bytes = len(PNG_START), 0
    for _ in range(SHORT_SEGMENTS):
        if place + 8 > len(data):
            break  # Cut: what is missing costs nothing.
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind in PNG_ANIMATION or (kind == b"IHDR" and place > len(PNG_START)):
            return None
        if metadata_bytes > SHORT_METADATA_BYTES:
            return None
        if kind == b"IEND":
            break
        metadata_bytes += 0 if kind == b"IDAT" else length
        place += 12 + length
    else:
        return None
    width, height = struct.unpack_from(">II", data, len(begins))
    return width, height
