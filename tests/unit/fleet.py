"""Replicas that come and go as a policy says, under a load that is given: a simulation, in which no time passes.

Batches take what they are told to, starting takes a while, replicas report what a Classifier reports, and Serve's own
wrapper, with its delays and factors, is around the policy.
"""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ray.serve._private.common import DeploymentID, TimeStampedValue
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments.workload import Workload

METRICS_INTERVAL_S, LOOK_BACK_S, CONTROL_LOOP_S = 1.0, 10.0, 0.5

Rate = Callable[[float], float]  # images a second at a time


@dataclass(eq=False)
class Replica:
    """A merge gate and an engine that takes `batch_s + size * image_s` for a batch."""

    fleet: "Fleet"
    ready_at: float
    waiting: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)
    workload: Workload = field(default_factory=lambda: Workload(runners=1))
    queue_s: float = 0.0
    series: dict[str, list[TimeStampedValue]] = field(default_factory=dict)

    @property
    def in_flight(self) -> int:
        return len(self.waiting) + len(self.running)

    def accept(self, now: float, images: int, arrived: float) -> None:
        self.workload.arrive(images)
        self.waiting += [arrived] * images
        if not self.running:
            self.start(now)

    def start(self, now: float) -> None:
        size = min(len(self.waiting), self.fleet.max_batch_size)
        self.running, self.waiting = self.waiting[:size], self.waiting[size:]
        if self.running:
            run_s = self.fleet.run_s(size)
            self.queue_s += sum(now - arrived for arrived in self.running)
            self.workload.batches.add(size, run_s)
            self.fleet.at(now + run_s, self.finish)

    def finish(self, now: float) -> None:
        self.fleet.latencies += [(now, now - arrived) for arrived in self.running]
        self.start(now)
        self.fleet.send(now)

    def report(self, now: float) -> None:
        figures = self.workload.figures(
            waiting=len(self.waiting), queue_s=self.queue_s, max_batch_size=self.fleet.max_batch_size
        )
        for name, value in self.fleet.distort(figures).items():
            points = self.series.setdefault(name, [])
            points.append(TimeStampedValue(now + self.fleet.clock_skew_s, value))
            self.series[name] = [point for point in points if point.timestamp > points[-1].timestamp - LOOK_BACK_S]


