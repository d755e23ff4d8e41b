"""What every HTTP route shares: the body limit, the request id, Server-Timing, and errors as JSON."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.admission import current_visit
from deployments.errors import (
    ApertureError,
    BadRequest,
    BodyTooLarge,
    DeadlineExceeded,
    Overloaded,
    Unauthenticated,
)
from deployments.messages import Answer, DataPlane, ImageInput, ModelInfo
from deployments.protocols.addressing import ROUTING_KEY, answered, begin, chosen, names_of_answer
from deployments.protocols.cors import cross_origin
from deployments.protocols.door import Door, checked, path_of
from deployments.protocols.naming import protocol_of_http
from deployments.protocols.patience import arrived_at, patience_of, timeouts_in
from deployments.protocols.traced import traced_http
from deployments.records import Record, current, opened
from deployments.settings import Limits

logger = logging.getLogger("ray.serve")

ROUTING_KEY_HEADER = ROUTING_KEY.encode()
# HTTP's own refusals, made by the router, in the words of our error bodies.
ROUTER_CODES = {404: "not_found", 405: "method_not_allowed"}


def asgi_app(
    routes: Sequence[BaseRoute],
    limits: Limits,
    request_id: Callable[[], str],
    cors_origins: Sequence[str] = (),
    door: Door | None = None,
) -> Starlette:
    """The routes behind the envelope. `request_id` names the request that is being handled."""
    envelope = Middleware(Envelope, limits=limits, request_id=request_id, door=door)
    app = Starlette(
        routes=list(routes),
        middleware=[*cross_origin(cors_origins), *traced_http(), envelope],
        exception_handlers={ApertureError: _render_error, HTTPException: _render_router_error},
    )
    # curl does not follow redirects unless told to, and would show nothing.
    app.router.redirect_slashes = False
    return app


class Envelope:
    """Bounds the body and the time on the way in, adds headers on the way out, and contains any failure.

    Serve itself puts the request's id into x-request-id.
    """

    def __init__(self, app: ASGIApp, limits: Limits, request_id: Callable[[], str], door: Door | None = None) -> None:
        self._app = app
        self._door = door
        self._limits = limits
        self._request_id = request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with opened("other", None, self._request_id(), arrived_at.get(time.monotonic())) as record:
            try:
                await self._answer(scope, receive, send, record)
            finally:
                _name_route(record, scope)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, record: Record) -> None:
        request_id, state = record.request_id, scope.setdefault("state", {})
        state["request_id"] = request_id
        responding = False

        async def send_with_headers(message: Message) -> None:
            nonlocal responding
            if message["type"] == "http.response.start":
                responding, record.status = True, message["status"]
                headers = MutableHeaders(scope=message)
                headers["server-timing"] = server_timing(record)
                headers["x-content-type-options"] = "nosniff"
                headers.update(names_of_answer())
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                record.is_answered = True

        error: ApertureError | None = None
        deadline = asyncio.timeout(None)
        try:
            begin(_routing_keys(scope), request_id)
            state["patience"] = patience = patience_of(timeouts_in(scope["headers"]), self._limits)
            deadline = asyncio.timeout(max(0.0, record.started + patience.most_s - time.monotonic()))
            # The whole request, so that a body that trickles in does not hold its place for ever.
            async with deadline:
                with self._visit(scope, receive, patience.left_s()) as visited:
                    await self._app(scope, _bounded(scope, visited, self._limits.max_body_bytes), send_with_headers)
        except ClientDisconnect:
            logger.info("The client of request %s left before it was complete", request_id)
            record.leave()
        except (BadRequest, Overloaded) as refusal:
            error = refusal
        except Exception:
            if deadline.expired():
                error = DeadlineExceeded(f"No answer within {patience.most_s:g} s.")
            else:
                logger.exception("Request %s failed", request_id)
                error = ApertureError("The request failed because of an internal error.")
        if error is None and responding:
            # Starlette ends a stream without a word when its client leaves.
            record.leave()
        elif error is not None and responding:
            record.fail(error)
        elif error is not None:
            await error_response(error, request_id)(scope, receive, send_with_headers)

    @contextmanager
    def _visit(self, scope: Scope, receive: Receive, timeout_s: float) -> Iterator[Receive]:
        """`receive` for the time of the request's visit, which may have begun already (early.py). Raises Overloaded."""
        visit = current_visit.get()
        if visit is not None:
            yield checked(receive, visit)
        elif self._door is None or (visit := self._door.visit(scope, timeout_s)) is None:
            yield receive
        else:
            with visit:
                yield checked(self._door.counted(receive, visit), visit)


