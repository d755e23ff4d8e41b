"""The two places where images wait for company, in simulated time: gathering before a call, batching before a device.

Both do what their originals do (deployments/gathering.py, deployments/batching.py), which the tests hold against them
on the same arrivals.
"""

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from benchmarks.simulation.cores import Processor
from benchmarks.simulation.timeline import Timeline

Item = TypeVar("Item")
Returned = Callable[[], object]


class Gatherer(Generic[Item]):
    """Calls `send(group, returned)` with what waits while fewer than `max_calls` calls are in flight."""

    def __init__(
        self,
        timeline: Timeline,
        send: Callable[[Sequence[Item], Returned], object],
        *,
        max_calls: int,
        max_items: int,
    ) -> None:
        self._timeline, self._send = timeline, send
        self._max_calls, self._max_items = max_calls, max_items
        self._waiting: deque[Item] = deque()
        self._calls = 0  # in flight
        self.sizes: Counter[int] = Counter()  # items to a call: how many calls

    @property
    def in_flight(self) -> int:
        return self._calls

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, item: Item) -> None:
        self._waiting.append(item)
        if self._calls < self._max_calls:
            self._calls += 1
            # As a task starts one turn of the loop later, so that what comes in the same turn goes along.
            self._timeline.after(0.0, self._next)

    def _next(self) -> None:
        if not self._waiting:
            self._calls -= 1
            return
        group = [self._waiting.popleft() for _ in range(min(self._max_items, len(self._waiting)))]
        self.sizes[len(group)] += 1
        self._send(group, self._next)


class Gate:
    """The merge gate: the moment one of `runners` is free, whatever waits runs, earliest deadline first."""

    def __init__(
        self,
        timeline: Timeline,
        processor: Processor,
        batch_s: Callable[[int], float],
        *,
        max_batch_size: int,
        runners: int = 1,
        threads: int = 1,
    ) -> None:
        self._timeline, self._processor, self._batch_s = timeline, processor, batch_s
        self._max_batch_size, self.runners, self._threads = max_batch_size, runners, threads
        self._waiting: list[tuple[float, int, Callable[[bool], object]]] = []
        self._numbers = itertools.count()
        self._running = 0
        self.sizes: Counter[int] = Counter()  # of batches: how many
        self.occupied_s = 0.0  # runner-seconds

    def submit(self, done: Callable[[bool], object], deadline_s: float = float("inf")) -> None:
        """Calls `done(True)` when the item has run, or `done(False)` if its deadline passes before it does."""
        heapq.heappush(self._waiting, (deadline_s, next(self._numbers), done))
        if self._running < self.runners:
            self._running += 1
            self._timeline.after(0.0, self._drain)

    def _drain(self) -> None:
        batch = self._take()
        if not batch:
            self._running -= 1
            return
        self.sizes[len(batch)] += 1
        begun_s = self._timeline.now

        def finished() -> None:
            self.occupied_s += self._timeline.now - begun_s
            for done in batch:
                done(True)
            # Callers that were just woken get to submit again before the next batch closes.
            self._timeline.after(0.0, self._drain)

        self._processor.run(self._batch_s(len(batch)), finished, self._threads)

    def _take(self) -> list[Callable[[bool], object]]:
        batch: list[Callable[[bool], object]] = []
        while self._waiting and len(batch) < self._max_batch_size:
            deadline_s, _, done = heapq.heappop(self._waiting)
            if deadline_s < self._timeline.now:
                done(False)
            else:
                batch.append(done)
        return batch