@dataclass
class Fleet:
    policy: Any
    rate: Rate
    max_replicas: int = 20
    min_replicas: int = 1
    max_batch_size: int = 8
    batch_s: float = 0.02
    image_s: float = 0.01
    noise: float = 0.0  # of the time of a batch, as a share
    start_up_s: float = 5.0
    images_per_call: int = 1
    callers: float = math.inf  # images in flight at most, as with gathering
    max_ongoing_requests: int = 64
    clock_skew_s: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    distort: Callable[[dict[str, float]], dict[str, float]] = lambda figures: figures
    seed: int = 0
    now: float = 0.0
    latencies: list[tuple[float, float]] = field(default_factory=list)  # when, how long
    sizes: list[tuple[float, int]] = field(default_factory=list)  # the target, whenever it changed

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()
        self._held: deque[float] = deque()  # when calls came that no replica takes yet
        self._held_reports: deque[int] = deque(maxlen=round(LOOK_BACK_S / METRICS_INTERVAL_S))
        self._decide = _apply_autoscaling_config(self.policy)
        self._state: dict[str, Any] = {}
        self.target = self.min_replicas
        self.replicas = [Replica(self, ready_at=0.0) for _ in range(self.min_replicas)]
        self.config = AutoscalingConfig(
            **{
                "metrics_interval_s": METRICS_INTERVAL_S,
                "look_back_period_s": LOOK_BACK_S,
                "upscale_delay_s": 0,
                "downscale_delay_s": 0,
                "aggregation_function": "max",
                "min_replicas": self.min_replicas,
                "max_replicas": self.max_replicas,
                **self.settings,
            }
        )
        self.at(0.0, self._arrive)
        self.at(0.3, self._report_held)
        for replica in self.replicas:
            self._report_from(replica, 0.0)
        self.at(0.4, self._control)

    def at(self, time: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), event))

    def run(self, until: float) -> "Fleet":
        while self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event(self.now)
        return self

    def run_s(self, size: int) -> float:
        return (self.batch_s + size * self.image_s) * self._random.uniform(1 - self.noise, 1 + self.noise)

    @property
    def ready(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.ready_at <= self.now]

    def in_flight(self) -> int:
        return sum(replica.in_flight for replica in self.replicas) + len(self._held) * self.images_per_call

    def changes(self, after: float = 0.0) -> list[int]:
        return [size for at, size in self.sizes if at > after]

    def slowest_s(self, after: float, before: float = math.inf, percent: float = 95) -> float:
        """The latency that `percent` of the images stayed below."""
        assert self.latencies
        found = sorted(latency for at, latency in self.latencies if after < at < before)
        return found[math.ceil(len(found) * percent / 100) - 1]

    def _arrive(self, now: float) -> None:
        rate = self.rate(now) / self.images_per_call
        if rate <= 0:
            self.at(now + 0.1, self._arrive)
            return
        self.at(now + self._random.expovariate(rate), self._arrive)
        if self.in_flight() < self.callers:
            self._held.append(now)
            self.send(now)

    def send(self, now: float) -> None:
        """What is held goes to replicas that have room, to the freer one of two."""
        if not self._held or not (ready := self.ready):
            return
        most = (self.max_ongoing_requests - 1) * self.images_per_call
        while self._held:
            chosen = min(self._random.choices(ready, k=2), key=_in_flight)
            if chosen.in_flight > most and (chosen := min(ready, key=_in_flight)).in_flight > most:
                return
            chosen.accept(now, self.images_per_call, self._held.popleft())

    def _report_from(self, replica: Replica, now: float) -> None:
        """Each at moments of its own, and never quite on time."""
        if replica.ready_at <= now and replica in self.replicas:
            replica.report(now)
        if replica in self.replicas:
            next_s = max(replica.ready_at, now) + METRICS_INTERVAL_S * self._random.uniform(0.95, 1.1)
            self.at(next_s, partial(self._report_from, replica))

    def _report_held(self, now: float) -> None:
        self.at(now + METRICS_INTERVAL_S, self._report_held)
        self._held_reports.append(len(self._held))

    def _control(self, now: float) -> None:
        self.at(now + CONTROL_LOOP_S, self._control)
        self.send(now)
        wanted, self._state = self._decide(self.context(now))
        target = max(self.min_replicas, min(self.max_replicas, math.ceil(wanted)))
        if target != self.target:
            self.sizes.append((now, target))
        self.target = target
        while len(self.replicas) < target:
            self.replicas.append(Replica(self, ready_at=now + self.start_up_s))
            self._report_from(self.replicas[-1], now)
        del self.replicas[target:]  # Their batches end, as Serve lets them.

    def context(self, now: float) -> AutoscalingContext:
        ready = self.ready
        names: Iterator[str] = iter({name for replica in ready for name in replica.series})
        metrics = {
            name: {id(replica): replica.series[name] for replica in ready if name in replica.series} for name in names
        }
        return AutoscalingContext(
            deployment_id=DeploymentID("model", "app"),
            deployment_name="model",
            app_name="app",
            current_num_replicas=len(ready),
            target_num_replicas=self.target,
            running_replicas=[id(replica) for replica in ready],  # type: ignore[misc]
            total_num_requests=self.in_flight() / self.images_per_call,
            total_queued_requests=max(self._held_reports),
            aggregated_metrics={},
            raw_metrics=metrics,  # type: ignore[arg-type]
            capacity_adjusted_min_replicas=self.min_replicas,
            capacity_adjusted_max_replicas=self.max_replicas,
            policy_state=dict(self._state),
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=now,
            config=self.config,
        )


def steps(*parts: tuple[float, float]) -> Rate:
    """A rate that changes at given times: (from, images a second), in order."""

    def rate(now: float) -> float:
        return [per_second for since, per_second in parts if since <= now][-1]

    return rate


def _in_flight(replica: Replica) -> int:
    return replica.in_flight
