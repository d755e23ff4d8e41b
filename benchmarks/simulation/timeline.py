"""Simulated time: a heap of what is due."""

import heapq
import itertools
from collections.abc import Callable
from typing import Any

Action = Callable[..., object]


class Timeline:
    """Runs actions at their simulated moments; those of the same moment in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0  # seconds
        self._due: list[tuple[float, int, Action, tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self.stopped = False

    def at(self, moment_s: float, action: Action, *arguments: Any) -> None:
        """A moment that has passed means now."""
        heapq.heappush(self._due, (max(moment_s, self.now), next(self._numbers), action, arguments))

    def after(self, delay_s: float, action: Action, *arguments: Any) -> None:
        heapq.heappush(self._due, (self.now + delay_s, next(self._numbers), action, arguments))

    def run(self, until_s: float = float("inf")) -> None:
        """Until nothing is due any more, `until_s`, whose own actions no longer run, or `stop`."""
        due = self._due
        while due and due[0][0] < until_s and not self.stopped:
            self.now, _, action, arguments = heapq.heappop(due)
            action(*arguments)
        if until_s < float("inf") and not self.stopped:
            self.now = max(self.now, until_s)

    def stop(self) -> None:
        """Ends `run` for good."""
        self.stopped = True
