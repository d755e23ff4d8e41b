"""A collector of OpenTelemetry: what takes OTLP over HTTP on this machine, as protobuf, and keeps the spans."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.awaiting import await_condition

# Spans are sent every second, and again after that if the collector was away.
ARRIVAL_TIMEOUT_S = 30.0
Value = str | int | float | bool


@dataclass(frozen=True)
class Span:
    """Ids in hex, times in nanoseconds since 1970. `links`: trace and span of each."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Value]
    links: tuple[tuple[str, str], ...]
    is_error: bool
    resource: dict[str, Value]

    @property
    def ids(self) -> tuple[str, str]:
        return self.trace_id, self.span_id


@dataclass
class Collector:
    endpoint: str
    spans: list[Span] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, request: ExportTraceServiceRequest) -> None:
        with self._lock:
            for resource in request.resource_spans:
                known = _plain(resource.resource.attributes)
                self.spans += [_span(span, known) for scope in resource.scope_spans for span in scope.spans]

    def named(self, name: str, trace_id: str | None = None) -> list[Span]:
        """In the order of their beginnings; of that trace, or of all."""
        with self._lock:
            found = [span for span in self.spans if span.name == name and trace_id in (None, span.trace_id)]
        return sorted(found, key=lambda span: span.start_ns)

    def trace(self, trace_id: str) -> list[Span]:
        with self._lock:
            return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.start_ns)

    def await_spans(self, name: str, count: int, trace_id: str | None = None) -> list[Span]:
        await_condition(lambda: len(self.named(name, trace_id)) >= count, ARRIVAL_TIMEOUT_S, f"{count} spans {name!r}")
        return self.named(name, trace_id)


@contextmanager
def running_collector(port: int) -> Iterator[Collector]:
    collector = Collector(f"http://127.0.0.1:{port}")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            is_otlp = self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
            if is_otlp:
                collector.take(ExportTraceServiceRequest.FromString(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200 if is_otlp else 404)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _span(span: SpanMessage, resource: dict[str, Value]) -> Span:
    return Span(
        name=span.name,
        kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        state=span.trace_state,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_plain(span.attributes),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        is_error=span.status.code == Status.STATUS_CODE_ERROR,
        resource=resource,
    )


def _plain(attributes: "list[KeyValue]") -> dict[str, Value]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in attributes}
