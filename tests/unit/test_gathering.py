"""Gathering's claims: a lone item goes at once, what waits goes together, and nobody gets another's result."""

import asyncio
import contextvars
import random
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from deployments.errors import DeadlineExceeded
from deployments.gathering import Gatherer


class Calls:
    """A `send` that records its groups and answers item n with 10 n once `open` is set."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def send(self, items: Sequence[int]) -> Sequence[int]:
        self.groups.append(list(items))
        await self.open.wait()
        return [10 * item for item in items]


def gatherer(calls: Calls, *, max_calls: int = 1, max_items: int = 4, max_bytes: int = 100) -> Gatherer[int, int]:
    return Gatherer(calls.send, max_calls=max_calls, max_items=max_items, max_bytes=max_bytes)


async def submit_all(gathering: Gatherer[int, int], items: range, size_bytes: int = 1) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(gathering.submit(item, size_bytes)) for item in items]
    await settle()
    return tasks


async def settle() -> None:
    """Lets every task run until it waits for something that is not there yet."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_lone_item_goes_at_once_and_alone() -> None:
    async def run() -> None:
        calls = Calls()
        assert await gatherer(calls).submit(7, 1) == 70
        assert calls.groups == [[7]]

    asyncio.run(run())


def test_what_waits_while_a_call_is_in_flight_travels_together() -> None:
    async def run() -> None:
        calls = Calls()
        gathering = gatherer(calls)
        calls.open.clear()
        first = await submit_all(gathering, range(1))
        rest = await submit_all(gathering, range(1, 4))
        assert calls.groups == [[0]]
        calls.open.set()
        assert await asyncio.gather(*first, *rest) == [0, 10, 20, 30]
        assert calls.groups == [[0], [1, 2, 3]]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("size_bytes", "groups"),
    [(1, [[0], [1, 2, 3, 4], [5, 6]]), (50, [[0], [1, 2], [3, 4], [5, 6]]), (400, [[n] for n in range(7)])],
    ids=["bounded in items", "bounded in bytes", "an item over the bound goes alone"],
)
def test_a_group_is_bounded(size_bytes: int, groups: list[list[int]]) -> None:
    async def run() -> None:
        calls = Calls()
        gathering = gatherer(calls)
        calls.open.clear()
        first = await submit_all(gathering, range(1), size_bytes)
        rest = await submit_all(gathering, range(1, 7), size_bytes)
        calls.open.set()
        await asyncio.gather(*first, *rest)
        assert calls.groups == groups

    asyncio.run(run())


def test_at_most_max_calls_are_in_flight() -> None:
    async def run() -> None:
        calls = Calls()
        gathering = gatherer(calls, max_calls=3, max_items=1)
        calls.open.clear()
        tasks = await submit_all(gathering, range(9))
        assert len(calls.groups) == 3
        calls.open.set()
        assert await asyncio.gather(*tasks) == [10 * item for item in range(9)]

    asyncio.run(run())


def test_an_item_whose_caller_left_does_not_travel() -> None:
    async def run() -> None:
        calls = Calls()
        gathering = gatherer(calls)
        calls.open.clear()
        first = await submit_all(gathering, range(1))
        leaver, stayer = await submit_all(gathering, range(1, 3))
        leaver.cancel()
        await settle()
        calls.open.set()
        assert await asyncio.gather(*first, stayer) == [0, 20]
        assert calls.groups == [[0], [2]]

    asyncio.run(run())


def test_a_failed_call_fails_its_own_items_and_the_next_one_works() -> None:
    async def run() -> None:
        async def send(items: Sequence[int]) -> Sequence[int]:
            if 0 in items:
                raise ConnectionError("lost")
            return list(items)

        gathering: Gatherer[int, int] = Gatherer(send, max_calls=1, max_items=4, max_bytes=100)
        with pytest.raises(ConnectionError):
            await gathering.submit(0, 1)
        assert await gathering.submit(1, 1) == 1

    asyncio.run(run())


def test_a_call_with_too_few_results_fails_instead_of_mixing_them_up() -> None:
    async def run() -> None:
        async def send(items: Sequence[int]) -> Sequence[int]:
            return []

        with pytest.raises(RuntimeError, match="1 items returned 0 results"):
            await Gatherer(send, max_calls=1, max_items=4, max_bytes=100).submit(0, 1)

    asyncio.run(run())


def test_an_item_that_comes_as_the_last_sender_ends_is_sent() -> None:
    async def run() -> None:
        calls = Calls()
        gathering = gatherer(calls)
        for item in range(50):  # Each is submitted in the turn of the loop in which the sender before it has returned.
            assert await asyncio.wait_for(gathering.submit(item, 1), timeout=5) == 10 * item

    asyncio.run(run())


def test_each_of_a_thousand_random_callers_gets_its_own_result() -> None:
    async def run() -> None:
        rng = random.Random(0)

        async def send(items: Sequence[int]) -> Sequence[int]:
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            return [10 * item for item in items]

        gathering: Gatherer[int, int] = Gatherer(send, max_calls=3, max_items=5, max_bytes=20)

        async def call(item: int) -> int:
            for _ in range(rng.randrange(30)):
                await asyncio.sleep(0)
            return await gathering.submit(item, rng.randrange(1, 9))

        assert await asyncio.gather(*map(call, range(1000))) == [10 * item for item in range(1000)]

    asyncio.run(run())


