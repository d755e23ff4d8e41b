"""How a run is told: a line for each scenario, and one JSON document of one line for machines."""

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.chaos.ledger import OUTCOMES, Ledger
from deployments.engines.hardware import describe_hardware

NAME_WIDTH, CELL_WIDTH = 36, 10


def figures(ledger: Ledger, is_kept: bool) -> dict[str, float | bool]:
    """`in_flight`: of those that were lost, how many were in flight when a fault happened."""
    return {
        "sent": len(ledger.entries),
        **{outcome: ledger.count(outcome) for outcome in OUTCOMES},
        "in_flight": ledger.in_flight_at_faults(),
        "recovery_s": round(ledger.recovery_s(), 1),
        "kept": is_kept,
    }


def table(results: Mapping[str, Mapping[str, float | bool]]) -> str:
    """The columns are those of `figures`."""
    columns = ["sent", *OUTCOMES, "recovery s", "promise"]
    lines = [f"{'':{NAME_WIDTH}}" + "".join(f"{column:>{CELL_WIDTH}}" for column in columns)]
    for name, row in results.items():
        cells = [row["sent"], *(row[outcome] for outcome in OUTCOMES), row["recovery_s"]]
        cells_text = "".join(f"{cell:>{CELL_WIDTH}}" for cell in [*cells, "kept" if row["kept"] else "BROKEN"])
        lines.append(f"{name:{NAME_WIDTH}}{cells_text}")
    return "\n".join(lines)


def document(settings: Mapping[str, Any], results: Mapping[str, Mapping[str, float | bool]]) -> str:
    record = {
        "benchmark": "chaos",
        "hardware": describe_hardware("cpu"),
        "settings": dict(settings),
        "results": results,
    }
    return json.dumps(record)
