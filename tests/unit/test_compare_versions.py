"""The report of a candidate for people: what it says is what the service has said."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.compare_versions import draw, lines, read
from deployments.comparison import Comparisons
from deployments.promotion import Report
from deployments.protocols.comparison import render
from tests.unit.test_comparison_route import PROMOTION, TRIAL, counted

DOCUMENT = json.loads(json.dumps(render(Report("pets", PROMOTION, TRIAL, counted()))))
NOTHING = json.loads(json.dumps(render(Report("pets", None, None, Comparisons()))))


def test_the_report_has_the_figures_the_verdict_and_the_worst_images() -> None:
    report = "\n".join(lines(DOCUMENT))
    for said in (
        "Version 2 beside version 1, shadow",
        "Out of bounds after 200 images compared",
        "200 images; failed: 0; not mirrored: 7 busy",
        "0.9000 of first labels",
        "mean 0.05, greatest 0.5",
        f"{190:064x}  cat     dog        0.5000",
    ):
        assert said in report


def test_a_service_with_nothing_on_trial_says_so() -> None:
    assert list(lines(NOTHING))[-1] == "Nothing is on trial."


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_plot_is_a_picture(tmp_path: Path, suffix: str) -> None:
    content = draw(DOCUMENT, tmp_path / f"plot{suffix}").read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    assert len(content) > 5000


def test_a_service_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(OSError, match="refused"):
        read("http://127.0.0.1:1", "pets")
    command = [sys.executable, "-m", "benchmarks.compare_versions", "--url", "http://127.0.0.1:1", "--model", "pets"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).resolve().parents[2])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("The comparison cannot be read: ")
    assert len(done.stderr.splitlines()) == 1
