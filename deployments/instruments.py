"""Counters, gauges and histograms of one process, and how Ray comes by them.

Ray's agent on the node records each value of a histogram anew, and makes its sum up out of the middles of the buckets
(docs/lab-notes.md). So values are added up here, and a thread hands over every HAND_OVER_S: counters as what came
since, all else as what it is, changed or not, since Ray
forgets a gauge that nobody sets again. Nothing here waits for Ray. A histogram has three names in Prometheus, as it
would have there: NAME_bucket with the label `le`, NAME_sum, which is exact, and NAME_count.

What is added in the last seconds of a process is lost with it.
"""

import atexit
import logging
import sys
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from ray.serve import metrics as ray_metrics

logger = logging.getLogger("ray.serve")

# Ray hands over to its agent every 10 s, so that more often than twice in that is for nobody. Where it does so more
# often (metrics_report_interval_ms), so does this: a gauge that was not set in two intervals is gone.
HAND_OVER_S: Final = 5.0
# Of one name in one process: a model of 10 versions in 8 protocols has 80. What comes beyond is counted under OTHER, so
# that nothing that a client could ever choose fills the memory of this process, Ray's or Prometheus'.
MAX_SERIES: Final = 500
OTHER: Final = "other"

Labels = tuple[str, ...]


class Sample(NamedTuple):
    """A number as Prometheus gets it: `name` without Ray's prefix `ray_`, and of a counter without `_total`."""

    name: str
    labels: dict[str, str]
    value: float


class Instrument:
    """One name with its series, one to each set of labels."""

    def __init__(self, name: str, description: str, *labels: str) -> None:
        self.name, self.description, self.labels = name, description, labels
        _instruments.append(self)

    def samples(self) -> Iterator[Sample]:
        """What has been counted in this process so far."""
        raise NotImplementedError

    def hand_over(self) -> None:
        """To Ray: of a counter what came since the last time, of all else what it is."""
        raise NotImplementedError

    def _named(self, values: Labels) -> dict[str, str]:
        return dict(zip(self.labels, values, strict=True))

    def _bounded(self, values: Labels, known: int) -> Labels:
        """The labels of a series that is not there yet."""
        if len(values) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {values}.")
        _run_hand_over()
        return values if known < MAX_SERIES else (OTHER,) * len(values)


class Counter(Instrument):
    def __init__(self, name: str, description: str, *labels: str) -> None:
        super().__init__(name, description, *labels)
        self._totals: dict[Labels, float] = {}
        self._handed_over: dict[Labels, float] = {}
        self._ray: ray_metrics.Counter | None = None

    def add(self, amount: float, *values: str) -> None:
        with _lock:
            if values not in self._totals:
                values = self._bounded(values, len(self._totals))
            self._totals[values] = self._totals.get(values, 0) + amount

    def samples(self) -> Iterator[Sample]:
        with _lock:
            totals = dict(self._totals)
        for values, total in totals.items():
            yield Sample(self.name, self._named(values), total)

    def hand_over(self) -> None:
        with _lock:
            totals = dict(self._totals)
        for values, total in totals.items():
            before = self._handed_over.get(values)
            if before is not None and total <= before:
                continue
            if self._ray is None:
                self._ray = _ray_counter(self.name, self.description, self.labels)
            # Its public `inc` refuses 0, with which a series begins that nothing was counted of.
            self._ray._record(total - (before or 0), self._named(values))
            self._handed_over[values] = total


class Gauge(Instrument):
    def __init__(self, name: str, description: str, *labels: str) -> None:
        super().__init__(name, description, *labels)
        self._values: dict[Labels, float] = {}
        self._ray: ray_metrics.Gauge | None = None

    def set(self, value: float, *values: str) -> None:
        with _lock:
            if values not in self._values:
                values = self._bounded(values, len(self._values))
            self._values[values] = value

    def samples(self) -> Iterator[Sample]:
        with _lock:
            current = dict(self._values)
        for values, value in current.items():
            yield Sample(self.name, self._named(values), value)

    def hand_over(self) -> None:
        with _lock:
            current = dict(self._values)
        for values, value in current.items():
            if self._ray is None:
                self._ray = _ray_gauge(self.name, self.description, self.labels)
            self._ray.set(value, self._named(values))


@dataclass(slots=True)
class _Distribution:
    counts: list[int]  # by bucket, the last one without an end
    total: float = 0.0


