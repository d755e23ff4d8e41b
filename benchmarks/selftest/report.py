"""How it is told: a line for each claim as soon as it is known, what failed once more, and one JSON document."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, TextIO

from benchmarks import report
from benchmarks.selftest.arguments import Options
from benchmarks.selftest.overload import CALLERS
from benchmarks.selftest.runner import CHECKS, Row, State

COLOURS: Final[dict[State, str]] = {"held": "32", "failed": "31;1", "skipped": "33", "not run": "31"}
STATE_WIDTH, MS_WIDTH, CAME_WIDTH = 8, 9, 60
CLAIM_WIDTH: Final = max(len(check.claim) for check in CHECKS) + 2
EXPECTED_WIDTH: Final = max(len(check.expected) for check in CHECKS) + 2


class Table:
    """Prints to `out`, in colour if that is a terminal and NO_COLOR (no-color.org) is not set."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._in_colour = out.isatty() and not os.environ.get("NO_COLOR")
        self._topic = ""

    def begin(self, options: Options) -> None:
        self._print(f"{options.url}, within {options.budget_s:g} s; at most {CALLERS} requests at a time.")
        head = f"{'':{STATE_WIDTH}}{'claim':{CLAIM_WIDTH}}{'expected':{EXPECTED_WIDTH}}{'ms':>{MS_WIDTH}}  came"
        self._print(f"\n{head}")

    def add(self, row: Row) -> None:
        if row.check.topic != self._topic:
            self._topic = row.check.topic
            self._print(f"\n{self._topic}")
        came = row.came if len(row.came) <= CAME_WIDTH else f"{row.came[: CAME_WIDTH - 3]}..."
        self._print(
            f"{self._painted(row.state)}{row.check.claim:{CLAIM_WIDTH}}{row.check.expected:{EXPECTED_WIDTH}}"
            f"{row.took_ms:{MS_WIDTH}.0f}  {came}"
        )

    def end(self, rows: Sequence[Row], seconds: float, sent_again: int) -> None:
        for row in rows:
            if not row.is_good:
                self._print(f"\n{row.state}: {row.check.topic}: {row.check.claim}")
                self._print(f"  expected {row.check.expected}; came {row.came}")
        counts = Counter(row.state for row in rows)
        told = ", ".join(f"{count} {state}" for state, count in counts.items())
        again = f"; {sent_again} requests were sent again, as the service had asked" if sent_again else ""
        self._print(f"\n{told} in {seconds:.0f} s{again}\n")

    def _painted(self, state: State) -> str:
        text = f"{state:{STATE_WIDTH}}"
        return f"\x1b[{COLOURS[state]}m{text}\x1b[0m" if self._in_colour else text

    def _print(self, line: str) -> None:
        print(line, file=self._out, flush=True)


def document(options: Options, model: str, rows: Sequence[Row], seconds: float) -> str:
    """`hardware` and `versions` are those of this side, where the questions came from."""
    settings = {
        "url": options.url,
        "grpc": options.grpc_address,
        "model": model,
        "budget_s": options.budget_s,
        "has_key": options.key is not None,
    }
    results: dict[str, dict[str, Any]] = {}
    for row in rows:
        told = {"state": row.state, "expected": row.check.expected, "came": row.came, "ms": round(row.took_ms, 1)}
        results.setdefault(row.check.topic, {})[row.check.claim] = told
    counts = dict(Counter(row.state for row in rows))
    return report.document("selftest", 1, settings, results, counts=counts, seconds=round(seconds, 1))


def complain(sentence: str) -> None:
    print(f"selftest: {sentence}", file=sys.stderr)
