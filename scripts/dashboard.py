"""Writes Grafana's dashboard from observability/dashboard.yml: `python -m scripts.dashboard`.

The file says what is shown; where each panel stands, and what all of them have in common, is made here.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "observability/dashboard.yml"
DASHBOARD = ROOT / "observability/grafana/dashboards/aperture.json"
# Of Grafana 9 and newer, which read it and move it on to their own.
SCHEMA_VERSION = 37
# Grafana's grid.
COLUMNS, PANEL_HEIGHT, STAT_HEIGHT = 24, 8, 4
DEFAULT_WIDTH = 8
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]


def dashboard() -> str:
    """The text of the dashboard's JSON, a line for each panel."""
    made = _dashboard(yaml.safe_load(SOURCE.read_text()))
    panels = ",\n  ".join(json.dumps(panel) for panel in made.pop("panels"))
    keys = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in made.items())
    return f'{{\n{keys} "panels": [\n  {panels}\n ]\n}}\n'


def main() -> int:
    DASHBOARD.write_text(dashboard())
    return 0


def _dashboard(source: Json) -> Json:
    return {
        "uid": "aperture",
        "title": "Aperture",
        "description": source["description"],
        "tags": ["aperture"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        # Two panels at the same moment.
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_datasource(), *map(_variable, source["variables"])]},
        "annotations": {"list": [_annotation(each) for each in source["annotations"]]},
        "panels": _panels(source["rows"]),
    }


def _datasource() -> Json:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}


def _variable(variable: Json) -> Json:
    """One to choose any number of values of, by default all."""
    query = {"query": variable["query"], "refId": variable["name"]}
    return {
        "name": variable["name"],
        "label": variable["label"],
        "type": "query",
        "datasource": DATASOURCE,
        "query": query,
        "definition": variable["query"],
        # Whenever the range of time changes.
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _annotation(annotation: Json) -> Json:
    return {
        "name": annotation["name"],
        "datasource": DATASOURCE,
        "expr": annotation["expr"],
        "titleFormat": annotation["title"],
        "textFormat": annotation.get("text", ""),
        "iconColor": annotation["color"],
        "enable": True,
        "step": "10s",
    }


def _panels(rows: list[Json]) -> list[Json]:
    """From left to right and from top to bottom, each row of the dashboard under its title."""
    panels: list[Json] = []
    y = 0
    for row in rows:
        panels.append(
            {"type": "row", "title": row["title"], "collapsed": False, "panels": [], "gridPos": _at(0, y, COLUMNS, 1)}
        )
        y += 1
        x = height = 0
        for panel in row["panels"]:
            width, own_height = panel.get("width", DEFAULT_WIDTH), _height(panel)
            if x + width > COLUMNS:
                x, y, height = 0, y + height, 0
            panels.append({**_panel(panel), "gridPos": _at(x, y, width, own_height)})
            x, height = x + width, max(height, own_height)
        y += height
    return [{"id": number, **panel} for number, panel in enumerate(panels, start=1)]


def _height(panel: Json) -> int:
    return STAT_HEIGHT if panel.get("kind") == "stat" else PANEL_HEIGHT


def _at(x: int, y: int, width: int, height: int) -> Json:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Json) -> Json:
    kind = panel.get("kind", "timeseries")
    return {
        "type": kind,
        "title": panel["title"],
        "description": panel["description"],
        "datasource": DATASOURCE,
        "fieldConfig": {
            "defaults": _field(kind, panel),
            "overrides": [_line(name) for name in panel.get("overlay", [])],
        },
        "options": OPTIONS[kind],
        "targets": [_target(chr(ord("A") + number), kind, query) for number, query in enumerate(panel["queries"])],
        **({"transformations": TABLE} if kind == "table" else {}),
    }


def _field(kind: str, panel: Json) -> Json:
    field: Json = {"unit": panel["unit"], "min": 0}
    if "max" in panel:
        field["max"] = panel["max"]
    if kind == "timeseries":
        stacked = panel.get("stacked", False)
        field["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 40 if stacked else 0,
            "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
            "showPoints": "never",
        }
    steps = [{"color": "green", "value": None}]
    for color in ("orange", "red"):
        if color in panel.get("thresholds", {}):
            steps.append({"color": color, "value": panel["thresholds"][color]})
    field["thresholds"] = {"mode": "absolute", "steps": steps}
    return field


def _line(name: str) -> Json:
    """What makes the series of that name a line over the stack of the others."""
    properties = {"custom.stacking": {"mode": "none"}, "custom.fillOpacity": 0, "custom.lineWidth": 2}
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key, "value": value} for key, value in properties.items()],
    }


def _target(letter: str, kind: str, query: Json) -> Json:
    target = {"refId": letter, "datasource": DATASOURCE, "expr": query["expr"], "legendFormat": query.get("legend", "")}
    if kind == "table":
        return {**target, "instant": True, "range": False, "format": "table"}
    return {**target, "instant": False, "range": True}


OPTIONS: dict[str, Json] = {
    "timeseries": {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["mean", "lastNotNull"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"},
    "table": {"showHeader": True},
}
# Only the labels that the query leaves, without the moment at which it was asked.
TABLE: list[Json] = [{"id": "organize", "options": {"excludeByName": {"Time": True, "__name__": True}}}]


if __name__ == "__main__":
    sys.exit(main())
