"""docs/operations.md names every metric as it is exported."""

import re
from pathlib import Path

from deployments import instruments, metrics

OPERATIONS = Path(__file__).resolve().parents[2] / "docs/operations.md"
KINDS = {instruments.Counter: "counter", instruments.Gauge: "gauge", instruments.Histogram: "histogram"}
ROW = re.compile(r"^\| `(aperture_\w+)` \| (\w+) \| ([\w ,]+) \| (.*?) \| (.+) \|$", re.MULTILINE)
# What a name ends with, where that is not its unit.
COUNTED = {
    **{"hits": "images", "joined": "images", "misses": "images", "evictions": "answers", "hand": "images"},
    **{"bisections": "batches", "verdicts": "engines", "loads": "versions", "promotions": "steps"},
    **{"stopped": "processes", "ratio": "0 to 1", "info": "1", "state": "0, 1", "difference": "0 to 1"},
}


def test_the_table_of_metrics_is_what_is_exported() -> None:
    rows = [(name, kind, unit, labels, text) for name, kind, unit, labels, text in ROW.findall(OPERATIONS.read_text())]
    assert rows == [_row(instrument) for instrument in exported()]


def exported() -> list[instruments.Instrument]:
    """In the order of metrics.py."""
    found = [
        each for value in vars(metrics).values() for each in (value.values() if isinstance(value, dict) else [value])
    ]
    return [each for each in found if isinstance(each, instruments.Instrument)]


def _row(instrument: instruments.Instrument) -> tuple[str, str, str, str, str]:
    last = instrument.name.rpartition("_")[2]
    labels = ", ".join(f"`{label}`" for label in instrument.labels)
    return instrument.name, KINDS[type(instrument)], COUNTED.get(last, last), labels, instrument.description
