"""A service behind an admission on a clock of its own: decoders in order of arrival, then batches, then the answer.

Arrivals are open loop and Poisson's. Nothing sleeps, so that minutes of load take a moment, and a seed always gives the
same load. Times are seconds.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from deployments.admission import Admission, Place
from deployments.errors import Overloaded
from deployments.settings import Admission as Bounds

Rate = Callable[[float], float]
# Between two deployments, and on the way out.
HOP_S = 0.005


@dataclass(frozen=True)
class Service:
    """`decoders` take decode_s for an image, `runners` batch_s + n * image_s for n of them, at most max_batch_size."""

    decode_s: float
    batch_s: float
    image_s: float
    decoders: int = 1
    runners: int = 1
    max_batch_size: int = 8

    @property
    def per_s(self) -> float:
        full = self.runners * self.max_batch_size / (self.batch_s + self.max_batch_size * self.image_s)
        return min(self.decoders / self.decode_s, full)


@dataclass(eq=False)
class Request:
    arrived: float
    place: Place
    is_over: bool = False


@dataclass
class Outcomes:
    """When the requests arrived that were answered in time, late, or refused, and how long the first two took."""

    answered: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    took: list[tuple[float, float]] = field(default_factory=list)
    retry_after: list[float] = field(default_factory=list)

    def per_s(self, kind: str, begin: float, end: float) -> float:
        moments: list[float] = getattr(self, kind)
        return sum(begin <= moment < end for moment in moments) / (end - begin)

    def latency(self, share: float, begin: float) -> float:
        """That so many of those that arrived later did not exceed."""
        latencies = sorted(latency for arrived, latency in self.took if arrived >= begin)
        return latencies[int(len(latencies) * share)]


class Simulation:
    """`offered`: requests a second at a moment. `speed`: of all that is computed. `runners`: how many are there."""

    def __init__(
        self,
        service: Service,
        offered: Rate,
        *,
        timeout_s: float = 1.0,
        seed: int = 0,
        speed: Rate = lambda now: 1.0,
        runners: Callable[[float], int] | None = None,
    ) -> None:
        self.now = 0.0
        self.outcomes = Outcomes()
        self.admission = Admission(Bounds(), ["model"], clock=lambda: self.now)
        self._service = service
        self._offered = offered
        self._timeout_s = timeout_s
        self._random = random.Random(seed)
        self._speed = speed
        self._runners = runners or (lambda now: service.runners)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self._to_decode: list[Request] = []
        self._to_batch: list[Request] = []
        self._decoding = self._running = 0

    def run(self, seconds: float) -> Outcomes:
        """Arrivals for so long, and what becomes of them."""
        self._after(0.0, self._arrive, seconds)
        while self._events:
            self.now, _, act, arguments = heapq.heappop(self._events)
            act(*arguments)
        return self.outcomes

    def _after(self, seconds: float, act: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), act, arguments))

    def _arrive(self, end: float) -> None:
        if self.now >= end:
            return
        self._after(self._random.expovariate(self._offered(self.now)), self._arrive, end)
        try:
            (place,) = self.admission.work("model", self._timeout_s, [0.2], 1000).places
        except Overloaded as refusal:
            self.outcomes.refused.append(self.now)
            self.outcomes.retry_after.append(refusal.retry_after_s or 0.0)
            return
        request = Request(self.now, place)
        self._after(self._timeout_s, self._end, request, False)
        self._after(HOP_S, self._wait_for_decoder, request)

    def _wait_for_decoder(self, request: Request) -> None:
        self._to_decode.append(request)
        self._decode()

    def _decode(self) -> None:
        while self._to_decode and self._decoding < self._service.decoders:
            request = self._to_decode.pop(0)
            if not request.is_over:
                self._decoding += 1
                self._after(self._taking(self._service.decode_s), self._decoded, request)

    def _decoded(self, request: Request) -> None:
        self._decoding -= 1
        self._after(HOP_S, self._wait_for_batch, request)
        self._decode()

    def _wait_for_batch(self, request: Request) -> None:
        self._to_batch.append(request)
        self._batch()

    def _batch(self) -> None:
        while self._running < self._runners(self.now):
            waiting = [request for request in self._to_batch if not request.is_over]
            batch, self._to_batch = waiting[: self._service.max_batch_size], waiting[self._service.max_batch_size :]
            if not batch:
                return
            self._running += 1
            run_s = self._service.batch_s + len(batch) * self._service.image_s
            self._after(self._taking(run_s), self._ran, batch)

    def _ran(self, batch: list[Request]) -> None:
        self._running -= 1
        for request in batch:
            self._after(HOP_S, self._end, request, True)
        self._batch()

    def _end(self, request: Request, answered: bool) -> None:
        if request.is_over:
            return
        request.is_over = True
        request.place.end(answered=answered, late=not answered)
        (self.outcomes.answered if answered else self.outcomes.late).append(request.arrived)
        self.outcomes.took.append((request.arrived, self.now - request.arrived))

    def _taking(self, seconds: float) -> float:
        return seconds * self._random.uniform(0.7, 1.3) / self._speed(self.now)
