"""What a load past capacity came to: figures of one run, a table of all, and whether the targets are met."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.load import DISCONNECTED, OK, TIMEOUT, Outcome
from benchmarks.report import Results, Spread

DEADLINE_S = 1.0
# After the deadline, until the client hangs up: time for an honest 408, or to see that an answer comes too late.
GRACE_S = 1.0
CAPACITY = "c=32"
# What is offered, in capacities.
LOADS = {"0.8x": 0.8, "1x": 1.0, "2x": 2.0, "4x": 4.0}
OVERLOADS = ("2x", "4x")
REFUSED, EXPIRED = ("503", "429"), "408"
# Header of each column; rates are requests per second.
METRICS = {
    "offered": "offered/s",
    "goodput": "goodput/s",
    "share": "of capacity",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "refused": "refused/s",
    "refusal_p50_ms": "p50 ms to it",
    "refusal_p99_ms": "p99 ms to it",
    "expired": "408/s",
    "late": "late/s",
    "lost": "lost/s",
    "failed": "failed/s",
    "memory_mb": "most MB",
    "generator_cores": "client cores",
}
LEAST_SHARE, MOST_REFUSAL_MS = 0.9, 50.0
CELL_WIDTH = 13


def capacity_figures(outcome: Outcome) -> dict[str, float]:
    return {
        "goodput": outcome.per_second,
        "p50_ms": outcome.percentile_ms(50),
        "p99_ms": outcome.percentile_ms(99),
        "failed": outcome.failed / outcome.elapsed_s,
    }


def load_figures(outcome: Outcome, seconds: float, *, capacity_per_second: float) -> dict[str, float]:
    """Figures by METRICS of an open loop of `seconds`. What never happened has no percentiles."""
    statuses = Counter(_fate(request.status, request.took_s) for request in outcome.ended)
    goodput = _goodput(outcome, seconds)
    rates = {fate: statuses[fate] / seconds for fate in ("refused", "expired", "late", "lost", "failed")}
    refusals_s = [request.took_s for request in outcome.ended if request.status in REFUSED]
    return {
        "offered": len(outcome.ended) / seconds,
        "goodput": goodput,
        "share": goodput / capacity_per_second,
        **_percentiles("", outcome.latencies_s),
        **_percentiles("refusal_", refusals_s),
        **rates,
    }


def _fate(status: str, took_s: float) -> str:
    if status == OK:
        return "good" if took_s <= DEADLINE_S else "late"
    if status in REFUSED:
        return "refused"
    if status == EXPIRED:
        return "expired"
    return "lost" if status in (TIMEOUT, DISCONNECTED) else "failed"


def _goodput(outcome: Outcome, seconds: float) -> float:
    """Answers in time per second, of those that came after the first deadline and before the last request was due.

    Before that a server fills an empty queue, and after that it empties one: neither goes on for ever.
    """
    moments_s = (
        request.due_s + request.took_s for request in outcome.ended if _is_good(request.status, request.took_s)
    )
    return sum(DEADLINE_S <= moment_s < seconds for moment_s in moments_s) / (seconds - DEADLINE_S)


def _is_good(status: str, took_s: float) -> bool:
    return _fate(status, took_s) == "good"


def _percentiles(prefix: str, seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {f"{prefix}p{percent}_ms": float(np.percentile(seconds, percent)) * 1000 for percent in (50, 99)}


def verdicts(row: Mapping[str, Mapping[str, Spread]]) -> dict[str, dict[str, Any]]:
    """By what is asked for at each overload: the median over the rounds, the bound, and whether it is kept.

    `row` are the figures of one system by load; without any there is nothing to judge.
    """
    found: dict[str, dict[str, Any]] = {}
    for load in OVERLOADS:
        figures = row.get(load, {})
        for metric, name, bound in (
            ("share", f"goodput at {load}, in capacities", LEAST_SHARE),
            ("p99_ms", f"p99 of the accepted at {load}, ms", DEADLINE_S * 1000),
            ("refusal_p50_ms", f"median refusal at {load}, ms", MOST_REFUSAL_MS),
        ):
            if metric in figures:
                found[name] = _verdict(figures[metric]["median"], bound, at_least=metric == "share")
    return found


def _verdict(found: float, bound: float, *, at_least: bool) -> dict[str, Any]:
    met = found >= bound if at_least else found <= bound
    return {"found": found, "bound": f"at {'least' if at_least else 'most'} {bound:g}", "met": met}


def table(results: Results) -> str:
    """A block for each load: a line for each system with its medians over the rounds."""
    return "\n\n".join(_block(load, results) for load in (CAPACITY, *LOADS))


def _block(load: str, results: Results) -> str:
    rows = {name: row[load] for name, row in results.items() if load in row}
    metrics = [metric for metric in METRICS if any(metric in row for row in rows.values())]
    width = max(map(len, [*rows, load])) + 2
    lines = [f"{load:{width}}" + "".join(f"{METRICS[metric]:>{CELL_WIDTH}}" for metric in metrics)]
    for name, row in rows.items():
        lines.append(f"{name:{width}}" + "".join(f"{_cell(row.get(metric)):>{CELL_WIDTH}}" for metric in metrics))
    return "\n".join(lines)


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    value = spread["median"]
    return f"{value:.0f}" if value >= 100 or value == 0 else f"{value:.3g}"
