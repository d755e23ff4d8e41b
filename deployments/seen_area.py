"""Which part of an image a model saw: what the centre crop kept of it, by the size that its header says.

Read off a few bytes, like dimensions.py: what an image is decoded to is imaging.py's to say, and nothing here is
checked against it. Orientation is that of EXIF in JPEG, PNG, WebP and TIFF files, which imaging.py follows as well.

Layouts: TIFF 6.0, section 2 (which EXIF has as well: Exif 2.32, 4.5.2); JPEG's APP1: Exif 2.32, 4.7.2; eXIf: PNG, 3rd
edition, 11.3.3.6; EXIF chunk: RFC 9649, 2.7.1.5.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from deployments.dimensions import size_of
from deployments.resizing import Size, kept, resized
from deployments.settings import PreprocessingSpec

# Of an image file directory; more tags are not looked at. Cameras write some dozen, in ascending order.
MAX_TAGS: Final = 64
# Of a file, in front of its metadata.
MAX_PARTS: Final = 64
WIDTH, HEIGHT, ORIENTATION = 0x0100, 0x0101, 0x0112
# Lengths of the two types that these tags have, and how struct calls them.
TYPES: Final = {3: "H", 4: "I"}
# Turned by a quarter (Exif 2.32, 4.6.4).
QUARTER_TURNS: Final = (5, 6, 7, 8)
EXIF: Final = b"Exif\0\0"
APP1, START_OF_SCAN = 0xE1, 0xDA


@dataclass(frozen=True, slots=True)
class Area:
    """As shares of the width and height of the upright image; beyond [0, 1] where the model saw a border."""

    top: float
    left: float
    height: float
    width: float


def seen_area(width: int, height: int, spec: PreprocessingSpec) -> Area:
    """Of an upright image of that size."""
    size = resized(width, height, spec.resize_size)
    left, across = _share(size[0], spec.crop_size)
    top, down = _share(size[1], spec.crop_size)
    return Area(top, left, down, across)


def upright_size(data: bytes) -> Size | None:
    """Width and height in pixels, upright; None where the header says nothing that is understood."""
    tags = _tags_in(data)
    size = size_of(data)
    if 0 in size:
        size = tags.get(WIDTH, 0), tags.get(HEIGHT, 0)
    if 0 in size:
        return None
    return (size[1], size[0]) if tags.get(ORIENTATION) in QUARTER_TURNS else size


def _share(length: int, crop: int) -> tuple[float, float]:
    """Where it begins and how long it is, in lengths."""
    # Where there is less than the crop, a border is around it (resizing.py).
    start = kept(length, crop)[0] if length > crop else -((crop - length) // 2)
    return start / length, crop / length


def _tags_in(data: bytes) -> Mapping[int, int]:
    if data[:2] in (b"II", b"MM"):
        return _tags(data)
    if data[:3] == b"\xff\xd8\xff":
        return _tags(_exif_of_jpeg(data))
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _tags(_chunk(data, 8, b"eXIf", kind_first=False))
    if data[:4] == b"RIFF":
        return _tags(_chunk(data, 12, b"EXIF", kind_first=True).removeprefix(EXIF))
    return {}


def _exif_of_jpeg(data: bytes) -> bytes:
    place = 2
    for _ in range(MAX_PARTS):
        if len(data) < place + 4 or data[place] != 0xFF or data[place + 1] == START_OF_SCAN:
            break
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == APP1 and data[place + 4 : place + 4 + len(EXIF)] == EXIF:
            return data[place + 4 + len(EXIF) : place + 2 + length]
        # Filling is a byte by itself.
        place += 1 if marker == 0xFF else 2 + length
    return b""


def _chunk(data: bytes, place: int, wanted: bytes, *, kind_first: bool) -> bytes:
    """The content of the first chunk of that kind, in RIFF, or in PNG, which has the length first and a checksum."""
    for _ in range(MAX_PARTS):
        head = data[place : place + 8]
        if len(head) < 8:
            break
        kind = head[:4] if kind_first else head[4:]
        length = int.from_bytes(head[4:], "little") if kind_first else int.from_bytes(head[:4], "big")
        if kind == wanted:
            return data[place + 8 : place + 8 + length]
        place += 8 + length + (length % 2 if kind_first else 4)
    return b""


def _tags(tiff: bytes) -> Mapping[int, int]:
    """Whole numbers by tag, of the first directory."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return {}
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    count_bytes = tiff[start : start + 2]
    if len(count_bytes) < 2:
        return {}
    (count,) = struct.unpack(f"{order}H", count_bytes)
    found: dict[int, int] = {}
    for number in range(min(count, MAX_TAGS)):
        entry = tiff[start + 2 + 12 * number : start + 14 + 12 * number]
        if len(entry) < 12:
            break
        tag, kind, values = struct.unpack_from(f"{order}HHI", entry)
        if values == 1 and kind in TYPES:
            (found[tag],) = struct.unpack_from(f"{order}{TYPES[kind]}", entry, 8)
    return found
