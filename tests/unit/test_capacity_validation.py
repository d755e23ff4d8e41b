"""What goes into the simulation, what it says of the machine it was calibrated on, and the command around it."""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import capacity
from benchmarks.simulation import arguments, calibration, validation
from benchmarks.simulation.calibration import default_times, hop_times, overhead_run, with_measured
from benchmarks.simulation.fleet import NodeKind
from benchmarks.simulation.plan import plan
from benchmarks.simulation.service_times import (
    DEFAULT_HOPS,
    MS,
    OVERHEAD_CPU_MS,
    OVERHEAD_PER_SECOND,
    BatchTimes,
)
from benchmarks.simulation.shape import Shape

HARDWARE = "AMD EPYC, 2 cores, avx2"


def spread(value: float) -> dict[str, float]:
    return {"median": value, "min": value, "max": value}


def document(benchmark: str, results: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {"benchmark": benchmark, "hardware": HARDWARE, "rounds": 3, "settings": settings, "results": results}


def measured_run() -> dict[str, Any]:
    """The run in docs/scaling.md, "How far to trust it"."""
    figures = {
        "c=1": (13.8348, 72.1131, 91.0104, 0.005),
        "c=8": (26.6451, 288.535, 497.954, 0.007),
        "c=32": (27.3742, 1072.98, 1402.93, 0.016),
        "15/s": (13.5728, 102.879, 299.023, 0.030),
    }
    names = ("per_second", "p50_ms", "p99_ms", "others_cores")
    row = {load: dict(zip(names, map(spread, values), strict=True)) for load, values in figures.items()}
    return document("compare", {"Aperture": row}, replicas=2, threads=1, max_batch_size=8, seconds=6.0)


def test_the_default_costs_of_hops_are_what_the_calibration_makes_of_the_measured_ones() -> None:
    found = hop_times(OVERHEAD_CPU_MS, OVERHEAD_PER_SECOND)
    assert asdict(found) == pytest.approx(asdict(DEFAULT_HOPS), rel=0.05)


@pytest.mark.parametrize("callers", [1, 8, 32])
def test_the_graph_without_work_costs_in_the_simulation_what_was_measured(callers: int) -> None:
    found = overhead_run(DEFAULT_HOPS, callers)
    assert 1000 * found.cpu_s / found.images == pytest.approx(OVERHEAD_CPU_MS[callers], rel=0.15)
    # Not fitted: the throughput.
    assert found.per_second == pytest.approx(OVERHEAD_PER_SECOND[callers], rel=0.25)


def test_the_measured_run_is_predicted_within_the_bars() -> None:
    comparisons = validation.compare(measured_run(), default_times(), cores=2)
    assert len(comparisons) == 4 * 3
    assert [f"{one.load} {one.metric} {one.off:+.0%}" for one in comparisons if not one.is_within] == []


def test_a_run_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"A run of Aperture by benchmarks.serve or compare is needed, not 'engines'"):
        validation.compare(document("engines", {}), default_times(), 2)


def test_a_run_whose_lone_images_had_other_threads_is_not_compared() -> None:
    run = measured_run()
    run["settings"]["lone_threads"] = 2
    with pytest.raises(ValueError, match="which the simulation has not"):
        validation.compare(run, default_times(), 2)


def test_batch_times_lie_on_lines_between_what_was_measured() -> None:
    table = BatchTimes({2: 0.02, 4: 0.03}).table(8)
    assert table == pytest.approx([0.0, 0.02, 0.02, 0.025, 0.03, 0.0375, 0.045, 0.0525, 0.06])


@pytest.mark.parametrize("seconds", [{}, {0: 0.1}, {1: 0.0}, {8: -1.0}])
def test_batch_times_that_cannot_be_are_refused(seconds: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="Batch times need"):
        BatchTimes(seconds)


