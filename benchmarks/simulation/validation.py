"""Measured beside predicted: the runs of benchmarks.serve or benchmarks.compare, simulated as they were made.

The same callers for the same seconds, the same moments of the open loop, the same number of rounds, and whatever cores
other programs took meanwhile. Nothing is fitted to these runs.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import load
from benchmarks.simulation import runs
from benchmarks.simulation.runs import Found
from benchmarks.simulation.service_times import ServiceTimes
from benchmarks.simulation.shape import Shape

# How far a prediction may be off, as a share of what was measured.
BARS = {"per_second": 0.20, "p50_ms": 0.20, "p99_ms": 0.35}
SYSTEM = "Aperture"
# A run of seconds has a 99th percentile of one or two requests; the median of several is what to expect of it.
CHANCES = 5


@dataclass(frozen=True)
class Comparison:
    load: str
    metric: str
    measured: float
    least: float  # of the rounds
    greatest: float
    predicted: float

    @property
    def off(self) -> float:
        """As a share of what was measured; above 0 if too much was predicted."""
        return self.predicted / self.measured - 1

    @property
    def is_within(self) -> bool:
        return abs(self.off) <= BARS[self.metric]


def compare(document: Mapping[str, Any], times: ServiceTimes, cores: int) -> list[Comparison]:
    """One for each load and metric of BARS. Raises ValueError if the document has no run that can be simulated."""
    rows = [row for name, row in document["results"].items() if name.startswith(SYSTEM)]
    if not rows or document["benchmark"] not in ("serve", "compare"):
        raise ValueError(f"A run of {SYSTEM} by benchmarks.serve or compare is needed, not {document['benchmark']!r}.")
    settings = document["settings"]
    if settings.get("lone_threads") not in (None, settings["threads"]):
        raise ValueError("Images that are alone had threads of their own in that run, which the simulation has not.")
    shape = Shape(
        classifiers=settings["replicas"],
        classifier_threads=settings["threads"],
        max_batch_size=settings["max_batch_size"],
        shared_cores=cores,
    )
    return list(_comparisons(rows[0], shape, times, settings["seconds"], document["rounds"]))


def predict(
    shape: Shape, times: ServiceTimes, load_name: str, seconds: float, rounds: int, others_cores: float
) -> dict[str, float]:
    """Medians over the rounds, each simulated CHANCES times: as long, and with the same arrivals, as it was measured.

    `load_name` is "c=8" for eight callers, or "15/s" for an open loop.
    """
    found = [
        _run(shape, times, load_name, seconds, number, chance * rounds + number, others_cores)
        for number in range(rounds)
        for chance in range(CHANCES)
    ]
    return {
        "per_second": statistics.median(one.per_second for one in found),
        "p50_ms": statistics.median(one.percentile_ms(50) for one in found),
        "p99_ms": statistics.median(one.percentile_ms(99) for one in found),
    }


def _comparisons(
    row: Mapping[str, Mapping[str, Mapping[str, float]]], shape: Shape, times: ServiceTimes, seconds: float, rounds: int
) -> Iterator[Comparison]:
    for name, figures in row.items():
        if not (name.startswith("c=") or name.endswith("/s")):
            continue  # A share of another load's result is no load of its own.
        predicted = predict(shape, times, name, seconds, rounds, figures["others_cores"]["median"])
        for metric in BARS:
            spread = figures[metric]
            yield Comparison(name, metric, spread["median"], spread["min"], spread["max"], predicted[metric])


def _run(
    shape: Shape, times: ServiceTimes, load_name: str, seconds: float, number: int, seed: int, others_cores: float
) -> Found:
    if load_name.startswith("c="):
        callers = int(load_name.removeprefix("c="))
        return runs.closed_loop(shape, times, callers, seconds, seed=seed, others_cores=others_cores)
    moments_s = load.arrivals(float(load_name.removesuffix("/s")), seconds, number)
    return runs.open_loop(shape, times, moments_s, seed=seed, others_cores=others_cores, warm_up_share=0.0)


def table(comparisons: Sequence[Comparison]) -> str:
    """A line for each comparison, and which are out of their bar."""
    lines = [f"{'load':8}{'':12}{'measured (least - greatest)':>34}{'predicted':>11}{'off':>8}{'bar':>7}"]
    for one in comparisons:
        measured = f"{one.measured:.4g} ({one.least:.4g} - {one.greatest:.4g})"
        verdict = "" if one.is_within else "  missed"
        lines.append(
            f"{one.load:8}{one.metric:12}{measured:>34}{one.predicted:>11.4g}{one.off:>+8.0%}{BARS[one.metric]:>7.0%}"
            f"{verdict}"
        )
    return "\n".join(lines)
