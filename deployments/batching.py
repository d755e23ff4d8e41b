"""The merge gate: never wait for an idle device, never start a small batch on a busy one.

Items that arrive while a batch runs wait here; the moment the device is free, everything that waits (up to
`max_batch_size`, earliest deadline first) goes in one batch. An item whose deadline has passed or whose caller has left
is dropped before its batch starts. A failed batch is halved and run again until the items that fail stand alone, so
each caller gets its own result or its own error. Pure asyncio: this module knows no Ray, no model and no pixels.
"""

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from deployments.errors import ApertureError, DeadlineExceeded, InferenceFailed

logger = logging.getLogger("ray.serve")

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Timed(Generic[Result]):
    """A result and where its time went: waiting for the device, then running in a batch of `batch_size`."""

    result: Result
    queue_s: float
    run_s: float
    batch_size: int


@dataclass(order=True, slots=True)
class _Waiting(Generic[Item, Result]):
    deadline: float  # time.monotonic() seconds, or infinity
    number: int
    item: Item = field(compare=False)
    arrived: float = field(compare=False)
    future: "asyncio.Future[Timed[Result]]" = field(compare=False)


class MergeGate(Generic[Item, Result]):
    """Feeds `run`, one batch at a time to each of `runners`. It must return one result per item, in their order."""

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        max_batch_size: int,
        runners: int = 1,
    ) -> None:
        self.max_batch_size = max_batch_size
        # Seconds that the items that have run had waited, altogether.
        self.queue_s = 0.0
        self.expired = 0
        self.abandoned = 0
        self._run = run
        self._waiting: list[_Waiting[Item, Result]] = []
        self._numbers = itertools.count()
        self._runners = runners
        self._running = 0
        self._workers: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Items in the queue, those that are not wanted any more included until their turn comes."""
        return len(self._waiting)

    def submit(self, item: Item, deadline: float = float("inf")) -> "asyncio.Future[Timed[Result]]":
        """A future of the item's result; cancelling it takes the item out of the queue.

        The future raises DeadlineExceeded if `deadline` (time.monotonic(), seconds) passes before the item runs,
        InferenceFailed if `run` fails on this item alone, or the ApertureError that `run` raised for it.
        """
        now = time.monotonic()
        future: asyncio.Future[Timed[Result]] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, _Waiting(deadline, next(self._numbers), item, now, future))
        if self._running < self._runners:
            self._running += 1
            worker = asyncio.create_task(self._drain())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                # Callers that the last batch just woke get to submit again before the next one closes.
                await asyncio.sleep(0)
                if batch := self._take():
                    await self._run_or_halve(batch)
        finally:
            self._running -= 1

    def _take(self) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        now = time.monotonic()
        while self._waiting and len(batch) < self.max_batch_size:
            waiting = heapq.heappop(self._waiting)
            if waiting.future.done():
                self.abandoned += 1
            elif waiting.deadline < now:
                self.expired += 1
                waiting.future.set_exception(
                    DeadlineExceeded("The deadline passed while the image waited for a batch.")
                )
            else:
                batch.append(waiting)
        return batch

    async def _run_or_halve(self, batch: list[_Waiting[Item, Result]]) -> None:
        batch = [waiting for waiting in batch if not waiting.future.done()]  # A half may have been left meanwhile.
        if not batch:
            return
        started = time.monotonic()
        try:
            results = await self._run([waiting.item for waiting in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"The engine returned {len(results)} results for {len(batch)} items.")
        except (Exception, asyncio.CancelledError) as err:
            if (worker := asyncio.current_task()) is not None and worker.cancelling():
                raise  # The loop is closing. A CancelledError of `run` itself is a failure like any other.
            if len(batch) == 1:
                _fail(batch[0].future, err)
                return
            logger.warning("A batch of %d failed and is halved: %r", len(batch), err)
            middle = len(batch) // 2
            await self._run_or_halve(batch[:middle])
            await self._run_or_halve(batch[middle:])
            return
        run_s = time.monotonic() - started
        self.queue_s += sum(started - waiting.arrived for waiting in batch)
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(Timed(result, started - waiting.arrived, run_s, len(batch)))


def _fail(future: "asyncio.Future[Timed[Result]]", err: BaseException) -> None:
    if future.done():
        return
    if isinstance(err, ApertureError):
        future.set_exception(err)
        return
    logger.error("The engine failed on one item", exc_info=err)
    failure = InferenceFailed("The model failed on this image.")
    failure.__cause__ = err
    future.set_exception(failure)