def test_service_times_are_taken_from_what_the_benchmarks_print() -> None:
    decode = document("preprocess", {"Aperture, exact": {"median_ms": 3.0, "p90_ms": 4.0}})
    rates = {"batch of 1": 100.0, "batch of 8": 200.0, "limit, 1": 120.0, "limit, 8": 200.0}
    engines = document("engines", {"torch fp32": {load: {"per_second": spread(rate)} for load, rate in rates.items()}})
    times = with_measured(with_measured(default_times(), decode, ""), engines, "torch fp32")
    assert (times.decode_median_s, times.decode_p90_s) == (3 * MS, 4 * MS)
    assert times.batches.seconds == {1: 10 * MS, 8: 40 * MS}
    # 2 / 120 s beside 10 + 3 ms, and 2 / 200 s beside 5 + 3 ms.
    assert times.slowdown == pytest.approx((16.667 / 13 + 10 / 8) / 2, rel=1e-3)
    assert "torch fp32" in times.sources["engine"]


def test_other_documents_and_engines_are_refused() -> None:
    with pytest.raises(ValueError, match="come from overhead, preprocess, engines, not from benchmark 'compare'"):
        with_measured(default_times(), measured_run(), "")
    with pytest.raises(ValueError, match="is to be one of torch fp32, not 'tpu'"):
        with_measured(default_times(), document("engines", {"torch fp32": {}}), "tpu")


def test_decoding_is_as_spread_as_it_was_measured_and_the_same_for_a_seed() -> None:
    times = default_times()
    drawn = sorted(times.decode_s(20_000, 5))
    assert drawn == sorted(times.decode_s(20_000, 5))
    assert drawn[10_000] == pytest.approx(times.decode_median_s, rel=0.02)
    assert drawn[18_000] == pytest.approx(times.decode_p90_s, rel=0.03)


def printed_by(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["capacity", *words])
    capacity.main()
    printed: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    return printed


def test_the_command_ends_in_one_line_of_json_and_draws(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("--rps", "5", "--p99-ms", "1000", "--cpu-node", "8:0.5", "--surge", "1.5", "--plot")
    monkeypatch.setattr(capacity, "plan", partial(plan, requests=500))
    printed = printed_by(monkeypatch, capsys, *words, str(tmp_path / "plan.png"))
    results = printed["results"]
    assert results["replicas"] == {"Ingress": 1, "Preprocessor": 1, "Classifier": 1}
    assert results["fleet"]["cost_per_million"] == pytest.approx(2 * 0.5 / (5 * 3600) * 1e6)
    assert results["p99_ms"] <= 1000
    assert printed["settings"]["plot"] == "plan.png"  # No path of this machine.
    assert (tmp_path / "plan.png").stat().st_size > 10_000


def test_the_command_validates_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = measured_run()
    run["results"]["Aperture"] = {"c=1": run["results"]["Aperture"]["c=1"]}
    file = tmp_path / "serve.txt"
    file.write_text("a table for people\n\n" + json.dumps(run) + "\n")
    printed = printed_by(
        monkeypatch, capsys, "--validate", str(file), "--cores", "2", "--plot", str(tmp_path / "v.png")
    )
    assert [row["metric"] for row in printed["results"]["serve.txt"]] == ["per_second", "p50_ms", "p99_ms"]
    assert (tmp_path / "v.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rps", "5"], "--rps and --p99-ms are needed"),
        (["--rps", "0", "--p99-ms", "5"], "A load, a latency"),
        (["--rps", "5", "--p99-ms", "5", "--gpu-batch-ms", "x"], "invalid batch_times value"),
        (["--rps", "5", "--p99-ms", "5", "--burst", "3:1"], "invalid bursts value"),
        (["--validate", __file__], "is not the JSON document of a benchmark"),
    ],
)
def test_wrong_arguments_are_refused_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["capacity", *words])
    with pytest.raises(SystemExit) as ended:
        capacity.main()
    assert ended.value.code
    assert said in capsys.readouterr().err


def test_arguments_are_read_with_their_units() -> None:
    assert arguments.batch_times("8:4.1,16:6.9").seconds == pytest.approx({8: 0.0041, 16: 0.0069})
    assert arguments.cpu_node("16") == NodeKind(16)
    assert arguments.gpu_node("24:2:3.5") == NodeKind(24, 2, 3.5)


def test_the_shape_gives_every_replica_behind_its_calls() -> None:
    assert Shape(ingresses=3, classifiers=31, calls_a_replica=2).max_calls == 21
    assert Shape(ingresses=3, classifiers=31).max_calls == 4
    assert calibration.OVERHEAD_SYSTEM == "Aperture, configs/ray.env"
