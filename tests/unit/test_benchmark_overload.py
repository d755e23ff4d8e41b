"""What an overload comes to: every request has one fate, goodput is of the steady state, and targets can be missed."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks import large_bodies
from benchmarks.load import Ended, Outcome, open_loop
from benchmarks.overload_figures import LOADS, load_figures, table, verdicts
from benchmarks.processes import resident_bytes
from benchmarks.report import document, summarize
from benchmarks.uploads import Uploaded
from tests.unit.local_server import BUSY, OK, serving

SECONDS = 11.0  # Ten of them count.
CAPACITY = 20.0


def ended(*requests: tuple[float, float, str]) -> Outcome:
    found = [Ended(*request) for request in requests]
    return Outcome(SECONDS, [took_s for _, took_s, status in found if status == "200"], {}, found)


def figures(*requests: tuple[float, float, str]) -> dict[str, float]:
    return load_figures(ended(*requests), SECONDS, capacity_per_second=CAPACITY)


@pytest.mark.parametrize(
    ("status", "took_s", "fate"),
    [
        pytest.param("200", 1.2, "late", id="an answer after the deadline"),
        pytest.param("503", 0.01, "refused", id="a refusal"),
        pytest.param("429", 0.01, "refused", id="a quota"),
        pytest.param("408", 1.01, "expired", id="an honest timeout"),
        pytest.param("timeout", 2.0, "lost", id="no answer"),
        pytest.param("disconnected", 0.3, "lost", id="a connection that broke"),
        pytest.param("500", 0.3, "failed", id="a failure"),
        pytest.param("422", 0.3, "failed", id="a wrong refusal"),
    ],
)
def test_every_request_has_one_fate(status: str, took_s: float, fate: str) -> None:
    found = figures((5.0, took_s, status))
    assert found[fate] == pytest.approx(1 / SECONDS)
    assert found["goodput"] == 0
    assert sum(found[each] for each in ("refused", "expired", "late", "lost", "failed")) == pytest.approx(1 / SECONDS)


def test_goodput_counts_answers_in_time_between_the_first_deadline_and_the_last_arrival() -> None:
    filling, first, last, emptying = (0.1, 0.8, "200"), (0.2, 0.8, "200"), (10.5, 0.4, "200"), (10.5, 0.6, "200")
    found = figures(filling, first, last, emptying, (5.0, 1.5, "200"))
    assert found["goodput"] == pytest.approx(2 / (SECONDS - 1))
    assert found["share"] == pytest.approx(found["goodput"] / CAPACITY)
    assert found["offered"] == pytest.approx(5 / SECONDS)


def test_the_accepted_and_the_refused_have_percentiles_of_their_own() -> None:
    found = figures(*((1.0, 0.5, "200"),) * 3, *((1.0, 0.02, "503"),) * 3, (1.0, 9.0, "timeout"))
    assert (found["p50_ms"], found["p99_ms"]) == pytest.approx((500, 500))
    assert (found["refusal_p50_ms"], found["refusal_p99_ms"]) == pytest.approx((20, 20))
    assert "p50_ms" not in figures((1.0, 0.02, "503"))
    assert "refusal_p50_ms" not in figures((1.0, 0.5, "200"))


def row(**changes: float) -> dict[str, Any]:
    """Summarised figures in which every target is met, but for `changes`."""
    overload = {"goodput": 18.5, "share": 0.92, "p50_ms": 700.0, "p99_ms": 940.0, "refusal_p50_ms": 12.0} | changes
    capacity = {"goodput": CAPACITY, "p50_ms": 1600.0, "p99_ms": 1900.0, "failed": 0.0}
    return summarize([{"c=32": capacity, **dict.fromkeys(LOADS, overload)}])


def test_targets_are_met_or_missed_one_by_one() -> None:
    assert all(each["met"] for each in verdicts(row()).values())
    assert len(verdicts(row())) == 6
    for change in ({"share": 0.89}, {"p99_ms": 1001.0}, {"refusal_p50_ms": 51.0}):
        missed = [name for name, each in verdicts(row(**change)).items() if not each["met"]]
        assert [name.split(",")[0][-2:] for name in missed] == ["2x", "4x"]


def test_a_table_has_a_block_for_each_load_and_leaves_out_what_never_happened() -> None:
    results = {"Aperture": row(), "another": summarize([{"c=32": {"goodput": 30.0}, "2x": {"goodput": 0.0}}])}
    blocks = table(results).split("\n\n")
    assert [block.split()[0] for block in blocks] == ["c=32", *LOADS]
    (other,) = [line for line in blocks[3].splitlines() if line.startswith("another")]
    assert set(other.split()[1:]) == {"0", "-"}


def test_the_plot_is_drawn_from_the_document(tmp_path: Path) -> None:
    plot = pytest.importorskip("benchmarks.overload_plot", reason="matplotlib is not installed")
    settings = {"seconds": 12.0, "deadline_s": 1.0, "model": "made-up ResNet-18", "engine": "openvino"}
    line = document("overload", 1, settings, {"Aperture": row(), "mosec": row(share=0.0), "LitServe": row()})
    assert plot.draw(line, tmp_path).read_bytes().startswith(b"\x89PNG")
    assert json.loads(line)["results"]["mosec"]["4x"]["share"]["median"] == 0.0


def test_an_open_loop_says_of_each_request_when_it_was_due_and_how_it_ended() -> None:
    async def every_other_is_refused(number: int) -> bytes:
        return BUSY if number % 2 else OK

    async def run() -> Outcome:
        async with serving(every_other_is_refused) as server:
            return await open_loop(server.url, [b"x"], 100.0, 0.3)

    outcome = asyncio.run(run())
    assert len(outcome.ended) == sum(outcome.statuses.values()) > 10
    assert all(0 <= request.due_s < 0.3 and request.took_s > 0 for request in outcome.ended)
    assert {request.status for request in outcome.ended} == {"200", "503"}


def test_memory_of_processes_adds_up_and_one_that_is_gone_has_none() -> None:
    own = resident_bytes([os.getpid()])
    assert own > 10 * 2**20
    assert resident_bytes([os.getpid(), 2**22 + 1]) == pytest.approx(own, rel=0.2)


def test_large_bodies_are_counted_by_what_became_of_them() -> None:
    uploads = [
        Uploaded(200, 10_000_000, 2.0),
        Uploaded(503, 65_536, 0.1),
        Uploaded(413, 0, 0.3),
        Uploaded(None, 5, 60.0),
    ]
    found = large_bodies.figures(uploads, before_bytes=10**9, most_bytes=12 * 10**8)
    assert (found["answered"], found["refused"], found["others"]) == (1, 2, 1)
    assert (found["most_sent_mb"], found["growth_mb"], found["slowest_s"]) == (10.0, 200.0, 60.0)
    lines = large_bodies.table({"Aperture": dict.fromkeys(large_bodies.BODIES, found)}).splitlines()
    assert [line.split()[0] for line in lines if line] == ["at", "Aperture", "announced", "Aperture"]
