"""The rules of observability/: accepted by Prometheus' own tool, which also plays each alert, and explained to whoever
is woken by one.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.observe import Watched, prometheus_config
from tests.unit.alert_cases import CASES, Case, Series

ROOT = Path(__file__).resolve().parents[2]
RULES = [ROOT / "observability/rules.yml", ROOT / "observability/alerts.yml"]
ALERTS = {rule["alert"]: rule for group in yaml.safe_load(RULES[1].read_text())["groups"] for rule in group["rules"]}
SEVERITIES = ("critical", "warning", "info")
QUIET_MINUTES = (90, 120)

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt install prometheus)"
)


def promtool(*arguments: str | Path) -> str:
    """What it says. Fails if it does."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_prometheus_takes_the_configuration_and_its_rules() -> None:
    # With the rules, which stand beside it.
    promtool("check", "config", ROOT / "observability/prometheus.yml")


@needs_promtool
def test_prometheus_takes_the_configuration_that_is_made_for_this_machine(tmp_path: Path) -> None:
    made = prometheus_config(Watched(tmp_path / "ray.json", "127.0.0.1:29101"))
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(made))
    said = promtool("check", "config", tmp_path / "prometheus.yml")
    assert said.count("rules found") == len(RULES)
    ray, haproxy = made["scrape_configs"]
    assert ray["file_sd_configs"][0]["files"] == [str(tmp_path / "ray.json")]
    assert haproxy["static_configs"][0]["targets"] == ["127.0.0.1:29101"]


@needs_promtool
def test_each_alert_fires_when_it_should_and_not_when_it_should_not(tmp_path: Path) -> None:
    assert set(CASES) == set(ALERTS)
    tests = [_played(name, case) for name, case in CASES.items()]
    tests += [_played(name, case, is_quiet=True) for name, case in CASES.items()]
    file = {"rule_files": [str(path) for path in RULES], "evaluation_interval": "5m", "tests": tests}
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(file))
    promtool("test", "rules", tmp_path / "alerts.yml")


def _played(name: str, case: Case, *, is_quiet: bool = False) -> dict[str, Any]:
    expected = {
        "exp_labels": {**case.labels, "severity": ALERTS[name]["labels"]["severity"]},
        "exp_annotations": {"summary": case.summary, "runbook_url": ALERTS[name]["annotations"]["runbook_url"]},
    }
    minutes = QUIET_MINUTES if is_quiet else (case.minute,)
    return {
        "interval": "1m",
        "input_series": _input(case.quiet if is_quiet else case.fires),
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": [] if is_quiet else [expected]}
            for minute in minutes
        ],
    }


def _input(series: Series) -> list[dict[str, str]]:
    return [{"series": name, "values": values} for name, values in series.items()]


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_what_it_is_and_where_to_read_on(name: str) -> None:
    alert = ALERTS[name]
    assert re.fullmatch(r"Aperture[A-Z]\w+", name)
    assert alert["labels"]["severity"] in SEVERITIES
    assert alert["annotations"]["summary"].endswith(".")
    assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"


def test_operations_has_a_section_for_each_alert_and_for_nothing_else() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    sections = dict(re.findall(r"^### (Aperture\w+)\n\n(.+?)(?=^##)", text, re.MULTILINE | re.DOTALL))
    assert list(sections) == list(ALERTS)
    for name, section in sections.items():
        for part in ("**Means**", "**See**", "**Do**"):
            assert part in section, name
