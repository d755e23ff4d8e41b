"""A decoder that hostile bytes have taken over can say what it likes: it is refused an image, and ended."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from deployments.decoder import ANSWER, FAILED, PIXELS, READY, REFUSED
from deployments.decoder_process import MAX_TEXT_BYTES, DecoderProcess
from deployments.errors import ApertureError, CorruptImage, TooManyPixels
from deployments.messages import Pixels
from deployments.settings import Limits, PreprocessingSpec

SPEC = PreprocessingSpec(resize_size=8, crop_size=8)
SIZE = 8 * 8 * 3
SCRIPT = """#!{python}
import os, sys
os.write(1, bytes.fromhex("{ready}"))
os.read(0, 100)
os.write(1, bytes.fromhex("{answer}"))
os.read(0, 10**6)
while True:
    os.write(1, b"more")
"""


def answered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: bytes) -> tuple[Pixels | ApertureError, bool]:
    """What becomes of an image whose decoder answers so, and whether the decoder has ended."""
    script = tmp_path / "decoder"
    ready = ANSWER.pack(READY, False, 0)
    script.write_text(SCRIPT.format(python=sys.executable, ready=ready.hex(), answer=answer.hex()))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    process = DecoderProcess(Limits())
    try:
        return process.preprocess(b"image", SPEC, 5.0, 30.0), process.has_ended
    finally:
        process.close()


def framed(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    return ANSWER.pack(kind, False, len(content) if size is None else size) + content


def refused(*fields: object) -> bytes:
    return framed(REFUSED, json.dumps(fields).encode())


@pytest.mark.parametrize(
    "answer",
    [
        framed(b"?", b"x"),
        framed(READY, b""),
        framed(PIXELS, b"", size=2**32 - 1),
        framed(PIXELS, bytes(SIZE + 1)),
        framed(PIXELS, bytes(SIZE - 1)),
        framed(PIXELS, b""),
        framed(REFUSED, b"", size=MAX_TEXT_BYTES + 1),
    ],
    ids=["unknown", "ready again", "4 GB", "a byte too many", "a byte too few", "nothing", "a long text"],
)
def test_an_answer_that_makes_no_sense_ends_the_decoder(
    answer: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outcome, has_ended = answered(monkeypatch, tmp_path, answer)
    assert isinstance(outcome, CorruptImage)
    assert has_ended


@pytest.mark.parametrize(
    "answer",
    [
        refused("Overloaded", "come again", None),
        refused("Unauthenticated", "who are you?", None),
        refused("ConfigError", "x", None),
        refused("ClassVar", "x", None),
        refused("__builtins__", "x", None),
        refused("CorruptImage", "x"),
        refused({"a": 1}, [], None),
        framed(REFUSED, b"\xff\xfe"),
        framed(REFUSED, b"[" * 50_000),
    ],
)
def test_a_refusal_that_is_none_of_an_image_is_one(
    answer: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outcome, _ = answered(monkeypatch, tmp_path, answer)
    assert type(outcome) is CorruptImage
    assert str(outcome) == "The image cannot be decoded."


def test_a_refusal_and_pixels_come_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    outcome, _ = answered(monkeypatch, tmp_path, refused("TooManyPixels", "many", "cause"))
    assert type(outcome) is TooManyPixels
    assert str(outcome) == "many"
    monkeypatch.undo()
    outcome, _ = answered(monkeypatch, tmp_path, framed(PIXELS, bytes(range(SIZE))))
    np.testing.assert_array_equal(outcome, np.arange(SIZE).reshape(8, 8, 3))


def test_a_failure_inside_is_raised_with_what_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        answered(monkeypatch, tmp_path, framed(FAILED, b"ZeroDivisionError"))


def test_a_decoder_that_does_not_start_is_no_images_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="did not start; it ended with status 1"):
        DecoderProcess(Limits())
