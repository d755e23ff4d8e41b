"""axe-core finds nothing on the page in any of its states, light, dark and at the width of a phone."""

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.conftest import OpenPage
from tests.browser.playground import PICTURES, Visit
from tests.browser.test_flows import PHONE
from tests.local_graph import Graph

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {**PHONE, "color_scheme": "light"},
}


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing(visit: OpenPage, graph: Graph, look: str) -> None:
    opened = visit(f"{graph.url}/", reduced_motion="reduce", **LOOKS[look])
    opened.await_models()
    faults = {"at first": faults_on(opened)}
    # Two answers, a failure, the grid and the key's form are on the page together.
    opened.choose(*sorted(PICTURES.glob("*.jpg"))[:2])
    opened.heard("2 pictures answered")
    opened.page.get_by_text("API key", exact=True).click()
    opened.page.get_by_label("Compare with").select_option("colours, version 1")
    opened.sample("star")
    opened.section("Answer").get_by_text("They disagree").wait_for()
    opened.page.get_by_role("button", name="Show what it looked at").nth(1).click()
    opened.failure()
    faults["with answers"] = faults_on(opened)
    opened.page.get_by_role("button", name="Draw one").click()
    faults["while drawing"] = faults_on(opened)
    assert faults == {state: [] for state in faults}


def faults_on(opened: Visit) -> list[str]:
    results = Axe().run(opened.page)
    return [f"{each['id']}: {node['html']}" for each in results.response["violations"] for node in each["nodes"]]
