"""The merge gate: never wait for an idle device, never start a small batch on a busy one.

Items that arrive while a batch runs wait here; the moment the device is free, everything that waits (up to
`max_batch_size`, earliest deadline first) goes in one batch. An item that cannot be done before its deadline, by what
batches have taken lately, or whose caller has left, is dropped before its batch starts; a batch is smaller where that
brings it out in time. A failed batch is halved and run again until the items that fail stand alone, and
these are run once more; so each caller gets its own result or its own error. An item that has to run while nothing else
does takes the gate for itself. Pure asyncio: this module knows no Ray, no model and no pixels.
"""

import asyncio
import heapq
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from deployments.draining import RunTimes
from deployments.errors import ApertureError, DeadlineExceeded, InferenceFailed, Overloaded
from deployments.metrics import count_dropped

logger = logging.getLogger("ray.serve")

Item = TypeVar("Item")
Result = TypeVar("Result")


# Batches for each runner that may wait. Ingress replicas hold back what is more than their own calls can carry, so that
# only many of them together come so far.
MAX_WAITING_BATCHES = 16
# The least share of a full batch's throughput for which a batch is made smaller to be in time. Below it, what is urgent
# would cost the others more than it is worth, and is dropped.
LEAST_WORTH = 0.5


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
    """Feeds `run`, one batch at a time to each of `runners`.

    It must return, in the order of the items, for each its result, or an exception if it failed on this one alone.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        max_batch_size: int,
        runners: int = 1,
        max_waiting_batches: int = MAX_WAITING_BATCHES,
        on_wait: Callable[[Item, float], None] = lambda item, waited_s: None,
        on_halve: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_wait` is told how long each item waited that has run, `on_halve` of each batch that failed."""
        self.max_batch_size = max_batch_size
        # Seconds that the items that have run had waited, altogether.
        self.queue_s = 0.0
        self.expired = 0
        self.abandoned = 0
        self._run = run
        self._on_wait = on_wait
        self._on_halve = on_halve
        self._waiting: list[_Waiting[Item, Result]] = []
        self._numbers = itertools.count()
        self._runners = runners
        self._running = 0
        self._workers: set[asyncio.Task[None]] = set()
        # Who waits to have the gate for itself; whoever has it keeps all runners.
        self._turns: deque[asyncio.Future[None]] = deque()
        self._max_waiting_batches = max_waiting_batches
        self._run_times = RunTimes()

    @property
    def waiting(self) -> int:
        """Items in the queue, those that nobody wants any more included until their turn comes."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, or waits to."""
        return not self._running and not self._waiting and not self._turns

    def submit(self, item: Item, deadline: float = float("inf")) -> "asyncio.Future[Timed[Result]]":
        """A future of the item's result; cancelling it takes the item out of the queue.

        The future raises DeadlineExceeded if the item cannot be done before `deadline` (time.monotonic(), seconds),
        Overloaded if too much waits already, InferenceFailed if `run` fails on this item alone, or the ApertureError
        that `run` raised for it.
        """
        now = time.monotonic()
        future: asyncio.Future[Timed[Result]] = asyncio.get_running_loop().create_future()
        if self._is_full():
            retry_after_s = self._run_times.expected_s(self.max_batch_size, now) * self._max_waiting_batches
            future.set_exception(Overloaded("Too many images wait for this model; try again.", retry_after_s))
            return future
        heapq.heappush(self._waiting, _Waiting(deadline, next(self._numbers), item, now, future))
        self._start_worker()
        return future

    def _is_full(self) -> bool:
        most = self._max_waiting_batches * self.max_batch_size * self._runners
        if len(self._waiting) < most:
            return False
        wanted = [waiting for waiting in self._waiting if not waiting.future.done()]
        self._abandon(len(self._waiting) - len(wanted))
        heapq.heapify(wanted)
        self._waiting = wanted
        return len(wanted) >= most

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Callable[[Item], Awaitable["asyncio.Future[Timed[Result]]"]]]:
        """Waits until no batch runs; none starts until the block ends, but for what it hands to what it is given.

        That runs an item in a batch of its own, and returns its future once it is done.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        self._pass_on()
        try:
            await turn
            yield self._run_alone
        finally:
            if turn.done() and not turn.cancelled():
                self._running = 0
            self._pass_on()

    async def _run_alone(self, item: Item) -> "asyncio.Future[Timed[Result]]":
        future: asyncio.Future[Timed[Result]] = asyncio.get_running_loop().create_future()
        await self._run_or_halve([_Waiting(float("inf"), next(self._numbers), item, time.monotonic(), future)])
        return future

    def _pass_on(self) -> None:
        """Gives the idle gate to the next who wants it alone, or else to the queue."""
        while self._turns and self._turns[0].done():  # It has been cancelled.
            self._turns.popleft()
        if not self._turns:
            for _ in range(min(len(self._waiting), self._runners)):
                self._start_worker()
        elif self._running == 0:
            self._running = self._runners
            self._turns.popleft().set_result(None)

    def _start_worker(self) -> None:
        if self._running < self._runners and not self._turns:
            self._running += 1
            worker = asyncio.create_task(self._drain())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _drain(self) -> None:
        try:
            while self._waiting and not self._turns:
                # Callers that the last batch just woke get to submit again before the next one closes.
                await asyncio.sleep(0)
                if batch := self._take():
                    await self._run_or_halve(batch)
        finally:
            self._running -= 1
            if self._turns:
                self._pass_on()

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The next batch, out of the queue; what cannot be done in time is dropped."""
        batch: list[_Waiting[Item, Result]] = []
        now, size = time.monotonic(), self.max_batch_size
        while self._waiting and len(batch) < size:
            waiting = heapq.heappop(self._waiting)
            if waiting.future.done():
                self._abandon(1)
            elif batch:
                batch.append(waiting)  # With a later deadline than the first.
            elif size := self._size_in_time(waiting.deadline, now):
                batch.append(waiting)
            else:
                self.expired += 1
                count_dropped("classifier", "expired")
                waiting.future.set_exception(
                    DeadlineExceeded("The deadline could not be met while the image waited for a batch.")
                )
                size = self.max_batch_size
        return batch

    def _size_in_time(self, deadline: float, now: float) -> int:
        """The largest batch that is expected to end before the deadline; 0 if none is, or none that is worth it."""
        if deadline < now:
            return 0
        full = min(self.max_batch_size, len(self._waiting) + 1)
        full_s = self._run_times.expected_s(full, now)
        for size in range(full, 0, -1):
            run_s = self._run_times.expected_s(size, now)
            if size * full_s < LEAST_WORTH * full * run_s:
                return 0
            if now + run_s <= deadline:
                return size
        return 0

    def _abandon(self, count: int) -> None:
        if count:
            self.abandoned += count
            count_dropped("classifier", "abandoned", count)

    async def _run_or_halve(self, batch: list[_Waiting[Item, Result]], *, is_repeated: bool = False) -> None:
        batch = [waiting for waiting in batch if not waiting.future.done()]  # A half may have been left meanwhile.
        if not batch:
            return
        started = time.monotonic()
        results: Sequence[Result | BaseException]
        try:
            results = await self._run([waiting.item for waiting in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"The engine returned {len(results)} results for {len(batch)} items.")
        except (Exception, asyncio.CancelledError) as err:
            if (worker := asyncio.current_task()) is not None and worker.cancelling():
                raise  # The loop is closing. A CancelledError of `run` itself is a failure like any other.
            results = [err]
        if len(results) < len(batch):
            logger.warning("A batch of %d failed and is halved: %r", len(batch), results[0])
            self._on_halve()
            middle = len(batch) // 2
            await self._run_or_halve(batch[:middle])
            await self._run_or_halve(batch[middle:])
            return
        ended = time.monotonic()
        run_s = ended - started
        self._run_times.add(len(batch), run_s, ended)
        self.queue_s += sum(started - waiting.arrived for waiting in batch)
        failed = []
        for waiting, result in zip(batch, results, strict=True):
            if not is_repeated:
                self._on_wait(waiting.item, started - waiting.arrived)
            if isinstance(result, BaseException):
                failed.append((waiting, result))
            elif not waiting.future.done():
                waiting.future.set_result(Timed(result, started - waiting.arrived, run_s, len(batch)))
        for waiting, failure in failed:
            # What fails for once, for want of memory for instance, is no reason to refuse an image.
            if is_repeated or isinstance(failure, ApertureError):
                _fail(waiting.future, failure)
            else:
                logger.warning("An item failed alone and is run once more: %r", failure)
                await self._run_or_halve([waiting], is_repeated=True)


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
