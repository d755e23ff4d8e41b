"""The Preprocessor's calls: each image its own answer, and figures of what was really done."""

import asyncio

import numpy as np
import pytest

from benchmarks.image_files import encode, noise
from deployments import decoding
from deployments.errors import CorruptImage, DeadlineExceeded, UnsupportedFormat
from deployments.preprocessor import Preprocessor
from deployments.settings import Limits, PreprocessingSpec

SPEC = PreprocessingSpec(resize_size=64, crop_size=56)
PHOTOGRAPH = encode(noise(80, 60), "JPEG")
LONG_S = 60.0


@pytest.fixture(autouse=True)
def no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would need a replica."""
    monkeypatch.setattr(decoding, "count_dropped", lambda place, reason: None)


def test_a_bad_image_and_a_late_one_fail_alone_in_their_call() -> None:
    async def call() -> None:
        preprocessor = Preprocessor(Limits(), threads=1)
        jobs = [(PHOTOGRAPH, LONG_S), (PHOTOGRAPH[:500], LONG_S), (b"text", LONG_S), (PHOTOGRAPH, -1.0)]
        good, corrupt, unknown, late = await preprocessor.preprocess(jobs, SPEC)
        assert isinstance(good, np.ndarray)
        assert good.shape == (56, 56, 3)
        assert isinstance(corrupt, CorruptImage)
        assert isinstance(unknown, UnsupportedFormat)
        assert isinstance(late, DeadlineExceeded)
        preprocessor.close()

    asyncio.run(call())


def test_what_was_dropped_counts_as_come_but_not_as_done() -> None:
    async def call() -> dict[str, float]:
        preprocessor = Preprocessor(Limits(), threads=1)
        await preprocessor.preprocess([(PHOTOGRAPH, LONG_S), (PHOTOGRAPH, -1.0), (PHOTOGRAPH, -1.0)], SPEC)
        figures = await preprocessor.record_autoscaling_stats()
        preprocessor.close()
        return figures

    figures = asyncio.run(call())
    assert (figures["arrived"], figures["images"], figures["batches"], figures["waiting"]) == (3, 1, 1, 0)


def test_nothing_waits_any_more_after_a_caller_has_left() -> None:
    async def leave() -> dict[str, float]:
        preprocessor = Preprocessor(Limits(), threads=1)
        call = asyncio.create_task(preprocessor.preprocess([(PHOTOGRAPH, LONG_S)] * 50, SPEC))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert call.cancelled()
        figures = await preprocessor.record_autoscaling_stats()
        preprocessor.close()
        return figures

    figures = asyncio.run(leave())
    assert figures["waiting"] == 0
    assert figures["images"] < 50
