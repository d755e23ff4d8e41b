"""How fast work drains, learned as it does: the rate at which a model answers, and the time that a batch takes.

Pure arithmetic on a clock that the caller reads: this module knows no asyncio and no Ray.
"""

import math
from typing import Final

# How long what has been measured counts, in seconds in which there was work: enough for several batches of slow models,
# and within twice of it a lost replica is noticed.
MEMORY_S: Final = 1.5
# Fewer seconds of work than this say nothing of a rate.
LEAST_S: Final = 0.1
# How many times the rate that a light load has shown is thought possible for more of them at once than there were: its
# images had no company in their batches.
HEADROOM: Final = 2.0
# How far a proven rate follows a higher one that nothing was refused at: chance alone goes up and down by a tenth, and
# the highest of many such values would be too high.
RAISED_BY_LEARNING: Final = 0.02
# Images a second; what is slower is as good as standing still.
SLOWEST: Final = 1e-3
# How much a run counts beside the next one: some ten runs tell what a size costs, and a slower device is soon known.
KEPT_OF_RUN: Final = 0.9
# In which an expected run time halves while nothing runs. What is never run again is never measured again, and one slow
# batch must not make everything that comes look hopeless for ever.
FORGET_S: Final = 1.0


class DrainRate:
    """How many images a model answers in a second when it has enough to do.

    A sum over the last seconds in which there was work, each second counting less the longer ago it was. Under a load
    that is held back, or that is late, the rate is what was measured; a light load can only raise it.
    """

    def __init__(self, now: float) -> None:
        self.per_s: float | None = None
        self.is_proven = False
        self._in_hand = 0.0
        self._items = 0
        self._drained = 0.0
        self._busy_s = 0.0
        self._held = 0.0  # What was in hand, times the seconds.
        self._seen = now
        self._pressed = -math.inf
        self._last = now

    @property
    def in_hand(self) -> float:
        return self._in_hand

    def take(self, cost: float, now: float) -> None:
        if self._in_hand == 0:
            self._last = now
        self._advance(now)
        self._in_hand += cost
        self._items += 1

    def leave(self, cost: float, now: float) -> None:
        """Without an answer: what failed at once, or was given up, says nothing of the rate."""
        self._advance(now)
        self._in_hand -= cost
        self._items -= 1
        if self._items == 0:
            self._in_hand = 0.0  # Costs are floats, and their sums go amiss.
            self._pressed = -math.inf  # From here on it has less to do than it could.

    def answer(self, cost: float, now: float) -> None:
        self._advance(now)
        self._drained += cost
        self._last = now
        self._learn(now)
        self.leave(cost, now)

    def press(self, now: float) -> None:
        """Something was refused, or missed its deadline: there is more than enough to do."""
        self._advance(now)
        self._pressed = now
        self._learn(now)

    def stalled_s(self, now: float) -> float:
        """Since when there has been no answer, though there was work."""
        return now - self._last if self._in_hand else 0.0

    def wait_s(self, cost: float, now: float) -> float:
        """In which so much is expected to be answered, itself included; 0 while nobody knows."""
        self._advance(now)
        self._learn(now)
        if self.per_s is None:
            return 0.0
        return cost / (self.per_s * (1.0 if self.is_proven else self._headroom(cost)))

    def _headroom(self, cost: float) -> float:
        usual = self._held / self._busy_s if self._busy_s else 0.0
        return min(HEADROOM, max(1.0, cost / usual)) if usual else HEADROOM

    def _advance(self, now: float) -> None:
        passed_s, self._seen = now - self._seen, now
        if self._in_hand and passed_s > 0:
            kept = math.exp(-passed_s / MEMORY_S)
            self._drained *= kept
            self._busy_s = self._busy_s * kept + MEMORY_S * (1 - kept)
            self._held = self._held * kept + self._in_hand * MEMORY_S * (1 - kept)

    def _learn(self, now: float) -> None:
        if self._busy_s < LEAST_S or not self._drained:
            return
        measured = max(self._drained / self._busy_s, SLOWEST)
        if now - self._pressed < MEMORY_S:
            self.per_s, self.is_proven = measured, True
        elif self.per_s is None or not self.is_proven:
            self.per_s = max(measured, self.per_s or 0.0)
        elif measured > self.per_s:
            self.per_s += (measured - self.per_s) * RAISED_BY_LEARNING


class RunTimes:
    """How long a batch takes by its size: a constant and so much for each item, by least squares over the last runs."""

    def __init__(self) -> None:
        # Of the runs: how many, their sizes, squared sizes, seconds, and sizes times seconds.
        self._count = self._sizes = self._squares = self._seconds = self._cross = 0.0
        self._last = 0.0

    def add(self, size: int, run_s: float, now: float) -> None:
        sums = (self._count, self._sizes, self._squares, self._seconds, self._cross)
        values = (1, size, size**2, run_s, size * run_s)
        self._count, self._sizes, self._squares, self._seconds, self._cross = (
            kept * KEPT_OF_RUN + value for kept, value in zip(sums, values, strict=True)
        )
        self._last = now

    def expected_s(self, size: int, now: float) -> float:
        """0 while nothing has run."""
        if not self._count:
            return 0.0
        spread = self._count * self._squares - self._sizes**2
        mean_size, mean_s = self._sizes / self._count, self._seconds / self._count
        # Where all are of one size nothing is known of others: smaller ones may be cheaper in proportion.
        slope_s = mean_s / mean_size
        if spread > 1e-3 * self._count * self._squares:
            slope_s = min(max((self._count * self._cross - self._sizes * self._seconds) / spread, 0.0), slope_s)
        run_s = max(0.0, mean_s + slope_s * (size - mean_size))
        return float(run_s * 0.5 ** (max(0.0, now - self._last) / FORGET_S))
