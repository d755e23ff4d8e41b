"""What became of each request, and how soon after a fault all was as before."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

# answered   with what this picture's answer is known to be, under the id that was sent
# refused    503 or 429 that says when to come again; over gRPC RESOURCE_EXHAUSTED or UNAVAILABLE from the server
# lost       no answer: the connection ended, or the time was over
# wrong      an answer that is another picture's, or another request's
# other      any other status
Outcome = Literal["answered", "refused", "lost", "wrong", "other"]
OUTCOMES: tuple[Outcome, ...] = ("answered", "refused", "lost", "wrong", "other")

# An answer that takes longer is not as before: without a fault they take some hundredths, and when others use the same
# two cores, now and then a second.
SLOW_S = 2.0
# HAProxy ends a moment after its manager.
AFTERWARDS_S = 0.5
EXAMPLES = 5


@dataclass(frozen=True)
class Entry:
    """Moments are of time.monotonic."""

    protocol: str
    due: float
    ended: float
    outcome: Outcome
    # What came instead of the answer, for people.
    detail: str = ""
    # Of the model, which the answer names.
    version: int = 0

    @property
    def is_well(self) -> bool:
        return self.outcome == "answered" and self.ended - self.due <= SLOW_S


@dataclass
class Ledger:
    """Of one scenario."""

    entries: list[Entry] = field(default_factory=list)
    # When processes were killed or a change began.
    faults: list[float] = field(default_factory=list)
    # What did not happen in time, if anything.
    problem: str = ""

    def count(self, outcome: Outcome) -> int:
        return sum(entry.outcome == outcome for entry in self.entries)

    def examples(self) -> list[str]:
        """The first and the last of what came instead of prompt answers, with the moments from the first fault on."""
        began = min(self.faults, default=0.0)
        unlike = [each for each in self.entries if each.outcome != "answered"]
        slow = [each for each in self.entries if each.outcome == "answered" and not each.is_well]
        shown = [*unlike[:EXAMPLES], *unlike[EXAMPLES:][-EXAMPLES:], *slow[-EXAMPLES:]]
        return [
            f"{each.outcome}, {each.protocol}, {each.due - began:+.1f} to {each.ended - began:+.1f} s {each.detail}"
            for each in shown
        ]

    def in_flight_at_faults(self) -> int:
        """Requests that were lost when a process died that had them, within AFTERWARDS_S of a fault."""
        return sum(
            entry.outcome == "lost"
            and any(
                entry.due <= fault + AFTERWARDS_S and fault <= entry.ended <= fault + 2 * AFTERWARDS_S
                for fault in self.faults
            )
            for entry in self.entries
        )

    def recovery_s(self) -> float:
        """From a fault until the end of the last request that was not answered within SLOW_S, the longest of all."""
        return max(self._recoveries_s(), default=0.0)

    def answered_since(self, now: float) -> float:
        """For how many seconds every request that ended was answered; since the last fault at most."""
        last_bad = max((entry.ended for entry in self.entries if entry.outcome != "answered"), default=0.0)
        return now - max([last_bad, *self.faults])

    def _recoveries_s(self) -> Sequence[float]:
        bad = [entry.ended for entry in self.entries if not entry.is_well]
        return [
            max((ended - fault for ended in bad if fault <= ended < next_fault), default=0.0)
            for fault, next_fault in pairwise([*self.faults, float("inf")])
        ]
