"""OpenTelemetry's part of tracing.py: making spans and sending them. Imported only where traces are on.

Its providers are this project's own: the global ones are left to whoever else is in the process, as Ray is.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from deployments.settings import Traces
from deployments.trace_context import TraceContext

logger = logging.getLogger("ray.serve")

SERVICE: Final = "aperture"
# OTLP over HTTP: what follows the endpoint.
TRACES_PATH: Final = "/v1/traces"
# Ten seconds of spans at some 60 traced requests a second and a replica; a span takes about 2 KiB of memory.
MAX_WAITING_SPANS: Final = 4096
MAX_SPANS_OF_EXPORT: Final = 512
EXPORT_EVERY_MS: Final = 1000
# For one export, its repetitions included, which nobody waits for.
EXPORT_TIMEOUT_S: Final = 5.0
# For what is still to be sent when a replica ends.
CLOSE_TIMEOUT_S: Final = 2.0
# How often the log says that spans are lost.
COMPLAIN_EVERY_S: Final = 60.0
# A batch may have as many images (ModelSettings.max_batch_size), each of another request.
MAX_LINKS: Final = 1024
# Longer than anything that is noted of a span.
MAX_ATTRIBUTE_CHARACTERS: Final = 256


class Spans:
    """Of one process. `requests` are sampled as the settings say; whatever else is made belongs to one that is."""

    def __init__(self, traces: Traces, deployment: str, replica: str) -> None:
        self._collector = Collector(traces.endpoint)
        self._processor = BatchSpanProcessor(
            self._collector, MAX_WAITING_SPANS, EXPORT_EVERY_MS, MAX_SPANS_OF_EXPORT, EXPORT_TIMEOUT_S * 1000
        )
        resource = Resource.create(
            {
                "service.name": SERVICE,
                "service.version": _version(),
                "service.instance.id": replica,
                "aperture.deployment": deployment,
            }
        )
        limits = SpanLimits(max_links=MAX_LINKS, max_attribute_length=MAX_ATTRIBUTE_CHARACTERS)
        samplers = (ParentBased(TraceIdRatioBased(traces.sample_ratio)), ALWAYS_ON)
        providers = [
            TracerProvider(sampler, resource, shutdown_on_exit=False, span_limits=limits) for sampler in samplers
        ]
        for provider in providers:
            provider.add_span_processor(self._processor)
        self._requests, self._parts = (provider.get_tracer(SERVICE) for provider in providers)

    def request(
        self, name: str, parent: TraceContext | None, started: float, attributes: Mapping[str, str | int]
    ) -> Span:
        """The span of a request, which does not record unless it is sampled. `started`: in time.monotonic()."""
        return self._requests.start_span(
            name,
            set_span_in_context(NonRecordingSpan(span_context(parent))) if parent else NOWHERE,
            SpanKind.SERVER,
            dict(attributes),
            start_time=to_ns(started),
        )

    def part(
        self,
        name: str,
        parent: TraceContext | None,
        started: float,
        *,
        links: Sequence[TraceContext] = (),
        is_call: bool = False,
    ) -> Span:
        """The span of something that is done for a request, or with a link to each of several."""
        return self._parts.start_span(
            name,
            set_span_in_context(NonRecordingSpan(span_context(parent))) if parent else NOWHERE,
            SpanKind.CLIENT if is_call else SpanKind.INTERNAL,
            links=[Link(span_context(link)) for link in links],
            start_time=to_ns(started),
        )

    @staticmethod
    def context_of(span: Span) -> TraceContext:
        context = span.get_span_context()
        state = tuple(context.trace_state.items())
        return TraceContext(context.trace_id, context.span_id, context.trace_flags.sampled, state)

    @staticmethod
    def blame(span: Span) -> None:
        """Of what is the client's own fault the status says nothing, as OpenTelemetry has it for servers."""
        span.set_status(Status(StatusCode.ERROR))

    @staticmethod
    def end(span: Span, ended: float) -> None:
        span.end(to_ns(ended))

    def close(self) -> None:
        """Sends what waits; blocks for CLOSE_TIMEOUT_S at most."""
        ending = threading.Thread(target=self._end, name="spans-ending", daemon=True)
        ending.start()
        ending.join(CLOSE_TIMEOUT_S)

    def _end(self) -> None:
        self._processor.shutdown()  # type: ignore[no-untyped-call]


# An empty context, so that nothing that is current in this process is taken for a parent.
NOWHERE: Final = set_span_in_context(NonRecordingSpan(SpanContext(0, 0, is_remote=False)))


class Collector(SpanExporter):
    """What takes the spans, which may be away: then they are lost, and the log says so now and then."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._lost = 0
        self._complained = -COMPLAIN_EVERY_S
        self._exporter = OTLPSpanExporter(endpoint.rstrip("/") + TRACES_PATH, timeout=EXPORT_TIMEOUT_S)
        # It has a line for each attempt.
        logging.getLogger(OTLPSpanExporter.__module__).setLevel(logging.CRITICAL)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._lost += len(spans)
            self._complain()
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _complain(self) -> None:
        now = time.monotonic()
        if now - self._complained > COMPLAIN_EVERY_S:
            self._complained = now
            logger.warning("Spans are lost, %d so far: %s does not take them", self._lost, self._endpoint)


def span_context(context: TraceContext) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    return SpanContext(context.trace_id, context.span_id, True, flags, TraceState(list(context.state)))


def to_ns(moment: float) -> int:
    """Of time.monotonic(), in nanoseconds since 1970, by what the clocks say now."""
    return time.time_ns() + round((moment - time.monotonic()) * 1e9)


def _version() -> str:
    try:
        return version_of(SERVICE)
    except PackageNotFoundError:  # It runs from a checkout.
        return "unknown"
