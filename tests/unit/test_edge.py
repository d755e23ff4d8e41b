"""What comes past the edge to Ray Serve: its own parsers behind our middleware, whatever a client sends."""

import asyncio
import re
import uuid
from typing import Any

import pytest
from ray.serve._private.http_util import (
    _apply_middlewares,
    parse_disconnect_disabled_header,
    parse_request_timeout_header,
    parse_session_id_header,
    validate_http_proxy_callback_return,
)
from ray.serve._private.utils import call_function_from_import_path
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.edge import Edge, middlewares
from deployments.protocols.patience import arrived_at
from deployments.protocols.request_ids import made_safe
from scripts.ray_env import production_profile

Headers = list[tuple[bytes, bytes]]
MALICIOUS_IDS = [
    b"",
    b"two words",
    b"id\tand more",
    b"\xff\xfe",
    "id\u2028line".encode(),
    b"\x1b[2J",
    b'"}{"level":"ERROR"',
    b"../../etc/passwd",
    b"${jndi:ldap://x}",
    b"x" * 129,
]


async def take(app: ASGIApp, headers: Headers, kind: str = "http") -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def respond(message: Message) -> None:
        sent.append(message)

    scope = {"type": kind, "method": "POST", "path": "/predict", "query_string": b"", "headers": headers}
    await app(scope, receive, respond)
    return sent


def past_the_edge(*headers: tuple[bytes, bytes]) -> Headers:
    """What Serve sees of the headers, after its own middleware for request ids, and what it answers with."""
    seen: Headers = []

    async def serve(scope: Scope, receive: Receive, respond: Send) -> None:
        seen.extend(scope["headers"])
        await JSONResponse({})(scope, receive, respond)

    validated: Any = validate_http_proxy_callback_return(middlewares())
    app = _apply_middlewares(serve, validated)
    (start, _) = asyncio.run(take(app, list(headers)))
    (echoed,) = [value for name, value in start["headers"] if name == b"x-request-id"]
    assert echoed == dict(seen)[b"x-request-id"]
    return seen


# What Serve reads


@pytest.mark.parametrize("timeout", [b"0", b"-1", b"nan", b"inf", b"5", b"\xff", b""])
def test_serve_sees_no_timeout_of_a_clients(timeout: bytes) -> None:
    headers = past_the_edge((b"x-request-timeout-seconds", timeout))
    assert parse_request_timeout_header(dict(headers), default_timeout_s=7.0) == 7.0
    assert (b"x-aperture-timeout-seconds", timeout) in headers


def test_a_client_cannot_send_the_inner_name_itself() -> None:
    assert b"x-aperture-timeout-seconds" not in dict(past_the_edge((b"x-aperture-timeout-seconds", b"1e9")))


@pytest.mark.parametrize("value", [b"?1", b"?0", b"\xff"])
def test_no_client_switches_off_the_watch_for_its_leaving(value: bytes) -> None:
    headers = past_the_edge((b"x-request-disconnect-disabled", value))
    assert not parse_disconnect_disabled_header(dict(headers))
    assert b"x-request-disconnect-disabled" not in dict(headers)


@pytest.mark.parametrize(
    "name", [b"serve_multiplexed_model_id", b"serve-multiplexed-model-id", b"x-session-id", b"x_session_id"]
)
def test_no_client_chooses_a_replica(name: bytes) -> None:
    headers = past_the_edge((name, b"\xff"))
    assert name not in dict(headers)
    assert parse_session_id_header(dict(headers)) == ""


def test_a_trace_that_is_no_text_is_dropped_and_another_one_kept() -> None:
    trace = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    headers = past_the_edge(trace, (b"tracestate", b"\xff"))
    assert trace in headers
    assert b"tracestate" not in dict(headers)


def test_other_headers_stay_as_they_are() -> None:
    headers = [(b"content-type", b"image/png"), (b"authorization", b"Bearer x"), (b"accept", b"a"), (b"accept", b"b")]
    assert past_the_edge(*headers)[:4] == headers


# Request ids


@pytest.mark.parametrize("request_id", [b"a", b"c519bd77-adee-4a9e-88b2-7f8aab13f354", b"Root:1.2_3", b"x" * 128])
def test_a_clients_own_request_id_is_kept(request_id: bytes) -> None:
    headers = past_the_edge((b"x-request-id", request_id))
    assert dict(headers)[b"x-request-id"] == request_id
    assert made_safe(request_id.decode()) == request_id.decode()


@pytest.mark.parametrize("request_id", MALICIOUS_IDS, ids=lambda request_id: ascii(request_id[:12]))
def test_a_request_id_that_no_log_should_hold_is_replaced(request_id: bytes) -> None:
    found = dict(past_the_edge((b"x-request-id", request_id)))[b"x-request-id"]
    assert str(uuid.UUID(found.decode())) == found.decode()


@pytest.mark.parametrize("request_id", MALICIOUS_IDS, ids=lambda request_id: ascii(request_id[:12]))
def test_without_the_edge_such_an_id_has_another_name_in_the_log(request_id: bytes) -> None:
    text = request_id.decode("latin-1")
    assert re.fullmatch(r"unsafe-[0-9a-f]{32}", made_safe(text))
    assert made_safe(text) == made_safe(text) != made_safe(text + "x")


def test_of_two_request_ids_neither_is_taken() -> None:
    headers = past_the_edge((b"x-request-id", b"one"), (b"x-request-id", b"two"))
    (found,) = [value for name, value in headers if name == b"x-request-id"]
    assert found not in (b"one", b"two")


# Around it


def test_the_edge_notes_when_a_request_came() -> None:
    noted: list[float] = []

    async def serve(scope: Scope, receive: Receive, respond: Send) -> None:
        noted.append(arrived_at.get())

    asyncio.run(take(Edge(serve), []))
    assert len(noted) == 1


def test_a_websocket_is_closed_before_serve_sees_it() -> None:
    async def serve(scope: Scope, receive: Receive, respond: Send) -> None:
        raise AssertionError("It has come through.")

    assert asyncio.run(take(Edge(serve), [], "websocket")) == [{"type": "websocket.close"}]


def test_the_production_profile_names_the_edge_to_serve() -> None:
    path = production_profile(on_one_machine=True)["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
    assert [middleware.cls for middleware in call_function_from_import_path(path)] == [Edge]


def test_the_production_profile_has_ray_ask_for_its_token() -> None:
    assert production_profile(on_one_machine=True)["RAY_AUTH_MODE"] == "token"
