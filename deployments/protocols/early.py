"""Refusals before Serve has begun with a request.

What Serve does for a request (a task, metadata, metrics, a line in its log, reading ahead) costs more than its refusal,
and past capacity there are many more refusals than answers. So the edge asks at the door first, where the Ingress is in
its process. The visit begins here, too: Serve reads bodies while requests wait in line for their turn.
"""

import json
import uuid
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import ApertureError, BadRequest, Overloaded, Unauthenticated
from deployments.protocols.authentication import OPEN_ROUTES, stranger
from deployments.protocols.door import path_of, the_door
from deployments.protocols.http import headers_of, server_timing
from deployments.protocols.naming import protocol_of_http
from deployments.protocols.patience import arrived_at
from deployments.protocols.playground.pages import FILES
from deployments.records import Record

REQUEST_ID: Final = b"x-request-id"
# Browsers read no answer that lacks the headers of cors.py, which are added further in.
ORIGIN: Final = b"origin"
# Below whatever prefix the application has; the router, which knows it, has the last word (authentication.py).
OPEN_PATHS: Final = tuple(OPEN_ROUTES)
# /-/healthz, which HAProxy asks, and /-/routes.
SERVES_OWN: Final = "/-/"


async def through_the_door(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """`app`, unless the request of an HTTP scope is refused."""
    door = the_door()
    if door is None:
        await app(scope, receive, send)
        return
    if (refusal := stranger(scope)) is not None:
        await _turn_away(refusal, app, scope, receive, send)
        return
    try:
        visit = door.visit_of(scope)
    except BadRequest:  # For the Envelope to say.
        visit = None
    except Overloaded as error:
        if all(name != ORIGIN for name, _ in scope["headers"]):
            await _refuse(error, scope, send)
            return
        visit = None
    if visit is None:
        await app(scope, receive, send)
        return
    with visit:
        await app(scope, door.counted(receive, visit), send)


async def _turn_away(error: Unauthenticated, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Whoever has no key gets no further than to what needs none, and nothing of a body of theirs is read."""
    asks_for_health = scope["path"].endswith(OPEN_PATHS) or scope["path"].startswith(SERVES_OWN)
    # A page, or a file of one.
    loads = scope["method"] in ("GET", "HEAD") and (scope["path"].endswith("/") or FILES in scope["path"])
    if asks_for_health or loads or any(name == ORIGIN for name, _ in scope["headers"]):
        await app(scope, _without_body(receive), send)
    else:
        await _refuse(error, scope, send)


def _without_body(receive: Receive) -> Receive:
    begun = False

    async def receive_nothing() -> Message:
        nonlocal begun
        if not begun:
            begun = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while (message := await receive())["type"] != "http.disconnect":
            pass
        return message

    return receive_nothing


async def _refuse(error: ApertureError, scope: Scope, send: Send) -> None:
    """As http.error_response, in a tenth of its time."""
    request_id = next((value for name, value in scope["headers"] if name == REQUEST_ID), None)
    if request_id is None:
        request_id = str(uuid.uuid4()).encode()
    protocol = protocol_of_http(scope["method"], path_of(scope))
    record = Record(protocol, None, request_id.decode("latin-1"), arrived_at.get())
    record.fail(error)
    record.status = error.http_status
    content = {"error": error.message, "code": error.code, "request_id": record.request_id}
    body = json.dumps(content, separators=(",", ":")).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (REQUEST_ID, request_id),
        (b"server-timing", server_timing(record).encode()),
        (b"x-content-type-options", b"nosniff"),
        *((name.encode(), value.encode()) for name, value in headers_of(error).items()),
    ]
    try:
        await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
    finally:
        record.close()
