"""Spans of a request's calls to other deployments, what travels with its images, and traces that are off or unheard."""

import asyncio
import contextvars
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from ray.exceptions import ActorUnavailableError

from deployments import deadlines, spans, tracing
from deployments.errors import ApertureError, ConfigError, CorruptImage
from deployments.hops import Hops
from deployments.messages import ModelInfo, Pixels, Scores
from deployments.settings import ModelSettings, PreprocessingSpec, Settings, Traces
from deployments.trace_context import TraceContext
from deployments.tracing import MAX_CALLS, ImageTrace
from tests.awaiting import free_port
from tests.unit.bytes_plane import predict
from tests.unit.traces import SAMPLED, TRACE, UNSAMPLED, Replica, collected

MODEL = ModelSettings(name="model", engine="dummy")
INFO = ModelInfo("model", 1, ("red", "green"), PreprocessingSpec(), "dummy", "dummy", "fp32", "cpu")


# Calls of other deployments


class Deployment:
    """In the place of Serve's handles: notes what comes beside the images of each call."""

    def __init__(self, outcome: Pixels | Scores | ApertureError) -> None:
        self.calls: list[tuple[int, dict[str, Any]]] = []
        self._outcome = outcome
        self.preprocess = self.classify = self

    async def remote(self, jobs: Sequence[Any], *args: Any, **kwargs: Any) -> list[Any]:
        kwargs.pop("version", None)
        self.calls.append((len(jobs), kwargs))
        await asyncio.sleep(0)
        return [self._outcome] * len(jobs)

    def traces(self) -> list[ImageTrace | None]:
        return [trace for images, kwargs in self.calls for trace in kwargs.get("traces", [None] * images)]


PIXELS = np.zeros((4, 4, 3), np.uint8)
SCORES = Scores(np.zeros(2, np.float32), 1, 0.0)


async def ask(images: int, outcome: Pixels | ApertureError = PIXELS, **request: Any) -> tuple[Deployment, Deployment]:
    """What the two deployments got from a request with so many images."""
    preprocessor, classifier = Deployment(outcome), Deployment(SCORES)
    hops = Hops(MODEL, Settings(models=(MODEL,)), preprocessor, classifier, INFO)  # type: ignore[arg-type]
    deadline = deadlines.after(10.0)

    async def ask_one() -> None:
        pixels = await hops.preprocess(b"image", deadline)
        if not isinstance(pixels, ApertureError):
            await hops.classify(pixels, deadline)

    with tracing.request("request", time.monotonic(), **request):
        await asyncio.gather(*(ask_one() for _ in range(images)))
    return preprocessor, classifier


def ids_of(context: TraceContext) -> tuple[str, str]:
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def test_each_image_travels_with_the_span_of_its_call() -> None:
    with collected() as collector:
        preprocessor, classifier = asyncio.run(ask(3, traceparents=[SAMPLED], tracestates=["congo=t61"]))
    (request,) = collector.named("request")
    for name, deployment in (("preprocess", preprocessor), ("classify", classifier)):
        calls = collector.named(name)
        assert [(span.kind, span.parent_id) for span in calls] == [("CLIENT", request.span_id)] * 3
        travelled = [trace for trace in deployment.traces() if trace is not None]
        assert {ids_of(trace.context) for trace in travelled} == {span.ids for span in calls}
        assert {(trace.has_spans, trace.context.state) for trace in travelled} == {(True, (("congo", "t61"),))}


@pytest.mark.parametrize("request_is", [{"traceparents": [UNSAMPLED]}, {}], ids=["unsampled", "new"])
def test_nothing_travels_with_images_that_are_not_sampled(request_is: dict[str, Any]) -> None:
    with collected(sample_ratio=0.0) as collector:
        preprocessor, classifier = asyncio.run(ask(3, **request_is))
    assert collector.spans == []
    assert [kwargs for _, kwargs in preprocessor.calls + classifier.calls if kwargs] == []


def test_images_of_several_requests_keep_their_own_traces_in_one_call() -> None:
    async def call() -> tuple[Deployment, list[str]]:
        preprocessor = Deployment(PIXELS)
        hops = Hops(MODEL, Settings(models=(MODEL,)), preprocessor, Deployment(SCORES), INFO)  # type: ignore[arg-type]
        ids = []

        async def ask_one(traceparents: list[str]) -> None:
            with tracing.request("request", time.monotonic(), traceparents):
                ids.append(tracing.trace_id() or "")
                await hops.preprocess(b"image", deadlines.after(10.0))

        await asyncio.gather(*(ask_one(parents) for parents in ([], [SAMPLED], [UNSAMPLED], [], [SAMPLED])))
        return preprocessor, ids

    with collected():
        preprocessor, ids = asyncio.run(call())
    assert max(images for images, _ in preprocessor.calls) > 1
    travelled = [None if trace is None else ids_of(trace.context)[0] for trace in preprocessor.traces()]
    assert travelled == [ids[0], TRACE, None, ids[3], TRACE]


