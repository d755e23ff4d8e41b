"""The page below a route prefix, with an API key, of a model with two versions: the real application before bytes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from deployments.settings.keys import Rate
from tests.awaiting import await_condition, free_port
from tests.browser.conftest import OpenPage
from tests.browser.playground import HEART, stored_in
from tests.unit.ingress_app import StartingPlane, service
from tests.unit.test_authentication import access_for
from tests.unit.versioned import replica, told

PREFIX = "/vision"
KEY = "classify"
# The page itself needs three requests, and a slow machine must not earn new ones meanwhile.
LIMITED_KEY, LIMIT = "limited", Rate(0.05, 8)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a service below PREFIX that asks for keys, whose model has two versions, one of them under a label."""
    keys = tmp_path_factory.mktemp("keys")

    def application() -> Starlette:
        plane = StartingPlane(models={"shapes": told(replica(1, 2, labels={"stable": 1}))})
        return Starlette(routes=[Mount(PREFIX, service(plane, access=access_for(keys, LIMIT)))])

    with served(application) as address:
        yield f"{address}{PREFIX}/"


@contextmanager
def served(application: Callable[[], Starlette]) -> Iterator[str]:
    port = free_port()
    # Made in the server's own event loop, in which the keys are followed.
    config = uvicorn.Config(application, factory=True, host="127.0.0.1", port=port, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    await_condition(lambda: server.started, 10, "the server listens")
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


def test_with_a_key_all_of_the_page_works_below_a_prefix(visit: OpenPage, url: str) -> None:
    opened = visit(url)
    assert "asks for an API key" in opened.failure()
    field = opened.page.get_by_label("Key of this service")
    assert field.evaluate("field => field === document.activeElement")
    field.fill("wrong")
    opened.page.keyboard.press("Enter")
    opened.page.get_by_role("alert").filter(has_text="none that this service knows").wait_for()
    field.fill(KEY)
    opened.page.keyboard.press("Enter")
    opened.await_models()
    response = opened.asked("predict", lambda: opened.choose(HEART))
    assert (response.url.startswith(f"{url}predict?"), response.request.headers["x-api-key"]) == (True, KEY)
    assert len(opened.predictions()) == 5
    assert stored_in(opened.page) == [{}, {}, "", url]
    for tab in opened.page.get_by_role("tab").all():
        tab.click()
        code = opened.page.get_by_role("tabpanel").inner_text()
        assert KEY not in code
        assert "APERTURE_API_KEY" in code or tab.inner_text() == "Ray handle"


def test_two_versions_and_a_label_can_be_compared(visit: OpenPage, url: str) -> None:
    opened = visit(url)
    opened.page.get_by_label("Key of this service").fill(KEY)
    opened.page.keyboard.press("Enter")
    opened.await_models()
    assert opened.option_texts("Version") == ["default", "stable (version 1)", "version 1", "version 2"]
    opened.page.get_by_label("Version").select_option("stable (version 1)")
    opened.page.get_by_label("Compare with").select_option("shapes, version 2")
    asked: list[str] = []
    opened.page.on("request", lambda request: asked.append(request.url))
    opened.choose(HEART)
    opened.section("Answer").get_by_text("Both say").wait_for()
    headings = [opened.panel(number).get_by_role("heading").inner_text() for number in range(2)]
    assert headings == ["shapes, version 1 as stable", "shapes, version 2"]
    queries = {each.partition("predict?")[2] for each in asked if "predict?" in each}
    assert queries == {"model=shapes&label=stable&top_k=5", "model=shapes&version=2&top_k=5"}


def test_a_key_over_its_rate_is_told_in_words_when_to_ask_again(visit: OpenPage, url: str) -> None:
    opened = visit(url)
    opened.page.get_by_label("Key of this service").fill(LIMITED_KEY)
    opened.page.keyboard.press("Enter")
    alert = opened.page.get_by_role("alert").filter(has_text="asked again in")
    opened.await_models()
    for _ in range(LIMIT.burst):
        opened.asked("predict", lambda: opened.choose(HEART))
    alert.first.wait_for()
