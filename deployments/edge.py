"""The edge: what a client may tell Ray Serve by a header, decided before Serve reads it.

Serve obeys headers of whoever sends them: one sets its timeout or switches it off, one makes it overlook that the
client has left, and others go into its logs or choose a replica. This middleware stands outside of all that, in every
process that speaks HTTP, because configs/ray.env names `middlewares` to Serve.

    x-request-timeout-seconds        goes on under a name of ours, for the Envelope (protocols/http.py) to judge
    x-request-disconnect-disabled    dropped: a client that leaves takes its work with it
    x-request-id                     kept if it is one that a log can repeat, else replaced
    serve_multiplexed_model_id, x-session-id, traceparent and tracestate that are no text    dropped

Without it, as under a plain `serve run`, the Envelope still bounds every request, but Serve ends one in its own words
when the client's timeout passes, and may go on with the work of a client that has left.
"""

import time
import uuid
from collections.abc import Iterable
from typing import Final

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.protocols.early import through_the_door
from deployments.protocols.patience import INNER_TIMEOUT_HEADER, TIMEOUT_HEADER, arrived_at
from deployments.protocols.request_ids import is_safe

Header = tuple[bytes, bytes]

REQUEST_ID: Final = b"x-request-id"
TIMEOUT: Final = TIMEOUT_HEADER.encode()
INNER_TIMEOUT: Final = INNER_TIMEOUT_HEADER.encode()
# Serve's own (ray.serve._private.constants), some of which it takes with underscores as well as with dashes. None means
# anything to this graph.
DROPPED: Final = frozenset({b"x-request-disconnect-disabled", b"serve-multiplexed-model-id", b"x-session-id"})
# Serve decodes these as UTF-8 and fails if they are not.
TRACING: Final = frozenset({b"traceparent", b"tracestate"})


def middlewares() -> list[Middleware]:
    """For RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    return [Middleware(Edge)]


class Edge:
    """Rewrites the headers of requests, and notes when they came. There are no WebSockets here: they are closed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] == "http":
            arrived_at.set(time.monotonic())
            scope["headers"] = _let_in(scope["headers"])
            await through_the_door(self._app, scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _let_in(headers: Iterable[Header]) -> list[Header]:
    kept: list[Header] = []
    request_ids: list[bytes] = []
    for name, value in headers:
        if name == REQUEST_ID:
            request_ids.append(value)
        elif name == TIMEOUT:
            kept.append((INNER_TIMEOUT, value))
        elif name != INNER_TIMEOUT and not _is_dropped(name, value):
            kept.append((name, value))
    if request_ids:
        kept.append((REQUEST_ID, _one_of(request_ids)))
    return kept


def _is_dropped(name: bytes, value: bytes) -> bool:
    return name.replace(b"_", b"-") in DROPPED or (name in TRACING and not value.isascii())


def _one_of(request_ids: list[bytes]) -> bytes:
    # Of several, Serve answers with the first and logs the last.
    if len(request_ids) == 1 and is_safe(request_ids[0].decode("latin-1")):
        return request_ids[0]
    return str(uuid.uuid4()).encode()
