"""The routes of the playground: which files browsers get, from whom, and under which headers."""

import asyncio
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import httpx
import pytest
from starlette.types import ASGIApp

from deployments.protocols.playground.pages import FILES, PAGE, STATIC, routes
from deployments.protocols.static_files import HEADERS
from deployments.settings import Pages
from tests.unit.ingress_app import service
from tests.unit.test_authentication import access_for, exchange
from tests.unit.test_pages import get

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted({route.path for route in routes()})
TEXTS = {path.relative_to(STATIC).as_posix(): path.read_text() for path in STATIC.glob("*.*")}


@pytest.fixture(scope="module")
def app() -> ASGIApp:
    return service()


def test_every_file_is_under_the_strict_policy_of_all_pages(app: ASGIApp) -> None:
    docs = get(app, "/docs")
    assert "default-src 'none'" in docs.headers["content-security-policy"]
    assert "unsafe" not in docs.headers["content-security-policy"]
    for path in PATHS:
        response = get(app, path)
        assert response.status_code == 200
        for header in HEADERS:
            assert response.headers[header] == docs.headers[header], path


def test_what_a_file_names_is_there_and_is_no_other_origins() -> None:
    for name, text in TEXTS.items():
        for pattern in (r'(?:src|href)="([^"#]+)"', r'^import .* from "([^"]+)"', r"\burl\(([^)]+)\)"):
            for found in re.findall(pattern, text, re.MULTILINE):
                path = f"/{found}" if name == PAGE else FILES + found.removeprefix("./")
                assert path in PATHS, f"{name} names {found}"


def test_a_browser_need_not_read_one_script_to_learn_of_the_next() -> None:
    preloaded = set(re.findall(r'rel="modulepreload" href="[^"]*/(\w+\.js)"', TEXTS[PAGE]))
    assert preloaded == {name for name in TEXTS if name.endswith(".js")} - {"main.js"}


def test_the_page_has_no_script_or_style_inside() -> None:
    page = TEXTS[PAGE]
    assert re.findall(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", page) == []
    for name, text in TEXTS.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), name


def test_a_file_that_a_browser_has_is_not_sent_again(app: ASGIApp) -> None:
    first = get(app, "/")
    again = get(app, "/", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["cache-control"]) == (304, b"", "no-cache")
    assert get(app, "/", headers={"if-none-match": '"older"'}).content == first.content


def test_the_page_lives_beside_the_route_that_infers(app: ASGIApp) -> None:
    assert get(app, "/").headers["content-type"].startswith("text/html")
    answer = get(app, "/", "POST", content=b"photo")
    assert (answer.status_code, answer.json()[0].keys()) == (200, {"label", "score"})


def test_without_the_playground_nothing_of_it_is_there() -> None:
    app = service(pages=Pages(playground=False))
    for path in [*PATHS, "/playground/live"]:
        assert get(app, path).status_code == (405 if path == "/" else 404)
    assert get(app, "/", "POST", content=b"photo").status_code == 200


def test_a_prefix_without_a_slash_leads_to_the_page(app: ASGIApp) -> None:
    async def exchange() -> httpx.Response:
        # As Serve and every ASGI server have it: the path begins with the prefix.
        transport = httpx.ASGITransport(app, root_path="/some/vision")
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.get("/some/vision")

    response = asyncio.run(exchange())
    assert (response.status_code, response.headers["location"]) == (307, "vision/")


def test_the_page_is_open_and_what_it_asks_is_not(tmp_path: Path) -> None:
    access = access_for(tmp_path)
    for path in (PATHS[0], PATHS[-1]):
        assert exchange(access, "GET", path).status_code == 200
    for method, path in (("POST", "/"), ("POST", "/predict"), ("POST", "/v2/repository/index")):
        assert exchange(access, method, path).status_code == 401


def test_every_file_is_part_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    globs = project["tool"]["setuptools"]["package-data"]["deployments.protocols.playground"]
    for path in STATIC.rglob("*.*"):
        name = path.relative_to(STATIC.parent).as_posix()
        assert any(fnmatch(name, glob) and name.count("/") == glob.count("/") for glob in globs), name


def test_the_page_is_small() -> None:
    # Over a phone's 1.6 Mbit/s, half a second for a page that is opened for the first time.
    assert sum(path.stat().st_size for path in STATIC.rglob("*.*")) < 100_000