def chosen_in_query(plane: DataPlane, request: Request) -> ModelInfo:
    """What ?model= and ?version= or ?label= ask for. Raises as DataPlane.info_of."""
    query = request.query_params
    return chosen(plane, query.get("model"), query.get("version"), query.get("label"))


async def classified(
    plane: DataPlane, request: Request, images: Sequence[ImageInput | ApertureError], info: ModelInfo
) -> list[Answer | ApertureError]:
    """The answers of the data plane, and in the headers where they came from."""
    answers = await plane.classify(images, info, request.state.patience.left_s())
    answered(answers)
    return answers


def error_response(error: ApertureError, request_id: str) -> Response:
    current().fail(error)
    body = {"error": error.message, "code": error.code, "request_id": request_id}
    return JSONResponse(body, status_code=error.http_status, headers=headers_of(error))


def headers_of(error: ApertureError) -> dict[str, str]:
    if isinstance(error, Unauthenticated):
        return {"www-authenticate": "Bearer"}
    if isinstance(error, Overloaded) and error.retry_after_s is not None:
        # RFC 9110, section 10.2.3: whole seconds.
        return {"retry-after": str(max(1, math.ceil(error.retry_after_s)))}
    return {}


def _routing_keys(scope: Scope) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == ROUTING_KEY_HEADER]


def _bounded(scope: Scope, receive: Receive, max_body_bytes: int) -> Receive:
    """`receive` that raises BodyTooLarge, by the announced length before reading or by the count while reading."""
    received_bytes = 0
    announced = dict(scope["headers"]).get(b"content-length", b"0")

    def refuse() -> BodyTooLarge:
        return BodyTooLarge(f"The body is larger than the {max_body_bytes} bytes that this service accepts.")

    async def bounded_receive() -> Message:
        nonlocal received_bytes
        if announced.isdigit() and int(announced) > max_body_bytes:
            raise refuse()
        message = await receive()
        if message["type"] == "http.request":
            received_bytes += len(message.get("body", b""))
            if received_bytes > max_body_bytes:
                raise refuse()
        return message

    return bounded_receive


def server_timing(record: Record) -> str:
    """Of a request that is answered now. The stages add up to the total."""
    stages_ms = record.stages_ms(time.monotonic() - record.started)
    # https://www.w3.org/TR/server-timing/: durations are milliseconds.
    timings = [*stages_ms.items(), ("total", sum(stages_ms.values()))]
    return ", ".join(f"{name};dur={duration_ms:.2f}" for name, duration_ms in timings)


def _name_route(record: Record, scope: Scope) -> None:
    """By the route that Starlette has found, whether it took the method or not; some requests do not get so far."""
    record.route = getattr(scope.get("route"), "path", None)
    record.protocol = protocol_of_http(scope["method"], record.route or path_of(scope))


async def _render_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ApertureError):
        raise error
    return error_response(error, request.state.request_id)


async def _render_router_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    code = ROUTER_CODES.get(error.status_code, "bad_request")
    current().end(code, error.status_code)
    body = {
        "error": f"{error.detail}: {request.method} {request.url.path}",
        "code": code,
        "request_id": request.state.request_id,
    }
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)
