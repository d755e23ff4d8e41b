"""What measurements print: a table with its spread, and one line of JSON that the plots are drawn from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report

ROUNDS = [
    {"c=1": {"per_second": 20.0, "p50_ms": 50.0, "failed": 0.0}},
    {"c=1": {"per_second": 10.0, "p50_ms": 90.0, "failed": 2.0}},
    {"c=1": {"per_second": 40.0, "p50_ms": 30.0, "failed": 0.0}},
]
FIGURES = {"per_second": 40.0, "p50_ms": 50.0, "p99_ms": 80.5, "cpu_ms": 45.0, "failed": 0.0}
SETTINGS = {"model": None, "engine": "torch", "precision": "fp32", "seconds": 8.0, "rate": 15.0, "batch_sizes": [1, 8]}


def results_for(loads: tuple[str, ...]) -> dict[str, Any]:
    rows = [
        {load: {metric: value * factor for metric, value in FIGURES.items()} for load in loads} for factor in (1, 2)
    ]
    return {name: report.summarize(rows) for name in ("Aperture", "another")}


def test_a_summary_is_the_median_and_the_extremes_over_the_rounds() -> None:
    assert report.summarize(ROUNDS)["c=1"] == {
        "per_second": {"median": 20.0, "min": 10.0, "max": 40.0},
        "p50_ms": {"median": 50.0, "min": 30.0, "max": 90.0},
        "failed": {"median": 0.0, "min": 0.0, "max": 2.0},
    }


def test_a_table_has_a_block_for_each_load_with_medians_and_spreads() -> None:
    shown = report.table({"Aperture": report.summarize(ROUNDS), "another": report.summarize(ROUNDS[:1])})
    head, ours, theirs = shown.splitlines()
    assert head.split() == ["c=1", "img/s", "p50", "ms", "failed"]
    assert "20.0 (10.0 - 40.0)" in ours
    assert theirs.split() == ["another", "20.0", "50.0", "0"]


def test_a_matrix_has_a_line_for_each_system_and_leaves_out_what_was_not_measured() -> None:
    results = {"torch fp32": report.summarize(ROUNDS), "other": {}}
    assert [line.split() for line in report.matrix(results, "p50_ms").splitlines()] == [
        ["p50", "ms", "c=1"],
        ["torch", "fp32", "50.0", "(30.0", "-", "90.0)"],
        ["other"],
    ]


def test_a_document_is_one_line_that_names_hardware_versions_and_settings() -> None:
    line = report.document("serve", 2, SETTINGS, results_for(("c=32",)), guard={"torch fp32": "passed"})
    document = json.loads(line)
    assert "\n" not in line
    assert list(document) == [
        *("benchmark", "hardware", "versions", "settings", "rounds", "results", "guard"),
    ]
    assert "cores" in document["hardware"]
    assert {"python", "ray", "numpy"} <= document["versions"].keys()
    assert document["settings"] == SETTINGS
    assert document["results"]["Aperture"]["c=32"]["per_second"] == {"median": 60.0, "min": 40.0, "max": 80.0}


def test_a_figure_that_is_no_number_is_refused() -> None:
    rows = [{"c=1": {"per_second": float("nan")}}]
    with pytest.raises(ValueError, match="JSON compliant"):
        report.document("serve", 1, {}, {"Aperture": report.summarize(rows)})


@pytest.mark.parametrize(
    ("benchmark", "loads", "names"),
    [
        pytest.param(
            "compare",
            ("c=32", "15/s"),
            ["compare-throughput.png", "compare-latency.png", "compare-cpu.png"],
            id="compare",
        ),
        pytest.param("serve", ("c=32",), ["serve-throughput.png", "serve-cpu.png"], id="serve"),
        pytest.param("overhead", ("c=1", "c=32"), ["overhead-cpu.png"], id="overhead"),
        pytest.param("engines", ("batch of 1", "batch of 8"), ["engines-throughput.png"], id="engines"),
    ],
)
def test_plots_are_drawn_from_the_last_line_of_what_was_printed(
    tmp_path: Path, benchmark: str, loads: tuple[str, ...], names: list[str]
) -> None:
    plots = pytest.importorskip("benchmarks.plots", reason="matplotlib is not installed")
    printed = tmp_path / "printed.txt"
    printed.write_text("a table\n\n" + report.document(benchmark, 2, SETTINGS, results_for(loads)) + "\n")
    document: Mapping[str, Any] = plots.read(printed)
    drawn = plots.draw(document, tmp_path)
    assert [path.name for path in drawn] == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
