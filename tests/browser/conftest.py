"""Debian's Chromium, headless, on the page of the shared graph; every page is watched for what no page here may do."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from tests.browser.playground import Visit
from tests.local_graph import Graph

CHROMIUM = Path("/usr/bin/chromium")
# Root may not use Chromium's own sandbox; nothing but our page is opened. QUIC would look for a way around TCP.
FLAGS = ["--disable-quic", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
# Chromium writes one for every answer that is no success. What the page makes of it is what tests look at.
REFUSED = "Failed to load resource: the server responded with a status of"
UNREACHED = "Failed to load resource: net::ERR_INTERNET_DISCONNECTED"

OpenPage = Callable[..., Visit]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    # Of the package and not of the session: while Playwright runs, asyncio.run fails in this thread.
    if not CHROMIUM.exists():
        pytest.skip(f"Chromium is not at {CHROMIUM}: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[OpenPage]:
    """Opens a page by its address; options are those of Browser.new_context.

    When the test ends, no page has had an error in its console, or has asked any origin but its own.
    """
    complaints: list[str] = []

    def open_page(url: str, **options: Any) -> Visit:
        context = browser.new_context(**options)
        context.set_default_timeout(20_000)
        page = context.new_page()
        _watch(page, url, complaints)
        page.goto(url)
        return Visit(page)

    yield open_page
    for context in browser.contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(visit: OpenPage, graph: Graph) -> Visit:
    """The playground of the shared graph, which knows the models already."""
    opened = visit(f"{graph.url}/")
    opened.await_models()
    return opened


def _watch(page: Page, url: str, complaints: list[str]) -> None:
    origin = urlsplit(url)[:2]

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith((REFUSED, UNREACHED)):
            complaints.append(message.text)

    def asked(request: Request) -> None:
        if urlsplit(request.url)[:2] != origin:
            complaints.append(f"asked {request.url}")

    page.on("console", heard)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", asked)
