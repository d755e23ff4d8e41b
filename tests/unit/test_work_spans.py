"""Spans of what a Preprocessor and a Classifier have done for images of traced requests."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.image_files import encode, noise
from deployments.engines.base import Images
from deployments.engines.dummy import DummyEngine
from deployments.messages import Pixels
from deployments.preprocessor import Preprocessor
from deployments.served import ServedVersion
from deployments.settings import Limits, ModelSettings, PreprocessingSpec
from deployments.statistics import BatchStatistics
from deployments.trace_context import TraceContext
from deployments.tracing import ImageTrace
from deployments.work_spans import Traced
from tests.collector import Collector
from tests.unit.traces import collected

SETTINGS = ModelSettings(name="model", engine="dummy", max_batch_size=4)
PIXELS = np.full((224, 224, 3), 10, np.uint8)
POISON = 66
POISONED = np.full((224, 224, 3), POISON, np.uint8)


def trace(number: int, *, has_spans: bool = True) -> ImageTrace:
    """The call of one image of the request of that number."""
    return ImageTrace(TraceContext(number, number + 100, sampled=True), has_spans)


def ids(number: int) -> tuple[str, str]:
    return f"{number:032x}", f"{number + 100:016x}"


class Engine(DummyEngine):
    """Fails on poison, for whatever batch it is in."""

    def infer(self, images: Images) -> NDArray[np.float32]:
        if any(image[0, 0, 0] == POISON for image in images):
            raise RuntimeError("The engine failed.")
        return super().infer(images)


def classified(items: Sequence[Pixels | Traced]) -> Collector:
    """The spans of a version that got these at once."""

    async def run() -> None:
        served = ServedVersion(Engine(SETTINGS), SETTINGS, nullcontext, [BatchStatistics()])
        await asyncio.gather(*(served.gate.submit(item) for item in items), return_exceptions=True)
        served.close()

    with collected() as collector:
        asyncio.run(run())
    return collector


def test_a_batch_is_linked_to_every_request_in_it_and_each_of_them_to_the_batch() -> None:
    collector = classified([Traced(PIXELS, trace(1), 0.0), PIXELS, Traced(PIXELS, trace(2), 0.0)])
    (batch,) = collector.named("batch")
    assert set(batch.links) == {ids(1), ids(2)}
    assert batch.parent_id == ""
    assert batch.attributes == {
        "aperture.batch.size": 3,
        "aperture.model.name": "model",
        "aperture.model.version": 1,
        "aperture.engine": "dummy",
        "aperture.precision": "fp32",
        "aperture.device": "cpu",
    }
    for number in (1, 2):
        trace_id, span_id = ids(number)
        (queue,), (inference,) = collector.named("queue", trace_id), collector.named("inference", trace_id)
        assert (queue.parent_id, inference.parent_id) == (span_id, span_id)
        assert inference.links == (batch.ids,)
        assert abs(queue.end_ns - inference.start_ns) < 1e6
        assert abs(inference.end_ns - batch.end_ns) < 1e6


def test_images_beyond_the_bound_of_their_request_are_linked_to_once_and_have_no_spans() -> None:
    beyond = [Traced(PIXELS, trace(1, has_spans=False), 0.0) for _ in range(3)]
    collector = classified([*beyond, Traced(PIXELS, trace(2), 0.0)])
    (batch,) = collector.named("batch")
    assert sorted(batch.links) == [ids(1), ids(2)]
    assert collector.trace(ids(1)[0]) == []


def test_a_batch_of_nothing_that_is_traced_has_no_span() -> None:
    assert classified([PIXELS, PIXELS]).spans == []


def test_a_batch_that_failed_and_those_that_its_images_were_run_in_again_are_all_there() -> None:
    collector = classified([Traced(PIXELS, trace(1), 0.0), Traced(POISONED, trace(2), 0.0)])
    batches = [(span.attributes["aperture.batch.size"], span.is_error) for span in collector.named("batch")]
    assert batches == [(2, True), (1, False), (1, True), (1, True)]
    assert [span.is_error for span in collector.named("inference", ids(1)[0])] == [True, False]
    assert [span.attributes["error.type"] for span in collector.named("inference", ids(2)[0])] == ["RuntimeError"] * 3
    assert len(collector.named("queue")) == 2


@pytest.mark.parametrize("has_spans", [True, False])
def test_each_image_that_is_decoded_has_a_span_and_a_bad_one_says_why(has_spans: bool) -> None:
    async def run() -> None:
        preprocessor = Preprocessor(Limits(), threads=1)
        jobs = [(encode(noise(80, 60), "JPEG"), 60.0), (b"text", 60.0), (encode(noise(80, 60), "JPEG"), 60.0)]
        traces = [trace(1, has_spans=has_spans), trace(2, has_spans=has_spans), None]
        await preprocessor.preprocess(jobs, PreprocessingSpec(resize_size=64, crop_size=56), traces=traces)
        preprocessor.close()

    with collected() as collector:
        asyncio.run(run())
    if not has_spans:
        assert collector.spans == []
        return
    good, bad = collector.named("decode")
    assert [(span.trace_id, span.parent_id) for span in (good, bad)] == [ids(1), ids(2)]
    assert ("error.type" in good.attributes, bad.attributes["error.type"]) == (False, "unsupported_format")
    assert not bad.is_error
