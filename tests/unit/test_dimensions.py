"""What an image says of its size, against what Pillow reads."""

import io
import random

import pytest
from PIL import Image

from deployments.dimensions import megapixels_of

SIZES = [(1, 1), (640, 480), (333, 1000), (4000, 3000)]


def encoded(size: tuple[int, int], kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (10, 200, 30)).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_the_pixels_of_a_header_are_counted(kind: str, size: tuple[int, int]) -> None:
    assert megapixels_of(encoded(size, kind)) == size[0] * size[1] / 1e6


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {"progressive": True}), ("JPEG", {"exif": b"Exif\0\0" + bytes(60_000)}), ("WEBP", {"lossless": True})],
    ids=["progressive", "behind metadata", "lossless"],
)
def test_other_kinds_of_headers_are_counted(kind: str, options: dict[str, object]) -> None:
    assert megapixels_of(encoded((640, 480), kind, **options)) == 0.3072


def test_a_webp_with_an_alpha_channel_is_counted() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (640, 480), (10, 200, 30, 40)).save(file, "WEBP")
    assert megapixels_of(file.getvalue()) == 0.3072


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"BM", b"RIFF\0\0\0\0WEBPVP8X", b"GIF8", b"photo", b"II*\0"])
def test_what_is_not_understood_counts_as_nothing(data: bytes) -> None:
    assert megapixels_of(data) < 1e-5


def test_no_bytes_whatever_raise_or_count_as_negative() -> None:
    rng = random.Random(0)
    whole = [encoded((64, 48), kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP")]
    for _ in range(3000):
        data = bytearray(rng.choice(whole)[: rng.randrange(1, 400)])
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        assert megapixels_of(bytes(data)) >= 0


def test_a_jpeg_of_nothing_but_segments_takes_bounded_work() -> None:
    assert megapixels_of(b"\xff\xd8" + b"\xff\xe0\x00\x02" * 1_000_000) == 0
