"""API keys over HTTP: no route of the service without one, but for its health."""

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from deployments.access import AccessControl
from deployments.protocols.authentication import OPEN_ROUTES, ROUTES, guarded, is_open
from deployments.protocols.http import asgi_app
from deployments.settings import Access, Limits
from deployments.settings.keys import SCOPES, Key, Rate, Scope, digest_of
from tests.unit.ingress_app import service

FILLED = {"{model}": "shapes", "{version}": "3"}


def access_for(tmp_path: Path, rate: Rate | None = None) -> AccessControl:
    """Keys named as the scopes that they have, and `limited`."""
    scoped: dict[str, frozenset[Scope]] = {scope: frozenset({scope}) for scope in SCOPES}
    keys = [Key(scope, digest_of(scope), scopes) for scope, scopes in scoped.items()]
    keys.append(Key("limited", digest_of("limited"), frozenset({"classify"}), rate or Rate(1, 1)))
    path = tmp_path / "keys"
    path.write_text("\n".join(key.line() for key in keys))
    return AccessControl(Access(keys_file=str(path)))


@pytest.fixture
def access(tmp_path: Path) -> AccessControl:
    return access_for(tmp_path)


def requests_to(app: Starlette) -> Iterator[tuple[str, str, str]]:
    """Method, path and declared path of a request to each route by each of its methods."""
    for route in app.routes:
        assert isinstance(route, Route), "what is guarded is a Route, and this is something else"
        path = route.path
        for parameter, value in FILLED.items():
            path = path.replace(parameter, value)
        for method in sorted(route.methods or ["GET", "POST", "PUT", "DELETE"]):
            yield method, path, route.path


def exchange(access: AccessControl, method: str, path: str, **request: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(service(access=access))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, path, **request)

    return asyncio.run(run())


def status_without_reading(access: AccessControl, method: str, path: str, headers: dict[str, str]) -> int:
    """The status of the answer; fails if anything of the body was read before it."""
    statuses: list[int] = []

    async def receive() -> Message:
        raise AssertionError(f"{method} {path} has read from the body")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def run() -> None:
        sent = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": sent}
        await service(access=access)(scope, receive, send)

    asyncio.run(run())
    (status,) = statuses
    return status


# Every route


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}], ids=["no key", "a wrong key"])
def test_every_route_but_health_refuses_without_a_key_and_reads_no_body(
    access: AccessControl, headers: dict[str, str]
) -> None:
    refused = {
        (method, declared)
        for method, path, declared in requests_to(service())
        if not is_open(method, declared) and status_without_reading(access, method, path, headers) == 401
    }
    asking = {(method, declared) for method, _, declared in requests_to(service()) if not is_open(method, declared)}
    assert refused == asking
    assert ("POST", "/") in asking
    assert len(refused) > 20


def test_every_route_says_which_scope_it_needs() -> None:
    asking = {declared for method, _, declared in requests_to(service()) if not is_open(method, declared)}
    assert asking == set(ROUTES)


@pytest.mark.parametrize("held", SCOPES)
def test_a_key_does_what_its_scope_says_on_every_route_and_nothing_else(access: AccessControl, held: Scope) -> None:
    for method, path, declared in requests_to(service()):
        if is_open(method, declared):
            continue
        status = exchange(access, method, path, headers={"x-api-key": held}).status_code
        allowed = ROUTES[declared] in ("read", held)
        assert (status in (401, 403)) is not allowed, f"{method} {path} answers {status}"


def test_health_needs_no_key(access: AccessControl) -> None:
    for path in OPEN_ROUTES:
        assert exchange(access, "GET", path).status_code == 200


def test_a_route_that_nobody_has_thought_of_is_closed_to_all_but_admins(access: AccessControl) -> None:
    async def endpoint(request: Request) -> Response:
        return Response("done")

    app = asgi_app(guarded([Route("/new", endpoint)], access), Limits(), lambda: "test-id")

    async def statuses() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            keys = [None, "read", "classify", "admin"]
            headers = [{} if key is None else {"x-api-key": key} for key in keys]
            return [(await client.get("/new", headers=each)).status_code for each in headers]

    assert asyncio.run(statuses()) == [401, 403, 403, 200]


TRICKS = ["//predict", "/./predict", "/v2/health/live/../../../predict", "/PREDICT", "/predict/", "/v2/health/ready/x"]


@pytest.mark.parametrize("path", TRICKS)
def test_no_spelling_of_a_path_leads_around_the_door(access: AccessControl, path: str) -> None:
    # As the router reads it: it is no route at all, or one that asks.
    assert status_without_reading(access, "POST", path, {}) in (401, 404, 405)


# Where the key is