class Histogram(Instrument):
    def __init__(self, name: str, description: str, ends: Sequence[float], *labels: str) -> None:
        """`ends`: of the buckets, ascending; a value on an end is below it. There is one more for what is greater."""
        super().__init__(name, description, *labels)
        self._ends = tuple(ends)
        self._le = [*(f"{end:g}" for end in ends), "+Inf"]
        self._series: dict[Labels, _Distribution] = {}
        self._ray: tuple[ray_metrics.Gauge, ray_metrics.Gauge, ray_metrics.Gauge] | None = None

    def observe(self, value: float, *values: str) -> None:
        with _lock:
            series = self._series.get(values)
            if series is None:
                values = self._bounded(values, len(self._series))
                series = self._series.setdefault(values, _Distribution([0] * len(self._le)))
            series.counts[bisect_left(self._ends, value)] += 1
            series.total += value

    def samples(self) -> Iterator[Sample]:
        for values, cumulative, total in self._snapshot():
            labels = self._named(values)
            for le, count in zip(self._le, cumulative, strict=True):
                yield Sample(f"{self.name}_bucket", {**labels, "le": le}, count)
            yield Sample(f"{self.name}_sum", labels, total)
            yield Sample(f"{self.name}_count", labels, cumulative[-1])

    def hand_over(self) -> None:
        for values, cumulative, total in self._snapshot():
            if self._ray is None:
                self._ray = self._ray_gauges()
            buckets, total_gauge, count = self._ray
            labels = self._named(values)
            for le, reached in zip(self._le, cumulative, strict=True):
                buckets.set(reached, {**labels, "le": le})
            total_gauge.set(total, labels)
            count.set(cumulative[-1], labels)

    def _snapshot(self) -> list[tuple[Labels, list[int], float]]:
        with _lock:
            return [(values, _cumulative(series.counts), series.total) for values, series in self._series.items()]

    def _ray_gauges(self) -> "tuple[ray_metrics.Gauge, ray_metrics.Gauge, ray_metrics.Gauge]":
        name, what = self.name, self.description
        return (
            _ray_gauge(f"{name}_bucket", f"{what} How many were at most `le`.", (*self.labels, "le")),
            _ray_gauge(f"{name}_sum", f"{what} Their sum.", self.labels),
            _ray_gauge(f"{name}_count", f"{what} How many there were.", self.labels),
        )


def samples() -> list[Sample]:
    """All that has been counted in this process so far."""
    return [sample for instrument in _instruments for sample in instrument.samples()]


def hand_over() -> None:
    """To Ray, now."""
    with _handing_over:
        for instrument in _instruments:
            try:
                instrument.hand_over()
            except Exception:  # It is not that of the others.
                logger.exception("The metric %s could not be handed over to Ray", instrument.name)


def _cumulative(counts: Sequence[int]) -> list[int]:
    reached, cumulative = 0, []
    for count in counts:
        reached += count
        cumulative.append(reached)
    return cumulative


def _ray_counter(name: str, description: str, labels: Labels) -> "ray_metrics.Counter":
    from ray.serve import metrics as ray_metrics

    # Ray types a tuple of any length as one of one.
    return ray_metrics.Counter(name, description, labels)  # type: ignore[arg-type]


def _ray_gauge(name: str, description: str, labels: Labels) -> "ray_metrics.Gauge":
    from ray.serve import metrics as ray_metrics

    return ray_metrics.Gauge(name, description, labels)  # type: ignore[arg-type]


def _run_hand_over() -> None:
    """Starts the thread, once something is counted, and where there is Ray; a rehearsal has none."""
    global _thread
    if _thread is None and "ray" in sys.modules:
        _thread = threading.Thread(target=_keep_handing_over, name="metrics", daemon=True)
        _thread.start()
        atexit.register(_ended.set)


def _keep_handing_over() -> None:
    interval_s = _interval_s()
    while not _ended.wait(interval_s):
        hand_over()


def _interval_s() -> float:
    from ray._raylet import Config  # type: ignore[attr-defined]  # It is compiled.

    return min(HAND_OVER_S, float(Config.metrics_report_interval_ms()) / 1000)


# Decoders count on threads of their own.
# And whatever is collected while this is held may count as it ends, on the same thread.
_lock = threading.RLock()
_handing_over = threading.Lock()
_instruments: list[Instrument] = []
_ended = threading.Event()
_thread: threading.Thread | None = None
