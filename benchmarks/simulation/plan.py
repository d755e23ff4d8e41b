"""The least replicas that answer within the latency asked for.

A large service is simulated as a cell of it: some replicas of each deployment with their share of the requests.
Requests that are sent to cells at random come to each as a Poisson process again (thinning), and where a router
chooses between two of many replicas, their queues become independent of each other as the replicas grow in number,
and keep their lengths (Vvedenskaya, Dobrushin and Karpelevich 1996; Mitzenmacher 2001). What cells share with each
other can only shorten the queues, since a replica that idles in one cell would help out in the next. So a service of
n cells is as good as a cell, or better; and a cell is simulated for as many requests as a 99th percentile needs.

All counts are tried on the same requests, moments and decoding times (common random numbers), so that what differs
between two runs is the count, and every search gives the same answer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulation import arrivals
from benchmarks.simulation.arrivals import Bursts
from benchmarks.simulation.runs import Found, open_loop, pooled
from benchmarks.simulation.service_times import ServiceTimes
from benchmarks.simulation.shape import CLASSIFIER, DEPLOYMENTS, INGRESS, PREPROCESSOR, Shape

# 90 of them lie beyond the 99th percentile after the warm-up; other requests show how far that can be trusted.
REQUESTS = 10_000
# A run lasts this many times the latency asked for, so that a queue that grows slowly is seen; and how busy nothing may
# be, however short the run.
LATENCIES_A_RUN, MOST_BUSY = 25, 0.95
MOST_REQUESTS = 60_000
# Enough that a router has a choice, and that rounding up to whole replicas is a small share; more only takes time.
CLASSIFIERS_IN_A_CELL, MOST_CLASSIFIERS_IN_A_CELL, INGRESSES_IN_A_CELL = 6, 48, 3
USUAL_SHARE, GENEROUS_SHARE = 0.7, 0.35
# How busy the cheaper deployments may be from the start, against what full calls would allow; the first that can meet
# the demand is taken. Starting from plenty, the dearest deployment would use up all the latency there is.
SHARES = (0.7, 0.5)
# With this many times what is generous, more replicas will not help either.
FUTILE_FACTOR = 4
# Independent runs of each trial, judged together: at a high load one run may be lucky.
RUNS, SEEDS_APART = 3, 101


@dataclass(frozen=True)
class Demand:
    """What is asked for."""

    images_per_second: float
    p99_s: float
    images_per_request: int = 1
    bursts: Bursts | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.images_per_second <= 0 or self.p99_s <= 0 or self.images_per_request < 1:
            raise ValueError(f"A load, a latency and at least one image a request are needed, not {self!r}.")


class Infeasible(Exception):
    """No number of replicas meets the demand; the message says what the latency consists of."""


@dataclass(frozen=True)
class Plan:
    demand: Demand
    cell: Shape
    cells: int
    found: Found  # of one cell, all runs together
    p99_ms_by_run: tuple[float, ...]
    tried: tuple[tuple[dict[str, int], float], ...] = field(default=())  # counts and p99 in ms, infinite if given up

    @property
    def replicas(self) -> dict[str, int]:
        return {deployment: count * self.cells for deployment, count in self.cell.counts.items()}


def plan(demand: Demand, shape: Shape, times: ServiceTimes, requests: int = REQUESTS) -> Plan:
    """The plan whose every deployment has the fewest replicas that suffice, the dearest deployment made smallest first.

    The counts of `shape` are ignored. Raises Infeasible if no number of replicas suffices.
    """
    rate, cells = cell_rate(demand, shape, times)
    trial = Trial(demand, shape, times, rate, requests)
    generous = _generous(trial)
    starts = [*(_with_shares(trial, generous, share) for share in SHARES), generous]
    best = _descend(trial, next(start for start in starts if trial.meets(start)))
    found = [trial.run(best, number) for number in range(RUNS)]
    by_run = tuple(one.percentile_ms(99) for one in found)
    tried = tuple((dict(zip(DEPLOYMENTS, counts, strict=True)), p99_ms) for counts, p99_ms in trial.p99_ms.items())
    return Plan(demand, best, cells, pooled(found), by_run, tried)


def work_s(shape: Shape, times: ServiceTimes, images_per_request: int = 1) -> dict[str, float]:
    """Seconds of one replica that an image takes at the least, with full calls and batches: 1 over these is the most
    that a replica can do."""
    hops, gathering = times.hops, shape.gathering
    to_preprocessor = gathering.max_images if gathering else 1
    to_classifier = min(to_preprocessor, shape.max_batch_size)
    calls = 1 / to_preprocessor + 1 / to_classifier
    classifier_s = times.batches.table(shape.max_batch_size)[-1] / shape.max_batch_size
    return {
        INGRESS: hops.ingress_request_s / images_per_request + hops.ingress_call_s * calls,
        PREPROCESSOR: max(
            times.decode_median_s / shape.preprocessor_threads,
            hops.preprocessor_image_s + hops.preprocessor_call_s / to_preprocessor,
        ),
        CLASSIFIER: max(classifier_s / shape.runners, hops.classifier_image_s + hops.classifier_call_s / to_classifier),
    }


def cell_rate(demand: Demand, shape: Shape, times: ServiceTimes) -> tuple[float, int]:
    """Images a second of one cell, and how many cells there are."""
    needs_s = work_s(shape, times, demand.images_per_request)
    wanted = max(
        CLASSIFIERS_IN_A_CELL * USUAL_SHARE / needs_s[CLASSIFIER], INGRESSES_IN_A_CELL * USUAL_SHARE / needs_s[INGRESS]
    )
    wanted = min(wanted, MOST_CLASSIFIERS_IN_A_CELL * USUAL_SHARE / needs_s[CLASSIFIER])
    cells = max(1, math.ceil(demand.images_per_second / wanted))
    return demand.images_per_second / cells, cells


class Trial:
    """Whether a cell of given counts meets the demand; what has been tried is not tried again."""

    def __init__(self, demand: Demand, shape: Shape, times: ServiceTimes, rate: float, requests: int) -> None:
        self.demand, self.shape, self.times, self.rate = demand, shape, times, rate
        long_enough = LATENCIES_A_RUN * demand.p99_s * rate / demand.images_per_request
        self.requests = round(max(requests, min(MOST_REQUESTS, long_enough)))
        self.p99_ms: dict[tuple[int, ...], float] = {}

    def needed(self) -> dict[str, float]:
        """Replicas by the work alone, at the rate of a burst if there are any."""
        bursts = self.demand.bursts
        peak = self.rate * (bursts.quiet_rate * bursts.factor if bursts else 1.0)
        needs_s = work_s(self.shape, self.times, self.demand.images_per_request)
        return {deployment: peak * need_s for deployment, need_s in needs_s.items()}

    def meets(self, shape: Shape) -> bool:
        key = tuple(shape.counts.values())
        if key not in self.p99_ms:
            self.p99_ms[key] = self._p99_ms(shape)
        return self.p99_ms[key] <= self.demand.p99_s * 1000

    def run(self, shape: Shape, number: int, *, late_s: float = math.inf, most_late: float = math.inf) -> Found:
        seed = self.demand.seed + SEEDS_APART * number
        return open_loop(
            shape,
            self.times,
            self._moments_s(seed),
            images=self.demand.images_per_request,
            seed=seed,
            late_s=late_s,
            most_late=most_late,
        )

    def _p99_ms(self, shape: Shape) -> float:
        """Of all runs together; infinity as soon as it can no longer be within the latency asked for."""
        found: list[Found] = []
        late_left = 0.01 * self.requests * RUNS
        for number in range(RUNS):
            found.append(self.run(shape, number, late_s=self.demand.p99_s, most_late=late_left))
            late_left -= int(np.sum(found[-1].latencies_s > self.demand.p99_s))
            if found[-1].failed or late_left < 0:
                return math.inf
        return pooled(found).percentile_ms(99)

    def _moments_s(self, seed: int) -> NDArray[np.float64]:
        per_second = self.rate / self.demand.images_per_request
        if self.demand.bursts is None:
            return arrivals.poisson(per_second, self.requests, seed)
        return arrivals.bursty(per_second, self.requests, self.demand.bursts, seed)


def _generous(trial: Trial) -> Shape:
    """Counts with which all deployments idle most of the time. Raises Infeasible if that is not enough."""
    for factor in (1, FUTILE_FACTOR):
        shape = trial.shape
        for deployment, need in trial.needed().items():
            shape = shape.with_count(deployment, 1 + math.ceil(factor * need / GENEROUS_SHARE))
        if trial.meets(shape):
            return shape
    p50_ms, p99_ms = (trial.run(shape, 0).percentile_ms(percent) for percent in (50, 99))
    raise Infeasible(
        f"No number of replicas answers 99 % within {trial.demand.p99_s * 1000:g} ms: with {shape.counts} for "
        f"{trial.rate:.0f} images a second, all nearly idle, p50 is {p50_ms:.0f} ms and p99 {p99_ms:.0f} ms. What "
        "helps is a faster engine or device, a smaller max_batch_size, or fewer images a request."
    )


def _with_shares(trial: Trial, generous: Shape, share: float) -> Shape:
    """`generous` with as many of the cheaper deployments as are busy for that share of the time."""
    shape = generous
    for deployment in (PREPROCESSOR, INGRESS):
        fewer = 1 + math.ceil(trial.needed()[deployment] / share)
        shape = shape.with_count(deployment, min(shape.count(deployment), fewer))
    return shape


def _descend(trial: Trial, shape: Shape) -> Shape:
    """Deployment by deployment to the fewest that suffice beside the others, until none can lose a replica."""
    before = None
    while shape != before:
        before = shape
        for deployment in (CLASSIFIER, PREPROCESSOR, INGRESS):
            low = max(1, math.ceil(trial.needed()[deployment] / MOST_BUSY))
            fewest = _first(low, shape.count(deployment), _meets_with(trial, shape, deployment))
            shape = shape.with_count(deployment, fewest)
    return shape


def _meets_with(trial: Trial, shape: Shape, deployment: str) -> Callable[[int], bool]:
    return lambda count: trial.meets(shape.with_count(deployment, count))


def _first(lowest: int, high: int, suffices: Callable[[int], bool]) -> int:
    """The lowest of lowest ... high that suffices, if all above it do; `high` is known to, and what is below the answer
    is tried, so that one less never suffices."""
    low = lowest
    while low < high:
        middle = (low + high) // 2
        if suffices(middle):
            high = middle
        else:
            low = middle + 1
    while high > lowest and suffices(high - 1):
        high -= 1
    return high
