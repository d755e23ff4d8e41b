"""Where a request enters, its span: named and described as OpenTelemetry's conventions for HTTP and RPC have it.

    https://opentelemetry.io/docs/specs/semconv/http/http-spans/
    https://opentelemetry.io/docs/specs/semconv/rpc/grpc/

What came of it is the record's to say (records.py). What a client has written is in none of it: no path, no query, no
header. Whoever asks for health asks every second, and has no spans; nor has what is refused before Serve begins with it
(early.py).
"""

import time
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments import tracing
from deployments.errors import ApertureError
from deployments.protocols.authentication import OPEN_ROUTES, OPEN_RPCS, Call
from deployments.protocols.patience import arrived_at
from deployments.trace_context import TRACEPARENT, TRACESTATE
from deployments.tracing import RequestTrace

# Any other is "_OTHER", and "HTTP" in the name of its span.
METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", "QUERY"})
# Below whatever prefix the application has.
HEALTH_PATHS: Final = tuple(OPEN_ROUTES)
RPC_STATUS: Final = "rpc.response.status_code"
# Those that a server is to blame for; Overloaded's RESOURCE_EXHAUSTED is not among them.
RPC_FAULTS: Final = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


def traced_http() -> list[Middleware]:
    """Nothing while there are no traces."""
    return [] if tracing.spans() is None else [Middleware(Traced)]


class Traced:
    """Around the Envelope, which opens the request's record."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].endswith(HEALTH_PATHS):
            await self._app(scope, receive, send)
            return
        headers, is_known = Headers(scope=scope), scope["method"] in METHODS
        attributes = {"http.request.method": scope["method"] if is_known else "_OTHER", "url.scheme": scope["scheme"]}
        name = scope["method"] if is_known else "HTTP"
        status: int | None = None

        async def send_with_trace(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(tracing.response_headers())
            await send(message)

        parents, states = headers.getlist(TRACEPARENT), headers.getlist(TRACESTATE)
        with tracing.request(name, arrived_at.get(time.monotonic()), parents, states, attributes) as trace:
            await self._app(scope, receive, send_with_trace)
            if trace is not None:
                _describe(trace, name, scope, status)


def _describe(trace: RequestTrace, method: str, scope: Scope, status: int | None) -> None:
    route = getattr(scope.get("route"), "path", None)
    if route is not None:
        trace.span.update_name(f"{method} {route}")
        trace.span.set_attribute("http.route", route)
    if status is not None:
        trace.span.set_attribute("http.response.status_code", status)
        if status >= 500:
            trace.blame()


def traced_rpc(name: str, request: Any, call: Call) -> AbstractContextManager[RequestTrace | None]:
    """The span of a call of the method of that name, or of one request of a stream of them."""
    if tracing.spans() is None or name in OPEN_RPCS:
        return nullcontext()
    method = method_of(request.DESCRIPTOR.file, name)
    attributes = {"rpc.system.name": "grpc", "rpc.method": method}
    metadata = call.invocation_metadata()
    parents = [value for key, value in metadata if key == TRACEPARENT]
    states = [value for key, value in metadata if key == TRACESTATE]
    return tracing.request(method, time.monotonic(), parents, states, attributes)


def traced_call(method: str, traceparent: str | None) -> AbstractContextManager[RequestTrace | None]:
    """The span of a call of a method of the Ingress by a Python handle."""
    attributes = {"rpc.system.name": "ray_serve", "rpc.method": method}
    return tracing.request(method, time.monotonic(), [traceparent] if traceparent else [], (), attributes)


def rpc_succeeded() -> dict[str, str]:
    """What the trailing metadata say of the call's trace."""
    tracing.note({RPC_STATUS: "OK"})
    return tracing.response_headers()


def rpc_failed(error: ApertureError) -> dict[str, str]:
    """As `rpc_succeeded`."""
    tracing.note({RPC_STATUS: error.grpc_status})
    if error.grpc_status in RPC_FAULTS and (trace := tracing.current()) is not None:
        trace.blame()
    return tracing.response_headers()


@lru_cache(maxsize=64)  # There are half as many.
def method_of(file: Any, name: str) -> str:
    """ "inference.GRPCInferenceService/ModelInfer", by the file that its request is declared in."""
    services = file.services_by_name.values()
    return next((f"{service.full_name}/{name}" for service in services if name in service.methods_by_name), name)
