"""What a real Prometheus has of the running graph after requests of every kind: all that the dashboard asks for."""

import json
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from scripts.dashboard import DASHBOARD
from tests.awaiting import await_condition
from tests.observability.conftest import Prometheus

if TYPE_CHECKING:
    from tests.local_graph import Graph

# Processes hand over every few seconds, and all of this is on a busy machine.
FIGURES_TIMEOUT_S = 60.0
PANELS = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]
QUERIES = {
    f"{panel['id']} {panel['title']}, {target['refId']}": target["expr"]
    .replace("$__rate_interval", "1m")
    .replace("$model", ".*")
    for panel in PANELS
    for target in panel["targets"]
}


@pytest.fixture(scope="module")
def figures(prometheus: Prometheus, graph: "Graph", trial: str) -> Prometheus:
    """Prometheus, once it has seen everything rise."""
    from tests.observability.traffic import FEW, MANY, ask_everything

    ask_everything(graph, trial, FEW)
    seen = "ray_aperture_request_duration_seconds_count{model=~'trial|slow|shapes'}"
    await_condition(lambda: len(models(prometheus, seen)) == 3, FIGURES_TIMEOUT_S, "the first requests are seen")
    ask_everything(graph, trial, MANY)
    return prometheus


def models(prometheus: Prometheus, query: str) -> set[str]:
    return {labels["model"] for labels, _ in prometheus.query(query)}


def settled(measure: Callable[[], Any], done: Callable[[Any], bool]) -> Any:
    """What is measured, once `done`, or when it is too late for that."""
    deadline = time.monotonic() + FIGURES_TIMEOUT_S
    while not done(measured := measure()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return measured


def without_figures(prometheus: Prometheus) -> dict[str, str]:
    """The queries that return no number."""
    return {
        name: query
        for name, query in QUERIES.items()
        if not any(math.isfinite(value) for _, value in prometheus.query(query))
    }


def test_every_query_of_every_panel_returns_figures(figures: Prometheus) -> None:
    assert settled(lambda: without_figures(figures), lambda left: not left) == {}


def test_the_stages_of_requests_add_up_to_their_whole_time(figures: Prometheus) -> None:
    stages = 'sum(ray_aperture_request_stage_duration_seconds_sum{model="slow"})'
    whole = 'sum(ray_aperture_request_duration_seconds_sum{model="slow", protocol!="other", result="ok"})'

    def both() -> list[float]:
        return [value for query in (stages, whole) for _, value in figures.query(query)]

    added, total = settled(both, lambda found: len(found) == 2 and math.isclose(*found, abs_tol=1e-6))
    assert added == pytest.approx(total, abs=1e-6)
    assert total > 0.4


def test_requests_are_told_apart_by_protocol_and_by_what_became_of_them(figures: Prometheus) -> None:
    counted = figures.query("sum by (protocol, outcome) (ray_aperture_requests_total)")
    found = {(labels["protocol"], labels["outcome"]) for labels, _ in counted}
    protocols = ("predict", "huggingface", "oip", "tfserving", "oip_grpc", "tfserving_grpc", "handle")
    assert {(protocol, "ok") for protocol in protocols} <= found
    assert {("predict", "corrupt_image"), ("predict", "unknown_model"), ("predict", "deadline_exceeded")} <= found


def test_rules_and_alerts_are_evaluated_and_those_fire_that_should(figures: Prometheus) -> None:
    expected = {"ApertureVersionRefused", "ApertureCanaryRolledBack"}

    def firing() -> set[str]:
        return {labels["alertname"] for labels, _ in figures.query('ALERTS{alertstate="firing"}')}

    # Not one that says that the service is down; others may, on a machine that is.
    assert settled(firing, lambda alerts: expected <= alerts) >= expected
    assert {rule["name"]: rule["lastError"] for rule in figures.rules() if rule["health"] != "ok"} == {}
    assert not firing() & {"ApertureDown", "ApertureNoReplica", "ApertureDeployFailed", "ApertureProxyDown"}
