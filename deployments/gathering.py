"""Gathering: what waits while calls are in flight travels together in the next one.

A call between deployments costs milliseconds of CPU whatever it carries, so under load it should carry much. A lone
item never waits: while fewer than `max_calls` are in flight, whatever there is goes at once. An item whose caller has
left is not sent, nor one that could not be back before its deadline, by what calls have taken lately; and a call whose
callers have all left is cancelled. Pure asyncio: this module knows no Ray and no images.
"""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from deployments.draining import RunTimes
from deployments.errors import DeadlineExceeded
from deployments.metrics import count_dropped

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    size_bytes: int
    arrived: float  # time.monotonic() seconds
    deadline: float  # the same, or infinity
    future: "asyncio.Future[Result]"


class Gatherer(Generic[Item, Result]):
    """Calls `send` with up to `max_items` items of together `max_bytes`; it returns one result per item, in order."""

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        max_calls: int,
        max_items: int,
        max_bytes: int,
        on_drop: Callable[[Item], None] = lambda item: None,
        on_wait: Callable[[float], None] = lambda waited_s: None,
    ) -> None:
        """`on_drop` is told of each item whose caller left before it was sent, `on_wait` how long the others waited."""
        self._send = send
        self._on_drop = on_drop
        self._on_wait = on_wait
        self._max_calls = max_calls
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._calls = 0  # in flight
        self._run_times = RunTimes()
        self._senders: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item, size_bytes: int, deadline: float = float("inf")) -> Result:
        """The item's result. Raises what `send` raised for the call that carried it, or DeadlineExceeded if none could
        be back before `deadline` (time.monotonic(), seconds).

        A caller that is cancelled takes its item out if it has not left yet.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(item, size_bytes, time.monotonic(), deadline, future))
        if self._calls < self._max_calls:
            self._calls += 1
            # Not in the context of this request: Serve would cancel the call, which carries others, if this one left.
            sender = asyncio.create_task(self._send_what_waits(), context=contextvars.Context())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return await future

    async def _send_what_waits(self) -> None:
        try:
            while group := self._take():
                await self._send_group(group)
        finally:
            # Not when the task is seen to be done, a turn of the loop later: an item that came in between would wait
            # for a sender that has already looked.
            self._calls -= 1

    async def _send_group(self, group: list[_Waiting[Item, Result]]) -> None:
        started = time.monotonic()
        for waiting in group:
            self._on_wait(started - waiting.arrived)
        try:
            results = await self._sent(group)
            if len(results) != len(group):
                raise RuntimeError(f"A call with {len(group)} items returned {len(results)} results.")
        except (Exception, asyncio.CancelledError) as err:
            if (sender := asyncio.current_task()) is not None and sender.cancelling():
                raise  # The loop is closing. A CancelledError of `send` itself is a failure like any other.
            failure = err if isinstance(err, Exception) else ConnectionError("The call was cancelled.")
            for waiting in group:
                if not waiting.future.done():
                    waiting.future.set_exception(failure)
            return
        ended = time.monotonic()
        self._run_times.add(len(group), ended - started, ended)
        for waiting, result in zip(group, results, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(result)

    async def _sent(self, group: list[_Waiting[Item, Result]]) -> Sequence[Result]:
        sending = asyncio.ensure_future(self._send([waiting.item for waiting in group]))

        def give_up(_: object) -> None:
            if all(waiting.future.cancelled() for waiting in group):
                sending.cancel()

        for waiting in group:
            waiting.future.add_done_callback(give_up)
        return await sending

    def _take(self) -> list[_Waiting[Item, Result]]:
        group: list[_Waiting[Item, Result]] = []
        group_bytes, now = 0, time.monotonic()
        # As if it went alone, since that is the soonest.
        soonest = now + self._run_times.expected_s(1, now)
        while self._waiting and len(group) < self._max_items:
            if self._is_dropped(self._waiting[0], soonest):
                self._waiting.popleft()
                continue
            group_bytes += self._waiting[0].size_bytes
            if group and group_bytes > self._max_bytes:
                break
            group.append(self._waiting.popleft())
        return group

    def _is_dropped(self, waiting: _Waiting[Item, Result], soonest: float) -> bool:
        if waiting.future.done():  # Its caller has left.
            self._on_drop(waiting.item)
            return True
        if waiting.deadline < soonest:
            count_dropped("gathering", "expired")
            late = DeadlineExceeded("The deadline could not be met while the image waited for its turn.")
            waiting.future.set_exception(late)
            return True
        return False
