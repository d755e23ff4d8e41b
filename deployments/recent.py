"""The last minute, second by second: requests in an Ingress replica, batches in a Classifier replica.

Seconds are those of the wall clock since 1970, so that what replicas have counted can be added up; clocks that differ
shift their counts against each other by as much.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from deployments.histograms import Histogram, Scale

MINUTE_S: Final = 60
# The second that is not over yet, and as much again as the clocks of two nodes that are kept in time may differ.
KEPT_S: Final = MINUTE_S + 4
# From 0.1 ms, which an answer out of the cache takes, to 100 s, longer than any request; 6 % off at most.
LATENCIES: Final = Scale(lowest=1e-4, decades=6, per_decade=40)

Kept = TypeVar("Kept")


class _Ring(Generic[Kept]):
    """One thing for each of the last KEPT_S seconds in which there was any."""

    def __init__(self, make: Callable[[], Kept], clock: Callable[[], float]) -> None:
        self._make = make
        self._clock = clock
        self._slots: list[tuple[int, Kept] | None] = [None] * KEPT_S

    def now(self) -> Kept:
        second = int(self._clock())
        slot = self._slots[second % KEPT_S]
        if slot is None or slot[0] != second:
            slot = self._slots[second % KEPT_S] = (second, self._make())
        return slot[1]

    def before(self, end: int) -> Iterator[tuple[int, Kept]]:
        """What there is of the MINUTE_S seconds before `end`, each with its place among them."""
        for place, second in enumerate(range(end - MINUTE_S, end)):
            slot = self._slots[second % KEPT_S]
            if slot is not None and slot[0] == second:
                yield place, slot[1]


@dataclass(frozen=True, slots=True)
class Second:
    """Requests that ended in it; `failed` ones are among them."""

    requests: int = 0
    failed: int = 0

    def __add__(self, other: "Second") -> "Second":
        return Second(self.requests + other.requests, self.failed + other.failed)


@dataclass(frozen=True, slots=True)
class MinuteOfRequests:
    """`seconds`: MINUTE_S of them, the oldest first. `latencies`: of the requests that did not fail, in seconds."""

    seconds: Sequence[Second]
    latencies: Histogram


@dataclass(slots=True)
class _Requests:
    second: Second = Second()
    latencies: Histogram = field(default_factory=lambda: Histogram(LATENCIES))


class RecentRequests:
    """What one Ingress replica has answered."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._ring = _Ring(_Requests, clock)

    def add(self, latency_s: float, *, failed: bool) -> None:
        now = self._ring.now()
        now.second += Second(1, int(failed))
        if not failed:
            now.latencies.add(max(0.0, latency_s))

    def minute_before(self, end: int) -> MinuteOfRequests:
        """`end`: seconds since 1970."""
        seconds, latencies = [Second()] * MINUTE_S, Histogram(LATENCIES)
        for place, kept in self._ring.before(end):
            seconds[place] = kept.second
            latencies.merge(kept.latencies)
        return MinuteOfRequests(seconds, latencies)


class RecentBatches:
    """What one Classifier replica has run, whatever version it was of."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._ring: _Ring[Counter[int]] = _Ring(Counter, clock)

    def add(self, size: int, duration_s: float) -> None:
        """As statistics.BatchStatistics has it."""
        self._ring.now()[size] += 1

    def minute_before(self, end: int) -> Counter[int]:
        """Batches by how many images they had."""
        return sum((counted for _, counted in self._ring.before(end)), Counter())


def summed_minute(minutes: Sequence[MinuteOfRequests]) -> MinuteOfRequests:
    """That of all replicas together."""
    seconds, latencies = [Second()] * MINUTE_S, Histogram(LATENCIES)
    for minute in minutes:
        seconds = [mine + theirs for mine, theirs in zip(seconds, minute.seconds, strict=True)]
        latencies.merge(minute.latencies)
    return MinuteOfRequests(seconds, latencies)
