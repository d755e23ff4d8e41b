"""What browsers get: the page of the service's own, or none, and who else's pages may call it."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from starlette.types import ASGIApp

from deployments.settings import Pages
from tests.unit.ingress_app import service
from tests.unit.sentences import sentence_of
from tests.unit.test_openapi import UNDOCUMENTED

ROOT = Path(__file__).resolve().parents[2]
PAGE = "https://example.org"
PREFLIGHT = {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}


def get(app: ASGIApp, path: str, method: str = "GET", **request: Any) -> httpx.Response:
    async def exchange() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return await client.request(method, path, **request)

    return asyncio.run(exchange())


@pytest.mark.parametrize("path", sorted(UNDOCUMENTED))
def test_without_docs_there_is_no_page_and_no_description(path: str) -> None:
    assert get(service(), path).status_code == 200
    assert get(service(pages=Pages(docs=False)), path).status_code == 404


@pytest.mark.parametrize("path", ["/v2", "/docs", "/openapi.json", "/nothing", "/predict"])
def test_no_browser_guesses_the_type_of_an_answer(path: str) -> None:
    assert get(service(), path).headers["x-content-type-options"] == "nosniff"


def test_by_default_no_other_origin_reads_anything() -> None:
    for response in (
        get(service(), "/v2", headers={"origin": PAGE}),
        get(service(), "/v2", "OPTIONS", headers=PREFLIGHT),
    ):
        assert not [name for name in response.headers if name.startswith("access-control-")]


def test_a_named_origin_may_ask_and_read_errors_and_their_ids() -> None:
    app = service(pages=Pages(cors_origins=(PAGE,)))
    preflight = get(app, "/predict", "OPTIONS", headers=PREFLIGHT)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    answers = [get(app, "/v2", headers={"origin": PAGE}), get(app, "/predict", "POST", headers={"origin": PAGE})]
    assert [response.status_code for response in answers] == [200, 400]
    for response in answers:
        assert response.headers["access-control-allow-origin"] == PAGE
        assert "X-Request-ID" in response.headers["access-control-expose-headers"]
        assert "origin" in response.headers["vary"].lower()


@pytest.mark.parametrize(
    "origin", ["https://example.com", "http://example.org", "https://example.org.evil.net", "null"]
)
def test_another_origin_than_the_named_ones_may_not(origin: str) -> None:
    app = service(pages=Pages(cors_origins=(PAGE,)))
    assert get(app, "/v2", "OPTIONS", headers={**PREFLIGHT, "origin": origin}).status_code == 400
    assert "access-control-allow-origin" not in get(app, "/v2", headers={"origin": origin}).headers


def test_no_browser_adds_credentials_of_its_own() -> None:
    app = service(pages=Pages(cors_origins=(PAGE,)))
    for method, headers in (("OPTIONS", PREFLIGHT), ("GET", {"origin": PAGE, "cookie": "a=b"})):
        assert "access-control-allow-credentials" not in get(app, "/v2", method, headers=headers).headers


@pytest.mark.parametrize("origin", [PAGE, "http://localhost:3000", "http://[::1]:80", "https://xn--bcher-kva.example"])
def test_an_origin_is_what_browsers_write(origin: str) -> None:
    assert Pages(cors_origins=(origin,)).cors_origins == (origin,)


@pytest.mark.parametrize(
    "origin",
    ["*", "null", "example.org", "https://*.example.org", "https://example.org/", "https://EXAMPLE.org", "ftp://x", ""],
)
def test_what_is_no_origin_stops_the_start(origin: str) -> None:
    assert "cors_origins" in sentence_of(lambda: Pages(cors_origins=(origin,)))


# The configs


def test_the_production_config_shows_no_pages_and_no_config_reflects() -> None:
    production = yaml.safe_load((ROOT / "configs/production.yaml").read_text())
    assert production["applications"][0]["args"]["pages"] == {"docs": False, "playground": False, "heat_maps": False}
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        grpc_options = yaml.safe_load(path.read_text()).get("grpc_options", {"enable_reflection": False})
        assert grpc_options["enable_reflection"] is False, path.name
