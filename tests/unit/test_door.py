"""The door in front of bodies: what cannot be done is refused unread, and nothing that was let in stays in hand."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message

from deployments import records
from deployments.access import AccessControl
from deployments.admission import Admission
from deployments.edge import Edge
from deployments.messages import ModelInfo
from deployments.protocols import door as doors
from deployments.protocols import huggingface
from deployments.protocols.authentication import stand_at_the_edge
from deployments.protocols.door import Door, open_door
from deployments.protocols.http import asgi_app
from deployments.protocols.oip import rest as oip_rest
from deployments.protocols.predict import routes
from deployments.protocols.tfserving import rest as tfserving_rest
from deployments.settings import Access, Limits
from deployments.settings import Admission as Bounds
from tests.unit.bytes_plane import BytesPlane

MODELS = ["shapes", "others"]


class Service:
    """The HTTP application with a door, `busy` models of which have a queue that a second is too short for."""

    def __init__(self, *busy: str, at_the_edge: bool = False, **bounds: int) -> None:
        self.plane = BytesPlane()
        self.limits = Limits(max_body_bytes=10_000)
        self.admission = Admission(Bounds(**bounds), MODELS)
        self.queue = ExitStack()
        for model in busy:
            places = self.queue.enter_context(self.admission.work(model, 1000.0, [0.0] * 110, 0))
            line = self.admission._lines[model]
            line.rate.per_s, line.rate.is_proven = 100.0, True
            assert len(places) == 110
        protocols = (routes, oip_rest.routes, tfserving_rest.routes, huggingface.routes)
        door = Door(self.admission, MODELS, self.limits)
        app = asgi_app(
            [each for one in protocols for each in one(self.plane)], self.limits, lambda: "test-id", door=door
        )
        self.app: ASGIApp = Edge(app) if at_the_edge else app
        if at_the_edge:
            # Another test of this process may have asked for keys.
            stand_at_the_edge(AccessControl(Access()))
            open_door(door)

    def ask(self, path: str = "/predict", **request: Any) -> httpx.Response:
        async def exchange() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://service") as client:
                return await client.post(path, **{"content": b"photo", **request})

        return asyncio.run(exchange())

    def is_idle(self) -> bool:
        lines = self.admission._lines.values()
        return self.admission.bytes == 0 and all(line.reading == 0 for line in lines)


@pytest.fixture(autouse=True)
def _the_door_is_closed_again() -> Iterator[None]:
    yield
    doors._open = None


both = pytest.mark.parametrize("at_the_edge", [False, True], ids=["in the envelope", "at the edge"])
IN_A_SECOND = {"x-request-timeout-seconds": "1"}


@both
def test_what_cannot_be_done_in_time_is_refused_with_when_to_come_again(at_the_edge: bool) -> None:
    service = Service("shapes", at_the_edge=at_the_edge)
    response = service.ask(headers={**IN_A_SECOND, "x-request-id": "test-id"})
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json().keys() == {"error", "code", "request_id"}
    assert (response.json()["code"], response.json()["request_id"]) == ("overloaded", "test-id")
    assert response.headers["server-timing"].startswith("admission;dur=")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert service.plane.images == []


@both
def test_a_request_that_is_refused_at_the_door_has_one_line(at_the_edge: bool) -> None:
    lines: list[dict[str, Any]] = []
    service = Service("shapes", at_the_edge=at_the_edge)
    records.write_to(lines.append)
    try:
        service.ask(headers=IN_A_SECOND)
    finally:
        records.write_to(None)
    (line,) = lines
    assert (line["protocol"], line["outcome"], line["status"], line["images"]) == ("predict", "overloaded", 503, 0)
    assert sum(line["stages_ms"].values()) == line["total_ms"] == line["stages_ms"]["admission"]


@both
def test_who_waits_longer_is_let_in(at_the_edge: bool) -> None:
    service = Service("shapes", at_the_edge=at_the_edge)
    assert service.ask(headers={"x-request-timeout-seconds": "10"}).status_code == 200
    assert service.is_idle()


@both
def test_nothing_of_a_body_that_is_refused_is_read(at_the_edge: bool) -> None:
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(1)
        yield b"photo"

    response = Service("shapes", at_the_edge=at_the_edge).ask(content=body(), headers=IN_A_SECOND)
    assert (response.status_code, read) == (503, [])


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/predict", "shapes"),
        ("/predict?top_k=3", "shapes"),
        ("/predict?model=others", "others"),
        ("/predict?top_k=1&model=%6fthers", "others"),
        ("/", "shapes"),
        ("/?model=others", "others"),
        ("/v2/models/others/infer", "others"),
        ("/v2/models/others/versions/4/infer", "others"),
        ("/v2/models/others/labels/canary/infer", "others"),
        ("/v1/models/others:predict", "others"),
        ("/v1/models/others/versions/4:classify", "others"),
        ("/v1/models/others/labels/canary:predict", "others"),
        ("/predict?version=3&label=canary", "shapes"),
        ("/predict?model=others&label=canary", "others"),
        ("/?label=canary", "shapes"),
    ],
)
def test_a_request_is_refused_for_the_queue_of_its_own_model_alone(path: str, model: str) -> None:
    other = next(name for name in MODELS if name != model)
    assert Service(model).ask(path, headers=IN_A_SECOND).status_code == 503
    assert Service(other).ask(path, headers=IN_A_SECOND).status_code != 503


@pytest.mark.parametrize("path", ["/v2/repository/index", "/nothing", "/v2/models/shapes", "/v2/models/nothing/infer"])
def test_what_infers_nothing_is_never_refused(path: str) -> None:
    assert Service(*MODELS).ask(path, content=b"", headers=IN_A_SECOND).status_code in (200, 404, 405)


def test_health_is_answered_under_any_load() -> None:
    service = Service(*MODELS, at_the_edge=True)

    async def exchange() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://service") as client:
            return await client.get("/v2/health/ready", headers=IN_A_SECOND)

    assert asyncio.run(exchange()).status_code == 200


@both
def test_a_body_that_does_not_fit_is_refused_by_its_announcement(at_the_edge: bool) -> None:
    service = Service(at_the_edge=at_the_edge, max_bytes=9000)
    service.admission.enter("shapes", 30.0, 5000)
    assert service.ask(content=b"x" * 5000).status_code == 503
    assert service.ask(content=b"x" * 4000).status_code == 200


@both
def test_a_body_that_turns_out_not_to_fit_is_given_up_in_the_middle(at_the_edge: bool) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b"x" * 1000

    service = Service(at_the_edge=at_the_edge, max_bytes=9000)
    other = service.admission.enter("shapes", 30.0, 5000)
    response = service.ask(content=body())
    assert (response.status_code, response.json()["code"]) == (503, "overloaded")
    assert "retry-after" in response.headers
    with other:
        pass
    assert service.is_idle()


@both
def test_a_body_over_the_limit_is_refused_as_such_and_not_for_want_of_room(at_the_edge: bool) -> None:
    service = Service(at_the_edge=at_the_edge, max_bytes=9000)
    service.admission.enter("shapes", 30.0, 5000)
    assert service.ask(content=b"x" * 10_001).status_code == 413


@both
@pytest.mark.parametrize("headers", [{"x-request-timeout-seconds": "soon"}, {"x-request-timeout-seconds": "0"}])
def test_a_timeout_that_is_none_is_a_bad_request_under_load_too(at_the_edge: bool, headers: dict[str, str]) -> None:
    assert Service("shapes", at_the_edge=at_the_edge).ask(headers=headers).status_code == 400


def test_a_browsers_page_gets_the_refusal_from_further_in_where_its_headers_are_added() -> None:
    response = Service("shapes", at_the_edge=True).ask(headers={**IN_A_SECOND, "origin": "https://example.org"})
    assert (response.status_code, response.json()["request_id"]) == (503, "test-id")


@both
@pytest.mark.parametrize("failure", [None, RuntimeError("an end"), asyncio.CancelledError()])
def test_however_a_request_ends_nothing_of_it_stays_in_hand(at_the_edge: bool, failure: BaseException | None) -> None:
    service = Service(at_the_edge=at_the_edge)
    held = []

    async def classify(images: object, info: ModelInfo, timeout_s: float | None = None) -> Any:
        held.append(service.admission.bytes)
        if failure is not None:
            raise failure
        return []

    service.plane.classify = classify  # type: ignore[method-assign]
    with suppress(asyncio.CancelledError, ValueError):
        service.ask(content=b"x" * 500)
    assert held == [500]
    assert service.is_idle()


@both
def test_a_client_that_leaves_gives_back_what_it_held(at_the_edge: bool) -> None:
    service = Service(at_the_edge=at_the_edge)
    incoming: list[Message] = [
        {"type": "http.request", "body": b"half of", "more_body": True},
        {"type": "http.disconnect"},
    ]
    held: list[object] = []

    async def receive() -> Message:
        held.append(service.admission.bytes)
        return incoming.pop(0)

    async def respond(message: Message) -> None:
        held.append(message)

    headers = [(b"content-length", b"500")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": headers}
    asyncio.run(service.app(scope, receive, respond))  # type: ignore[arg-type]
    assert held == [500, 500]
    assert service.is_idle()