def test_a_request_of_64_images_has_a_bounded_number_of_spans_and_is_known_to_every_batch() -> None:
    with collected() as collector:
        preprocessor, classifier = asyncio.run(ask(64))
    (request,) = collector.named("request")
    assert len(collector.spans) == 1 + 2 * MAX_CALLS
    assert request.attributes | {"aperture.calls.preprocess": 64, "aperture.calls.classify": 64} == request.attributes
    for deployment in (preprocessor, classifier):
        beyond = [trace for trace in deployment.traces() if trace is not None and not trace.has_spans]
        assert len(beyond) == 64 - MAX_CALLS
        assert {ids_of(trace.context) for trace in beyond} == {request.ids}


def test_a_call_that_returns_a_refusal_is_named_by_its_code() -> None:
    with collected() as collector:
        asyncio.run(ask(1, CorruptImage("The image is corrupt.")))
    (preprocess,) = collector.named("preprocess")
    assert (preprocess.attributes["error.type"], preprocess.is_error) == ("corrupt_image", False)


class LosingDeployment(Deployment):
    """Loses whatever is asked together with others, and answers what is asked alone."""

    def __init__(self) -> None:
        super().__init__(SCORES)
        self.classify_alone = SimpleNamespace(remote=self.alone)

    async def remote(self, jobs: Sequence[Any], *args: Any, **kwargs: Any) -> list[Any]:
        await super().remote(jobs, *args, **kwargs)
        raise ActorUnavailableError("Actor is unavailable.", b"a" * 16)

    def options(self, *, stream: bool) -> "LosingDeployment":
        assert stream
        return self

    async def alone(self, job: Any, *, version: int, **kwargs: Any) -> AsyncIterator[Scores | None]:
        self.calls.append((1, kwargs))
        yield None
        yield SCORES


def test_an_image_that_is_asked_for_again_keeps_its_trace() -> None:
    async def call() -> LosingDeployment:
        classifier = LosingDeployment()
        hops = Hops(MODEL, Settings(models=(MODEL,)), Deployment(PIXELS), classifier, INFO)  # type: ignore[arg-type]
        with tracing.request("request", time.monotonic()):
            await hops.classify(PIXELS, deadlines.after(10.0))
        return classifier

    with collected() as collector:
        classifier = asyncio.run(call())
    (classify,) = collector.named("classify")
    first, again = classifier.traces()
    assert first == again
    assert first is not None
    assert ids_of(first.context) == classify.ids


def test_a_request_goes_on_where_its_work_is_done_in_another_context() -> None:
    async def call() -> None:
        hops = Hops(MODEL, Settings(models=(MODEL,)), Deployment(PIXELS), Deployment(SCORES), INFO)  # type: ignore[arg-type]
        with tracing.request("request", time.monotonic()):
            preprocess = tracing.carried(hops.preprocess)
            computing = preprocess(b"image", deadlines.after(10.0))
            await asyncio.create_task(computing, context=contextvars.Context())  # type: ignore[arg-type]

    with collected() as collector:
        asyncio.run(call())
    assert [span.parent_id for span in collector.named("preprocess")] == [collector.named("request")[0].span_id]


# On and off


def test_without_the_setting_nothing_of_opentelemetry_is_imported_and_nothing_is_said() -> None:
    code = (
        "import sys, time\n"
        "from deployments import tracing, work_spans\n"
        "with tracing.request('request', time.monotonic()) as trace, tracing.call('call') as call:\n"
        "    print(trace, call.trace, tracing.trace_id(), tracing.response_headers())\n"
        "print([name for name in sys.modules if 'opentelemetry' in name])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == ["None None None {}", "[]"]
    assert "traceresponse" not in predict(content=b"photo", headers={"traceparent": SAMPLED}).headers


def test_a_service_that_cannot_send_spans_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.delitem(sys.modules, "deployments.spans", raising=False)
    with pytest.raises(ConfigError, match=r"telemetry\.traces needs opentelemetry-exporter-otlp-proto-http"):
        tracing.start(Traces(endpoint="http://127.0.0.1:4318"), Replica())
    assert tracing.spans() is None


def test_a_collector_that_is_away_costs_a_line_in_the_log_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Less than it waits before it tries again.
    monkeypatch.setattr(spans, "EXPORT_TIMEOUT_S", 0.5)
    away = spans.Collector(f"http://127.0.0.1:{free_port()}/")
    span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("span")
    assert isinstance(span, ReadableSpan)
    logging.getLogger("ray.serve").addHandler(caplog.handler)
    try:
        assert [away.export([span, span]) for _ in range(3)] == [SpanExportResult.FAILURE] * 3
    finally:
        logging.getLogger("ray.serve").removeHandler(caplog.handler)
    (message,) = caplog.messages
    assert message.startswith("Spans are lost, 2 so far: http://127.0.0.1:")


def test_requests_are_answered_while_the_collector_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spans, "EXPORT_TIMEOUT_S", 0.5)
    tracing.start(Traces(endpoint=f"http://127.0.0.1:{free_port()}"), Replica())
    try:
        assert [predict(content=b"photo").status_code for _ in range(10)] == [200] * 10
    finally:
        tracing.stop()
    assert tracing.spans() is None
