"""Serve's rule: as many replicas as hold `target_ongoing` requests each, once that has been so for the delay.

Calls are counted as images, as they are with `gathering: null`. The mean over the look-back is of samples at the
metrics interval; a new replica answers `start_up_s` after it was decided on.
"""

import math
from collections import deque
from dataclasses import dataclass

from benchmarks.simulation.service import Service
from benchmarks.simulation.shape import CLASSIFIER


@dataclass(frozen=True)
class Scaling:
    """Of one deployment; the names are Serve's, the defaults those of configs/gpu.yaml."""

    target_ongoing_requests: float
    min_replicas: int
    max_replicas: int
    metrics_interval_s: float = 2.0
    look_back_period_s: float = 10.0
    upscale_delay_s: float = 5.0
    downscale_delay_s: float = 120.0
    # From the decision to the first answer: imports, weights, warm-up, and a node where none is free.
    start_up_s: float = 10.0


class Autoscaler:
    """Of one deployment of a simulated service."""

    def __init__(self, service: Service, deployment: str, scaling: Scaling, replicas: int) -> None:
        self._service, self._deployment, self._scaling = service, deployment, scaling
        self.target = replicas
        self._samples: deque[int] = deque(maxlen=max(1, round(scaling.look_back_period_s / scaling.metrics_interval_s)))
        self._wants_more_since_s: float | None = None
        self._wants_fewer_since_s: float | None = None
        service.timeline.after(scaling.metrics_interval_s, self._look)

    def _look(self) -> None:
        self._samples.append(self._service.load(self._deployment))
        self._decide(self._desired())
        self._service.timeline.after(self._scaling.metrics_interval_s, self._look)

    def _desired(self) -> int:
        mean = sum(self._samples) / len(self._samples)
        wanted = math.ceil(mean / self._scaling.target_ongoing_requests)
        return min(self._scaling.max_replicas, max(self._scaling.min_replicas, wanted))

    def _decide(self, desired: int) -> None:
        now = self._service.timeline.now
        self._wants_more_since_s = (self._wants_more_since_s or now) if desired > self.target else None
        self._wants_fewer_since_s = (self._wants_fewer_since_s or now) if desired < self.target else None
        if self._wants_more_since_s is not None and now - self._wants_more_since_s >= self._scaling.upscale_delay_s:
            for _ in range(desired - self.target):
                self._service.timeline.after(self._scaling.start_up_s, self._start)
            self.target, self._wants_more_since_s = desired, None
        if self._wants_fewer_since_s is not None and now - self._wants_fewer_since_s >= self._scaling.downscale_delay_s:
            self._stop(self.target - desired)
            self.target, self._wants_fewer_since_s = desired, None

    def _start(self) -> None:
        start(self._service, self._deployment)

    def _stop(self, count: int) -> None:
        router = self._service.routers[self._deployment]
        for replica in list(router.replicas)[-count:]:
            router.remove(replica)


def start(service: Service, deployment: str) -> None:
    """One more replica, at once."""
    new = service.new_classifier() if deployment == CLASSIFIER else service.new_preprocessor()
    service.routers[deployment].add(new)
