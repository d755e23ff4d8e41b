"""How many pixels an encoded image says that it has, read off its first bytes in microseconds.

For accounting before anything is decoded, not for checking: the decoder believes nothing of it. No copy, no
allocation, and bounded work whatever the bytes are.

Layouts: PNG (3rd edition) 11.2.1, GIF89a section 18, BITMAPINFOHEADER, RFC 9649 sections 2.5 to 2.7, ITU-T T.81 B.2.2.
"""

from typing import Final

# A JPEG has its frame header behind a few segments of metadata; what has more is counted as of unknown size.
MAX_SEGMENTS: Final = 64
# Start-of-frame markers; C4, C8 and CC among them mean something else.
START_OF_FRAME: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def megapixels_of(data: bytes) -> float:
    """Millions of pixels by the header; 0 where it says nothing that is understood here (TIFF among others)."""
    width, height = size_of(data)
    return width * height / 1e6


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height in pixels as they are stored, or zeros, as `megapixels_of`."""
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _big(data[16:20]), _big(data[20:24])
    if data[:4] == b"GIF8":
        return _little(data[6:8]), _little(data[8:10])
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:2] == b"BM":
        # The height of rows that run downwards is negative.
        return _little(data[18:22]), abs(int.from_bytes(data[22:26], "little", signed=True))
    return 0, 0


def _jpeg(data: bytes) -> tuple[int, int]:
    place = 2
    for _ in range(MAX_SEGMENTS):
        if data[place : place + 1] != b"\xff" or len(data) < place + 9:
            break
        marker = data[place + 1]
        if marker == 0xFF:  # Filling.
            place += 1
            continue
        if marker in START_OF_FRAME:
            return _big(data[place + 7 : place + 9]), _big(data[place + 5 : place + 7])
        place += 2 + _big(data[place + 2 : place + 4])
    return 0, 0


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return _little(data[24:27]) + 1, _little(data[27:30]) + 1
    if kind == b"VP8L":
        bits = _little(data[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return _little(data[26:28]) & 0x3FFF, _little(data[28:30]) & 0x3FFF
    return 0, 0


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
