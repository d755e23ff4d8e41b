"""How a run is told: a line for each change, and one JSON document of one line for machines."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from benchmarks.chaos.ledger import Entry
from deployments.engines.hardware import describe_hardware

# What a change may make of the 99th percentile, on two cores.
MAX_P99_RATIO: Final = 2.0
NAME_WIDTH, CELL_WIDTH = 28, 11


@dataclass(frozen=True)
class Window:
    """Requests that were sent in some period."""

    seconds: float
    answered: int
    failed: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Row:
    """A change, and a period of the same length after it. `problem`: the promise that it broke, if any."""

    name: str
    is_swap: bool
    during: Window
    without: Window
    problem: str = ""
    found: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_kept(self) -> bool:
        return not self.problem and self.during.failed == self.without.failed == 0

    @property
    def p99_ratio(self) -> float:
        return round(self.during.p99_ms / self.without.p99_ms, 2)


def window(entries: Sequence[Entry], began: float, ended: float) -> Window:
    """Of the requests that were due from `began` to `ended`; a refusal is a failure here, however honest it is."""
    due = [each for each in entries if began <= each.due < ended]
    latencies = [1000 * (each.ended - each.due) for each in due if each.outcome == "answered"]
    p50, p99 = np.percentile(latencies, [50, 99]) if latencies else (float("nan"), float("nan"))
    return Window(
        round(ended - began, 1), len(latencies), len(due) - len(latencies), round(float(p50), 1), round(float(p99), 1)
    )


def table(rows: Sequence[Row]) -> str:
    columns = ["seconds", "answered", "failed", "p50 ms", "p99 ms", "p50 after", "p99 after", "p99 ratio", "promise"]
    lines = [f"{'':{NAME_WIDTH}}" + "".join(f"{column:>{CELL_WIDTH}}" for column in columns)]
    for row in rows:
        during, without = row.during, row.without
        cells = [
            *(during.seconds, during.answered, during.failed + without.failed),
            *(during.p50_ms, during.p99_ms, without.p50_ms, without.p99_ms),
            f"{row.p99_ratio}{'' if row.is_swap and row.p99_ratio <= MAX_P99_RATIO else '!' if row.is_swap else ''}",
            "kept" if row.is_kept else "BROKEN",
        ]
        lines.append(f"{row.name:{NAME_WIDTH}}" + "".join(f"{cell:>{CELL_WIDTH}}" for cell in cells))
    return "\n".join(lines)


def document(settings: Mapping[str, Any], rows: Sequence[Row]) -> str:
    record = {
        "benchmark": "versions",
        "hardware": describe_hardware("cpu"),
        "settings": dict(settings),
        "results": {row.name: asdict(row) | {"p99_ratio": row.p99_ratio, "kept": row.is_kept} for row in rows},
    }
    return json.dumps(record)
