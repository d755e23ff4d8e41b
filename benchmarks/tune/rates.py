"""The highest rate at which a latency holds, found by a few short measurements.

Requests that come at random moments (an open loop) are offered at one rate after the other. A rate is good if 99 of 100
requests are answered within the goal, counted from the moment at which each was due; one that fails counts as one that
is never answered. What callers that wait for their answers get (a closed loop) is about the most that a service can do,
so no rate far above it is tried.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

# Rates are tried up to so many capacities: a closed loop of a few seconds is not exact either.
CEILING = 1.1
# Where the search begins when nothing is known, and the next rate below one that is too high, as shares.
FIRST, LOWER = 0.75, 0.7
# Rates closer than this are not told apart by a measurement of seconds.
RESOLUTION = 0.04
MOST_PROBES = 6


@dataclass(frozen=True)
class Probe:
    """One rate, offered for some seconds. Percentiles are infinite where requests failed; `per_second` is what was
    offered, `others_cores` what other programs took meanwhile."""

    per_second: float
    p50_ms: float
    p99_ms: float
    requests: int
    failed: int = 0
    others_cores: float = 0.0

    def record(self) -> dict[str, Any]:
        """As JSON knows it: without infinity."""
        return {key: None if value == float("inf") else value for key, value in asdict(self).items()}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        known: dict[str, Any] = {key: float("inf") if value is None else value for key, value in record.items()}
        return cls(**known)


@dataclass(frozen=True)
class Found:
    """`per_second`: the highest good rate, 0 if none was. `is_beaten`: it was left early, being no better than what it
    had to beat."""

    per_second: float
    capacity: float
    probes: Sequence[Probe]
    is_beaten: bool = False

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "probes": [probe.record() for probe in self.probes]}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        return cls(**{**record, "probes": [Probe.from_record(probe) for probe in record["probes"]]})

    @property
    def at_the_rate(self) -> Probe | None:
        """The measurement at the rate that was found."""
        return next((probe for probe in self.probes if probe.per_second == self.per_second), None)


class Loads(Protocol):
    """What can be offered load."""

    def capacity(self) -> float:
        """Requests a second in a closed loop."""

    def offer(self, per_second: float, number: int) -> Probe:
        """An open loop of that rate; the same moments for the same number."""


def find_rate(
    loads: Loads, goal_ms: float, *, to_beat: float = 0.0, expected: float = 0.0, most_probes: int = MOST_PROBES
) -> Found:
    """`to_beat`: a rate below which nobody is interested. `expected`: where to begin, if something is known."""
    capacity = loads.capacity()
    ceiling = CEILING * capacity
    if ceiling <= to_beat:
        return Found(0.0, capacity, [], is_beaten=True)
    probes: list[Probe] = []
    low, high = 0.0, ceiling
    rate = to_beat or min(expected or FIRST * capacity, ceiling)
    while len(probes) < most_probes and (low == 0.0 or high - low > RESOLUTION * high):
        probes.append(loads.offer(rate, len(probes)))
        if probes[-1].p99_ms <= goal_ms:
            low = rate
        elif rate <= to_beat:
            return Found(0.0, capacity, probes, is_beaten=True)
        else:
            high = rate
        rate = (low + high) / 2 if low else LOWER * high
    return Found(low, capacity, probes)