ACCEPTED = [
    {"Authorization": "Bearer classify"},
    {"authorization": "bearer  classify "},
    {"X-API-Key": "classify"},
    {"x-api-key": "classify", "Authorization": "Basic c29tZTpvdGhlcg=="},
    {"x-api-key": "classify", "Authorization": "Bearer of something in front"},
]
REFUSED = [
    {"Authorization": "classify"},
    {"Authorization": "Bearer"},
    {"Authorization": "Token classify"},
    {"Authorization": "Basic " + base64.b64encode(b"classify").decode()},
    {"Authorization": "Bearer classify", "x-api-key": "wrong"},
    {"Authorization": "Bearer classify classify"},
    {"x-api-key": ""},
    {"x-api-key": "Bearer classify"},
    {"x-api-key": "cl\u00e4ssify"},
    {"Cookie": "x-api-key=classify"},
]


@pytest.mark.parametrize("headers", ACCEPTED)
def test_a_key_comes_as_bearer_or_as_x_api_key(access: AccessControl, headers: dict[str, str]) -> None:
    assert exchange(access, "POST", "/predict", content=b"photo", headers=headers).status_code == 200


@pytest.mark.parametrize("headers", REFUSED)
def test_anything_else_is_no_key(access: AccessControl, headers: dict[str, str]) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    assert exchange(access, "POST", "/predict", content=b"photo", headers=encoded).status_code == 401


def test_two_keys_are_none(access: AccessControl) -> None:
    headers = [("x-api-key", "classify"), ("x-api-key", "wrong")]
    assert exchange(access, "POST", "/predict", content=b"photo", headers=headers).status_code == 401


def test_a_key_in_the_url_is_none(access: AccessControl) -> None:
    # It would be in the logs of everything on the way.
    for query in ("?x-api-key=classify", "?access_token=classify"):
        assert exchange(access, "POST", f"/predict{query}", content=b"photo").status_code == 401


# What a refusal says


def test_a_refusal_says_how_to_come_in(access: AccessControl) -> None:
    response = exchange(access, "POST", "/predict", content=b"photo")
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert "x-api-key" in response.json()["error"]
    response = exchange(access, "POST", "/predict", content=b"photo", headers={"x-api-key": "read"})
    assert (response.status_code, response.json()["code"]) == (403, "forbidden")
    assert "www-authenticate" not in response.headers


def test_a_key_over_its_rate_is_told_when_to_come_again(tmp_path: Path) -> None:
    access = access_for(tmp_path, Rate(0.001, 1))
    headers = {"x-api-key": "limited"}
    assert exchange(access, "POST", "/predict", content=b"photo", headers=headers).status_code == 200
    assert status_without_reading(access, "POST", "/predict", headers) == 429
    response = exchange(access, "POST", "/predict", content=b"photo", headers=headers)
    assert (response.status_code, response.json()["code"]) == (429, "quota_exceeded")
    assert 900 <= int(response.headers["retry-after"]) <= 1000


def test_a_request_counts_once_however_many_images_it_has(tmp_path: Path) -> None:
    access = access_for(tmp_path, Rate(0.001, 2))
    for _ in range(2):
        files = [("file", (str(number), b"photo")) for number in range(8)]
        response = exchange(access, "POST", "/predict", files=files, headers={"x-api-key": "limited"})
        assert len(response.json()["results"]) == 8


def test_without_keys_nobody_is_asked() -> None:
    response = exchange(AccessControl(Access()), "POST", "/predict", content=b"photo", headers={"x-api-key": "any"})
    assert response.status_code == 200


# The document


def test_the_document_announces_keys_where_they_are_asked_for(access: AccessControl) -> None:
    api = exchange(access, "GET", "/openapi.json", headers={"x-api-key": "read"}).json()
    assert api["security"] == [{"bearer": []}, {"x-api-key": []}]
    assert set(api["components"]["securitySchemes"]) == {"bearer", "x-api-key"}
    for path, operations in api["paths"].items():
        for operation in operations.values():
            assert (operation.get("security") == []) is (path in OPEN_ROUTES)
            assert {"401", "403", "429"}.issubset(operation["responses"]) is (path not in OPEN_ROUTES)
    assert "security" not in exchange(AccessControl(Access()), "GET", "/openapi.json").json()


def test_neither_a_key_nor_its_hash_is_in_what_the_service_says(access: AccessControl) -> None:
    headers = {"x-api-key": "classify"}
    texts = [
        exchange(access, "GET", path, headers=headers).text for path in ("/openapi.json", "/v2/models/shapes", "/v2")
    ]
    for held in ("read", "classify", "admin"):
        assert digest_of(held).hex() not in "".join(texts)
