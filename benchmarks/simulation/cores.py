"""What takes time: cores that threads share, devices that nobody shares, and stations that work through a queue."""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import Protocol

from benchmarks.simulation.timeline import Timeline

Done = Callable[[], object]
# Between the gaps that processes have at one caller (12 ms), whose costs are in `wake_s`, and at 15 requests a second.
COLD_AFTER_S = 0.02


class Processor(Protocol):
    def run(self, work_s: float, done: Done, threads: int = 1) -> None:
        """Calls `done` when `work_s` seconds of work on `threads` threads at full speed are through."""
        ...

    @property
    def busy_s(self) -> float:
        """Core-seconds so far."""
        ...


class Device:
    """Serves each job at once: a GPU, or cores of which there are enough for all threads of their node, where the same
    work takes `slowdown` times what it takes on an idle node."""

    def __init__(self, timeline: Timeline, slowdown: float = 1.0) -> None:
        self._timeline, self._slowdown = timeline, slowdown
        self._busy_s = 0.0

    @property
    def busy_s(self) -> float:
        """Core-seconds of all jobs begun."""
        return self._busy_s

    def run(self, work_s: float, done: Done, threads: int = 1) -> None:
        self._busy_s += work_s * self._slowdown * threads
        self._timeline.after(work_s * self._slowdown, done)


class Cores:
    """Fewer cores than threads: the threads that want to run share them equally, as the kernel's fair scheduler does.

    All jobs progress at one speed, so a single clock of progress with a heap of where each job ends suffices.
    `slowdown` is how much longer the same work takes when all cores are busy (shared caches, memory, hyperthreads)
    than when one is: 1.1 is a tenth longer.
    """

    def __init__(self, timeline: Timeline, cores: int, slowdown: float = 1.0) -> None:
        self._timeline, self._cores, self._slowdown = timeline, cores, slowdown
        self._runnable = 0  # threads
        self._progress = 0.0  # seconds of work that a job which was always here has got
        self._seen_s = 0.0
        self._ends: list[tuple[float, int, int, Done]] = []  # progress, number, threads, done
        self._numbers = itertools.count()
        self._wake_ups = itertools.count()
        self._next_wake_up = -1
        self._busy_s = 0.0

    @property
    def busy_s(self) -> float:
        """Core-seconds spent so far."""
        self._advance()
        return self._busy_s

    def run(self, work_s: float, done: Done, threads: int = 1) -> None:
        self._advance()
        self._runnable += threads
        heapq.heappush(self._ends, (self._progress + work_s, next(self._numbers), threads, done))
        self._await_next()

    def _speed(self) -> float:
        busy = min(self._runnable, self._cores)
        crowding = (busy - 1) / (self._cores - 1) if self._cores > 1 else 0.0
        return busy / self._runnable / (1 + (self._slowdown - 1) * crowding)

    def _advance(self) -> None:
        passed_s = self._timeline.now - self._seen_s
        self._seen_s = self._timeline.now
        if passed_s > 0 and self._runnable:
            self._progress += passed_s * self._speed()
            self._busy_s += passed_s * min(self._runnable, self._cores)

    def _await_next(self) -> None:
        self._next_wake_up = next(self._wake_ups)
        if self._ends:
            left = max(0.0, self._ends[0][0] - self._progress)
            self._timeline.after(left / self._speed(), self._wake, self._next_wake_up)

    def _wake(self, number: int) -> None:
        if number != self._next_wake_up:
            return  # Another job has come or gone since.
        self._advance()
        end, _, threads, done = heapq.heappop(self._ends)
        self._progress = max(self._progress, end)
        self._runnable -= threads
        self._await_next()
        done()


class Station:
    """First come, first served by `servers` threads of one process, on a processor.

    A job that finds the process asleep costs `wake_s` more, and `cold_s` on top of that after COLD_AFTER_S of sleep.
    """

    def __init__(
        self, timeline: Timeline, processor: Processor, servers: int = 1, *, wake_s: float = 0.0, cold_s: float = 0.0
    ) -> None:
        self._timeline, self._processor = timeline, processor
        self._wake_s, self._cold_s = wake_s, cold_s
        self.servers = servers
        self._serving = 0
        self._asleep_since_s = float("-inf")
        self._waiting: deque[tuple[float, Done]] = deque()
        self.occupied_s = 0.0  # server-seconds of all jobs done, what they waited for a core included
        self.jobs = 0
        self.wake_ups = 0

    def run(self, work_s: float, done: Done) -> None:
        if self._serving == 0:
            work_s += self._waking_s()
        if self._serving < self.servers:
            self._serving += 1
            self._begin(work_s, done)
        else:
            self._waiting.append((work_s, done))

    def _waking_s(self) -> float:
        slept_s = self._timeline.now - self._asleep_since_s
        if slept_s <= 0:
            return 0.0  # It has not even gone to sleep.
        self.wake_ups += 1
        return self._wake_s + (self._cold_s if slept_s > COLD_AFTER_S else 0.0)

    def _begin(self, work_s: float, done: Done) -> None:
        begun_s = self._timeline.now

        def finished() -> None:
            self.occupied_s += self._timeline.now - begun_s
            self.jobs += 1
            if self._waiting:
                self._begin(*self._waiting.popleft())
            else:
                self._serving -= 1
                self._asleep_since_s = self._timeline.now
            done()

        self._processor.run(work_s, finished)
