"""Grafana's dashboard: made of observability/dashboard.yml, in Prometheus' language, and of metrics that there are.

That its queries return something is seen on a running service (tests/observability).
"""

import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments import instruments
from scripts import dashboard, observe
from tests.unit.test_alerts import RULES, needs_promtool, promtool
from tests.unit.test_operations_document import exported

SOURCES = observe.SOURCES
# What Serve and Ray add to every series.
ADDED = {"application", "deployment", "replica"}
NAME = re.compile(r"\bray_(aperture_\w+)")
BY = re.compile(r"\bby \(([^)]*)\)")
MATCHER = re.compile(r"\b(ray_aperture_\w+)\{([^}]*)\}")
VARIABLE = re.compile(r"\$\{(\w+)\}")
WIDTH = 24


def panels() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = json.loads(dashboard.DASHBOARD.read_text())["panels"]
    return [panel for panel in made if panel["type"] != "row"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def rules() -> list[str]:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def scraped(instrument: instruments.Instrument) -> set[str]:
    """The names that it has in Prometheus, without `ray_`."""
    if isinstance(instrument, instruments.Histogram):
        return {f"{instrument.name}_{part}" for part in ("bucket", "sum", "count")}
    return {f"{instrument.name}_total" if isinstance(instrument, instruments.Counter) else instrument.name}


def labels_by_name() -> dict[str, set[str]]:
    return {name: {*each.labels, *ADDED, "le"} for each in exported() for name in scraped(each)}


def test_the_dashboard_is_what_the_script_makes() -> None:
    assert dashboard.DASHBOARD.read_text() == dashboard.dashboard()


@needs_promtool
def test_every_query_is_in_prometheus_language(tmp_path: Path) -> None:
    recorded = [{"record": "a:b", "expr": query.replace("$__rate_interval", "1m")} for query in queries()]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "a", "rules": recorded}]}))
    promtool("check", "rules", tmp_path / "queries.yml")


def test_queries_and_rules_ask_for_metrics_and_labels_that_there_are() -> None:
    known = labels_by_name()
    for query in [*queries(), *rules()]:
        assert set(NAME.findall(query)) <= set(known), query
        for name, matchers in MATCHER.findall(query):
            asked = {matcher.strip() for matcher in re.findall(r"(\w+)\s*(?:=|!)", matchers)}
            assert asked <= known[name.removeprefix("ray_")], query
        if names := NAME.findall(query):
            grouped = {label.strip() for labels in BY.findall(query) for label in labels.split(",")}
            assert grouped <= set.union(*(known[name] for name in names)) | {"outcome"}, query


def test_every_metric_is_shown_or_watched() -> None:
    asked = set(NAME.findall(" ".join([*queries(), *rules()])))
    assert [each.name for each in exported() if not scraped(each) & asked] == []


def test_every_panel_says_what_it_shows_and_stands_beside_the_others() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(dashboard.DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        places = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= WIDTH
        assert not taken & places, panel["title"]
        taken |= places
    assert all(panel["description"].endswith(".") for panel in panels())
    assert len({panel["title"] for panel in panels()}) >= len(panels()) - 2


def test_legends_name_labels_that_their_queries_leave() -> None:
    for panel in panels():
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                left = {each.strip() for labels in BY.findall(target["expr"]) for each in labels.split(",")}
                assert label in left or target["expr"].startswith("aperture:"), target


def test_grafana_gets_every_variable_that_its_files_name(tmp_path: Path) -> None:
    program = observe.grafana_program("/usr/bin/grafana", "http://127.0.0.1:9090", tmp_path, 3000)
    files = sorted((SOURCES / "grafana/provisioning").rglob("*.yml"))
    named = {variable for path in files for variable in VARIABLE.findall(path.read_text())}
    assert named == {"APERTURE_PROMETHEUS_URL", "APERTURE_DASHBOARDS"}
    assert named <= set(program.environment)
    assert Path(program.environment["APERTURE_DASHBOARDS"]) == dashboard.DASHBOARD.parent
    assert Path(program.environment["GF_PATHS_PROVISIONING"]).is_dir()


def test_a_taken_port_is_left_to_whoever_has_it() -> None:
    wanted = observe.free_port(0)
    assert observe.free_port(wanted) == wanted
    with socket.create_server(("127.0.0.1", wanted)):
        assert observe.free_port(wanted) != wanted


@pytest.mark.skipif(shutil.which("grafana") is not None, reason="Grafana is installed")
def test_where_there_is_no_grafana_it_is_said_how_to_get_it() -> None:
    watched = observe.Watched(Path("/nowhere/ray.json"), "127.0.0.1:9101")
    said = observe._what_there_is(watched, "http://127.0.0.1:9090", None)
    assert "grafana.com/grafana/download" in said
    assert "No service runs on this machine" in said
