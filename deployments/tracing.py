"""Traces: what one request does in each of the deployments, as spans that a collector puts together.

    the request              SERVER, where it enters: HTTP, gRPC or a Python handle
      fetch                  CLIENT, from the Ingress: an image URL
      preprocess             CLIENT, from the Ingress, its wait for a call included
        decode               in the Preprocessor
      classify               CLIENT, from the Ingress, its wait for a call included
        queue                in the Classifier, at the merge gate
        inference            in the Classifier, linked to the batch that it was part of
      explain                CLIENT, from the Ingress: a heat map
    batch                    in the Classifier, one for each run of the engine, in a trace of its own, linked to the
                             requests in it

Here is the side of the Ingress; work_spans.py has that of the other two. Off, each place costs one comparison, and
nothing of OpenTelemetry is imported (spans.py). On, what is sampled of a request travels beside its images, as an
`ImageTrace` each: they share calls and batches with those of other requests. docs/decisions/0013-traces.md says why.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, ParamSpec, Protocol, TypeVar

from deployments.errors import ApertureError, ConfigError
from deployments.settings import Traces
from deployments.trace_context import TRACERESPONSE, TraceContext, parsed

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from deployments.spans import Spans

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Attributes = Mapping[str, str | int]

# Calls of a request that have spans, of each name: with those beneath them some 80 spans for a request of 64 images.
# The others are counted in the span of the request, and linked to by the batches that they are in.
MAX_CALLS: Final = 16

# Of this process.
_spans: "Spans | None" = None


class Replica(Protocol):
    """What is asked of Serve's context of a replica."""

    @property
    def deployment(self) -> str: ...
    @property
    def replica_tag(self) -> str: ...


def start(traces: Traces, replica: Replica) -> None:
    """From now on this process has spans. Raises ConfigError if what sends them is not installed."""
    global _spans
    try:
        from deployments.spans import Spans
    except ImportError:
        raise ConfigError(
            "telemetry.traces needs opentelemetry-exporter-otlp-proto-http, which is not installed; the extra "
            "`traces` has it: pip install '.[traces]'."
        ) from None
    _spans = Spans(traces, replica.deployment, replica.replica_tag)


def stop() -> None:
    """Sends what waits; blocks for some seconds at most."""
    global _spans
    spans, _spans = _spans, None
    if spans is not None:
        spans.close()


def spans() -> "Spans | None":
    """Those of this process, where traces are on."""
    return _spans


class ImageTrace(NamedTuple):
    """The span that one image's work belongs to. `has_spans`: whether that work has spans of its own."""

    context: TraceContext
    has_spans: bool


# Where a request enters


@dataclass(slots=True)
class RequestTrace:
    """The span of a request that is being handled."""

    spans: "Spans"
    span: "Span"
    context: TraceContext
    calls: dict[str, int] = field(default_factory=dict)

    def blame(self) -> None:
        """That it failed is this service's fault, and not its client's."""
        self.spans.blame(self.span)

    def end(self) -> None:
        self.span.set_attributes({f"aperture.calls.{name}": count for name, count in self.calls.items()})
        self.span.end()


_current: ContextVar[RequestTrace | None] = ContextVar("request_trace", default=None)


def request(
    name: str,
    started: float,
    traceparents: Sequence[str] = (),
    tracestates: Sequence[str] = (),
    attributes: Attributes | None = None,
) -> AbstractContextManager[RequestTrace | None]:
    """The span of a request, for as long as the block runs; None while there are no traces.

    `started`: in time.monotonic(). `traceparents`, `tracestates`: the values of those headers, however many came.
    """
    if _spans is None:
        return nullcontext()
    return _request(_spans, name, started, parsed(traceparents, tracestates), attributes or {})


@contextmanager
def _request(
    spans: "Spans", name: str, started: float, parent: TraceContext | None, attributes: Attributes
) -> Iterator[RequestTrace]:
    span = spans.request(name, parent, started, attributes)
    trace = RequestTrace(spans, span, spans.context_of(span))
    token = _current.set(trace)
    try:
        yield trace
    except Exception as err:
        note_error(spans, span, err)
        raise
    finally:
        _current.reset(token)
        trace.end()


def current() -> RequestTrace | None:
    """That of the request that is being handled, if there is one."""
    return None if _spans is None else _current.get()


def note(attributes: Attributes) -> None:
    """Of the request that is being handled."""
    if (trace := current()) is not None:
        trace.span.set_attributes(attributes)


def trace_id() -> str | None:
    """Of the request that is being handled, in hex, whether it is sampled or not; None if there are no traces."""
    return None if (trace := current()) is None else f"{trace.context.trace_id:032x}"


def response_headers() -> dict[str, str]:
    """By which a client finds the request's trace; as HTTP headers, or as trailing metadata of gRPC."""
    return {} if (trace := current()) is None else {TRACERESPONSE: trace.context.traceparent()}


def carried(function: Callable[Parameters, Awaitable[Result]]) -> Callable[Parameters, Awaitable[Result]]:
    """The function, as part of the request that is being handled, also where it is called in another context."""
    trace = current()
    if trace is None:
        return function

    async def part_of_the_request(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        _current.set(trace)
        return await function(*args, **kwargs)

    return part_of_the_request


# Calls from the Ingress


class Call:
    """`trace` is to travel with the image that the call is for."""

    __slots__ = ("_span", "_spans", "trace")

    def __init__(self, trace: ImageTrace | None, spans: "Spans | None" = None, span: "Span | None" = None) -> None:
        self.trace = trace
        self._spans = spans
        self._span = span

    def returned(self, outcome: Result) -> Result:
        """The outcome itself, which is noted if it is an error."""
        if self._span is not None and self._spans is not None and isinstance(outcome, ApertureError):
            note_error(self._spans, self._span, outcome)
        return outcome


UNTRACED: Final = nullcontext(Call(None))


def call(name: str) -> AbstractContextManager[Call]:
    """A call for one image of the request that is being handled, for as long as the block runs."""
    trace = current()
    if trace is None or not trace.context.sampled:
        return UNTRACED
    trace.calls[name] = number = trace.calls.get(name, 0) + 1
    if number > MAX_CALLS:
        return nullcontext(Call(ImageTrace(trace.context, has_spans=False)))
    return _call(trace.spans, name, trace.context)


@contextmanager
def _call(spans: "Spans", name: str, context: TraceContext) -> Iterator[Call]:
    span = spans.part(name, context, time.monotonic(), is_call=True)
    try:
        yield Call(ImageTrace(spans.context_of(span), has_spans=True), spans, span)
    except BaseException as err:
        note_error(spans, span, err)
        raise
    finally:
        span.end()


def traces_of(traces: Sequence[ImageTrace | None]) -> dict[str, Any]:
    """The argument by which a call says of each of its images which trace it is part of; none if none is."""
    return {"traces": list(traces)} if any(traces) else {}


def note_error(spans: "Spans", span: "Span", error: BaseException) -> None:
    """A code of errors.py, or the name of a class: nothing that a client has written."""
    span.set_attribute("error.type", error.code if isinstance(error, ApertureError) else type(error).__name__)
    # One that is no Exception has come from outside: the client has left, or the process ends.
    if error.http_status >= 500 if isinstance(error, ApertureError) else isinstance(error, Exception):
        spans.blame(span)
