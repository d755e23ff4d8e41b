"""What becomes of a cell when more comes than it was planned for, or when it loses a replica."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulation import arrivals
from benchmarks.simulation.autoscaler import Autoscaler, Scaling, start
from benchmarks.simulation.runs import Recorder, feed
from benchmarks.simulation.service import Service
from benchmarks.simulation.service_times import ServiceTimes
from benchmarks.simulation.shape import CLASSIFIER, DEPLOYMENTS, INGRESS, PREPROCESSOR, Shape
from benchmarks.simulation.timeline import Timeline

# What a run may simulate in reasonable time.
MOST_REQUESTS = 60_000
LONGEST_S = 120.0
# Of the run: quiet before, and how long the surge lasts.
QUIET_SHARE, SURGE_SHARE = 0.2, 0.5
SCALED = (PREPROCESSOR, CLASSIFIER)
# Serve's advice for the preprocessor is one more than it decodes at once, for the classifier a batch and a half.
BATCHES_ONGOING = 1.5
MOST_FACTOR = 4


@dataclass(frozen=True)
class Event:
    """What happened, second by second. The index of every array is the second from the start."""

    name: str
    begins_s: float
    requests: NDArray[np.float64]  # that were due
    p99_ms: NDArray[np.float64]  # of those due then; NaN where none was answered
    replicas: dict[str, NDArray[np.float64]]
    failed: int

    def worst_p99_ms(self) -> float:
        after = self.p99_ms[int(self.begins_s) :]
        return float(np.nanmax(after)) if np.isfinite(after).any() else float("inf")

    def seconds_above(self, limit_ms: float) -> int:
        """How many seconds had a p99 above `limit_ms` from the event on; one with no answer counts."""
        after = self.p99_ms[int(self.begins_s) :]
        return int(np.sum(~(after <= limit_ms)))


def surge(shape: Shape, times: ServiceTimes, per_second: float, factor: float, start_up_s: float, seed: int) -> Event:
    """The rate rises to `factor` times what it was and falls again, with Serve's autoscaler on all but the Ingress."""
    length_s = min(LONGEST_S, MOST_REQUESTS / (per_second * (1 + (factor - 1) * SURGE_SHARE)))
    begins_s, ends_s = length_s * QUIET_SHARE, length_s * (QUIET_SHARE + SURGE_SHARE)
    moments_s = arrivals.piecewise(
        [(begins_s, per_second), (ends_s, factor * per_second), (length_s, per_second)], seed
    )
    service, recorder = _started(_with_calls_for(shape, MOST_FACTOR), times, moments_s, seed)
    for deployment in SCALED:
        Autoscaler(service, deployment, scaling(shape, deployment, start_up_s), shape.count(deployment))
    return _watched(f"{factor:g} times the load", service, recorder, moments_s, begins_s, length_s)


def loss(
    shape: Shape, times: ServiceTimes, per_second: float, deployment: str, lost: int, start_up_s: float, seed: int
) -> Event:
    """`lost` replicas of one deployment die at once, and as many begin to answer `start_up_s` later."""
    length_s = min(LONGEST_S, MOST_REQUESTS / per_second)
    begins_s = length_s * QUIET_SHARE
    moments_s = arrivals.piecewise([(length_s, per_second)], seed)
    service, recorder = _started(shape, times, moments_s, seed)
    for _ in range(lost):
        service.timeline.at(begins_s, service.kill, deployment)
        service.timeline.at(begins_s + start_up_s, start, service, deployment)
    return _watched(f"{lost} of {deployment} lost", service, recorder, moments_s, begins_s, length_s)


def scaling(shape: Shape, deployment: str, start_up_s: float) -> Scaling:
    """At least what was planned, and up to MOST_FACTOR times that."""
    planned = shape.count(deployment)
    classifier = BATCHES_ONGOING * shape.max_batch_size * shape.runners
    target = classifier if deployment == CLASSIFIER else shape.preprocessor_threads + 1
    return Scaling(target, planned, MOST_FACTOR * planned, start_up_s=start_up_s)


def _with_calls_for(shape: Shape, factor: int) -> Shape:
    """Calls in flight for as many replicas as there may come to be; with too few of them the new ones would idle."""
    if shape.gathering is None:
        return shape
    gathering = shape.gathering.model_copy(update={"max_calls": factor * shape.max_calls})
    return replace(shape, gathering=gathering)


def _started(shape: Shape, times: ServiceTimes, moments_s: NDArray[np.float64], seed: int) -> tuple[Service, Recorder]:
    timeline = Timeline()
    service = Service(timeline, shape, times, seed)
    recorder = Recorder(timeline)
    feed(service, recorder, moments_s, 1, seed)
    return service, recorder


def _watched(
    name: str,
    service: Service,
    recorder: Recorder,
    moments_s: NDArray[np.float64],
    begins_s: float,
    length_s: float,
) -> Event:
    seconds = int(length_s)
    counts: list[dict[str, int]] = []
    for second in range(seconds):
        service.timeline.run(second + 1.0)
        counts.append({name: len(router.replicas) for name, router in service.routers.items()})
    service.timeline.run(length_s + service.shape.request_timeout_s)
    replicas = {name: np.array([float(count[name]) for count in counts]) for name in counts[0]} if counts else {}
    replicas[INGRESS] = np.full(seconds, float(len(service.ingresses)))
    requests = np.histogram(moments_s, range(seconds + 1))[0].astype(float)
    ordered = {name: replicas[name] for name in DEPLOYMENTS}
    p99_ms = _p99_by_second(recorder.begun_s, recorder.latencies_s, seconds)
    failed = len(moments_s) - len(recorder.latencies_s)
    return Event(name, begins_s, requests, p99_ms, ordered, failed)


def _p99_by_second(begun_s: Sequence[float], latencies_s: Sequence[float], seconds: int) -> NDArray[np.float64]:
    begun, latencies = np.array(begun_s, dtype=int), np.array(latencies_s)
    of_second = [latencies[begun == second] for second in range(seconds)]
    return np.array([np.percentile(found, 99) * 1000 if len(found) else np.nan for found in of_second])
