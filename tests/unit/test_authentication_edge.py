"""Whoever has no key is refused at the edge, before Serve does anything for the request."""

import asyncio
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from deployments.access import AccessControl
from deployments.admission import Admission
from deployments.edge import Edge
from deployments.protocols import authentication, door
from deployments.settings import Admission as Bounds
from deployments.settings import Limits
from tests.unit.test_authentication import access_for, exchange


@pytest.fixture
def access(tmp_path: Path) -> AccessControl:
    return access_for(tmp_path)


class Behind:
    """What stands behind the edge: it reads what it is given and says what the guard would say."""

    def __init__(self) -> None:
        self.read_bytes = -1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.read_bytes = len((await receive()).get("body", b""))
        await send({"type": "http.response.start", "status": 299, "headers": []})


def at_the_edge(headers: dict[str, str], path: str = "/predict") -> tuple[int, int]:
    """The status, 299 if it comes from behind the edge, and how much of the body got there; -1 if nothing was read."""
    behind, sent = Behind(), list[Message]()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"photo", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": encoded}
    asyncio.run(Edge(behind)(scope, receive, send))
    return sent[0]["status"], behind.read_bytes


@pytest.fixture
def edge(access: AccessControl, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the process of an Ingress."""
    monkeypatch.setattr(authentication, "_at_the_edge", access)
    monkeypatch.setattr(door, "_open", door.Door(Admission(Bounds(), ["shapes"]), ["shapes"], Limits()))


@pytest.mark.usefixtures("edge")
def test_a_stranger_is_refused_before_serve_begins_with_the_request() -> None:
    assert at_the_edge({}) == at_the_edge({"x-api-key": "wrong"}) == (401, -1)
    assert at_the_edge({"x-api-key": "classify"}) == (299, len(b"photo"))


@pytest.mark.usefixtures("edge")
@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ({"origin": "https://example.org"}, "/predict"),
        ({}, "/v2/health/ready"),
        ({}, "/below/v2/health/live"),
        ({}, "/-/healthz"),
    ],
)
def test_what_a_stranger_may_reach_gets_nothing_of_a_body(headers: dict[str, str], path: str) -> None:
    assert at_the_edge(headers, path) == (299, 0)


@pytest.mark.usefixtures("edge")
def test_the_ingress_puts_its_keys_at_the_edge(access: AccessControl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "_at_the_edge", None)
    exchange(access, "GET", "/v2/health/live")
    assert authentication._at_the_edge is access