def test_a_cancelled_call_fails_its_items_instead_of_hanging_them() -> None:
    async def run() -> None:
        async def send(items: Sequence[int]) -> Sequence[int]:
            raise asyncio.CancelledError

        gathering: Gatherer[int, int] = Gatherer(send, max_calls=1, max_items=4, max_bytes=100)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(gathering.submit(0, 1), timeout=5)

    asyncio.run(run())


def test_a_call_does_not_run_in_the_context_of_the_caller_that_started_it() -> None:
    seen: list[str] = []
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")

    async def run() -> None:
        async def send(items: Sequence[int]) -> Sequence[int]:
            seen.append(request.get())
            return list(items)

        request.set("that of the first caller")
        await Gatherer(send, max_calls=1, max_items=4, max_bytes=100).submit(0, 1)

    asyncio.run(run())
    assert seen == ["none"]


async def leave(*tasks: asyncio.Task[int]) -> None:
    for task in tasks:
        task.cancel()
    await settle()


def test_a_call_whose_callers_have_all_left_is_cancelled_and_the_next_one_goes() -> None:
    async def run() -> None:
        calls = Calls()
        ended: list[list[int]] = []

        async def send(items: Sequence[int]) -> Sequence[int]:
            try:
                return await calls.send(items)
            finally:
                ended.append(list(items))

        gathering: Gatherer[int, int] = Gatherer(send, max_calls=1, max_items=2, max_bytes=100)
        calls.open.clear()
        first = await submit_all(gathering, range(1))
        second = await submit_all(gathering, range(1, 3))
        third = await submit_all(gathering, range(3, 4))
        await leave(*first)
        await leave(second[0])
        assert (calls.groups, ended) == ([[0], [1, 2]], [[0]])  # One caller of the second call is still there.
        await leave(second[1])
        assert (calls.groups, ended) == ([[0], [1, 2], [3]], [[0], [1, 2]])
        calls.open.set()
        assert await third[0] == 30

    asyncio.run(run())


def test_what_is_left_before_it_is_sent_is_told_once_and_not_sent() -> None:
    async def run() -> None:
        calls = Calls()
        dropped: list[int] = []
        gathering: Gatherer[int, int] = Gatherer(
            calls.send, max_calls=1, max_items=4, max_bytes=100, on_drop=dropped.append
        )
        calls.open.clear()
        first = await submit_all(gathering, range(1))
        waiting = await submit_all(gathering, range(1, 4))
        await leave(waiting[0], waiting[2])
        calls.open.set()
        assert (await first[0], await waiting[1]) == (0, 10 * 2)
        assert (calls.groups, dropped) == ([[0], [2]], [1, 3])

    asyncio.run(run())


def test_what_cannot_be_back_before_its_deadline_is_not_sent_and_learns_why() -> None:
    async def run() -> None:
        calls = Calls()
        gathering = gatherer(calls)
        calls.open.clear()
        first = await submit_all(gathering, range(1))
        late = asyncio.create_task(gathering.submit(1, 1, deadline=time.monotonic() - 1))
        hopeless = asyncio.create_task(gathering.submit(2, 1, deadline=time.monotonic() + 1))
        stayer = asyncio.create_task(gathering.submit(3, 1, deadline=time.monotonic() + 1000))
        await settle()
        # As if calls took half a minute.
        gathering._run_times.add(1, 30.0, time.monotonic() + 1)
        calls.open.set()
        assert await asyncio.gather(*first, stayer) == [0, 30]
        for task in (late, hopeless):
            with pytest.raises(DeadlineExceeded):
                await task
        assert calls.groups == [[0], [3]]

    asyncio.run(run())


def test_nobody_is_lost_whatever_callers_and_calls_do() -> None:
    """Callers leave at any moment, calls fail, are cancelled or never return; who stays gets a result or an error."""
    rng = random.Random(7)
    outcomes: Counter[str] = Counter()

    async def send(items: Sequence[int]) -> Sequence[int]:
        for _ in range(rng.randrange(6)):
            await asyncio.sleep(0)
        fate = rng.random()
        if fate < 0.1:
            raise ConnectionError
        if fate < 0.15:
            raise asyncio.CancelledError
        if fate < 0.2:
            return []
        return [10 * item for item in items]

    async def call(gathering: Gatherer[int, int], item: int) -> None:
        for _ in range(rng.randrange(300)):
            await asyncio.sleep(0)
        deadline = time.monotonic() + rng.choice([-1.0, 1000.0, 1000.0, float("inf")])
        asking = asyncio.create_task(gathering.submit(item, rng.randrange(1, 9), deadline))
        leaves = rng.random() < 0.3
        for _ in range(rng.randrange(8)):
            await asyncio.sleep(0)
        if leaves:
            asking.cancel()
        # Whoever is lost makes the test fail by this.
        (outcome,) = await asyncio.wait_for(asyncio.gather(asking, return_exceptions=True), timeout=20)
        assert not isinstance(outcome, int) or outcome == 10 * item
        outcomes[type(outcome).__name__] += 1

    async def run() -> None:
        for max_calls in (1, 2, 4):
            gathering: Gatherer[int, int] = Gatherer(send, max_calls=max_calls, max_items=5, max_bytes=20)
            await asyncio.gather(*(call(gathering, item) for item in range(400)))
            # And a lone one after all of it.
            for _ in range(20):
                outcome = await asyncio.wait_for(asyncio.gather(gathering.submit(1, 1), return_exceptions=True), 20)
                assert outcome
            assert (gathering._calls, list(gathering._waiting), gathering._senders) == (0, [], set())

    asyncio.run(run())
    assert outcomes.keys() >= {"int", "ConnectionError", "RuntimeError", "CancelledError", "DeadlineExceeded"}
