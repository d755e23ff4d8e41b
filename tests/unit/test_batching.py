"""The merge gate's claims, with batches that end when the test says so: no test waits for time to pass."""

import asyncio
import random
import time
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from deployments.batching import MergeGate, Timed
from deployments.errors import DeadlineExceeded, InferenceFailed
from tests.unit.devices import LONG_AGO, Device, busy_gate, in_loop, turns_of_the_loop


def test_an_idle_gate_runs_a_lone_item_at_once() -> None:
    async def test() -> None:
        device = Device()
        gate = MergeGate(device.run, max_batch_size=8)
        future = gate.submit("lone")
        # One turn starts the worker, one lets callers in that woke with it; a timer would need more.
        await turns_of_the_loop(2)
        assert device.batches == [["lone"]]
        device.finish()
        assert (await future).batch_size == 1

    in_loop(test())


def test_items_submitted_together_to_an_idle_gate_run_together() -> None:
    async def test() -> None:
        device = Device(free=True)
        gate = MergeGate(device.run, max_batch_size=8)
        await asyncio.gather(*(gate.submit(item) for item in "abc"))
        assert device.batches == [["a", "b", "c"]]

    in_loop(test())


def test_what_waits_while_a_batch_runs_merges_into_one_batch() -> None:
    async def test() -> None:
        gate, device, running = await busy_gate()
        waiting = []
        for item in "abcde":
            waiting.append(gate.submit(item))
            await turns_of_the_loop(5)
        assert device.batches == [["running"]]
        device.finish_all()
        results = await asyncio.gather(running, *waiting)
        assert device.batches == [["running"], ["a", "b", "c", "d", "e"]]
        assert [timed.batch_size for timed in results] == [1, 5, 5, 5, 5, 5]

    in_loop(test())


def test_a_caller_woken_by_a_batch_joins_the_next_one() -> None:
    async def test() -> None:
        gate, device, running = await busy_gate()

        async def ask_twice() -> str:
            await running
            return (await gate.submit("again")).result

        again = asyncio.create_task(ask_twice())
        waiting = gate.submit("waiting")
        await turns_of_the_loop(1)
        device.finish_all()
        await asyncio.gather(again, waiting)
        assert sorted(device.batches[1]) == ["again", "waiting"]

    in_loop(test())


def test_batches_never_overlap() -> None:
    async def test() -> None:
        gate, device, running = await busy_gate()
        waiting = gate.submit("waiting")
        await turns_of_the_loop(20)
        assert len(device.batches) == 1
        device.finish_all()
        await asyncio.gather(running, waiting)

    in_loop(test())


def test_no_batch_is_larger_than_the_maximum() -> None:
    async def test() -> None:
        gate, device, running = await busy_gate(max_batch_size=4)
        waiting = [gate.submit(str(number)) for number in range(11)]
        device.finish_all()
        await asyncio.gather(running, *waiting)
        assert [len(batch) for batch in device.batches] == [1, 4, 4, 3]

    in_loop(test())


def test_a_new_maximum_holds_from_the_next_batch() -> None:
    async def test() -> None:
        gate, device, running = await busy_gate(max_batch_size=2)
        waiting = [gate.submit(str(number)) for number in range(9)]
        gate.max_batch_size = 6
        device.finish()
        await running
        await device.started.wait()
        gate.max_batch_size = 1
        device.finish_all()
        await asyncio.gather(*waiting)
        assert [len(batch) for batch in device.batches] == [1, 6, 1, 1, 1]

    in_loop(test())


def test_the_earliest_deadline_runs_first() -> None:
    async def test() -> None:
        gate, device, running = await busy_gate(max_batch_size=1)
        now = time.monotonic()
        deadlines = {"last": float("inf"), "second": now + 200, "third": now + 300, "first": now + 100}
        waiting = [gate.submit(item, deadline) for item, deadline in deadlines.items()]
        device.finish_all()
        await asyncio.gather(running, *waiting)
        assert device.batches == [["running"], ["first"], ["second"], ["third"], ["last"]]

    in_loop(test())


def test_equal_deadlines_run_in_the_order_of_arrival() -> None:
    async def test() -> None:
        gate, device, running = await busy_gate(max_batch_size=1)
        waiting = [gate.submit(item) for item in "dbca"]
        device.finish_all()
        await asyncio.gather(running, *waiting)
        assert device.batches[1:] == [["d"], ["b"], ["c"], ["a"]]

    in_loop(test())


def test_an_expired_item_never_runs_and_its_caller_learns_why() -> None:
    async def test() -> None:
        gate, device, running = await busy_gate()
        late = gate.submit("late", LONG_AGO)
        in_time = gate.submit("in time", time.monotonic() + 1000)
        device.finish_all()
        with pytest.raises(DeadlineExceeded):
            await late
        await asyncio.gather(running, in_time)
        assert device.batches == [["running"], ["in time"]]

    in_loop(test())


def test_expired_items_are_counted() -> None:
    async def test() -> None:
        gate, device, running = await busy_gate()
        waiting = [gate.submit("late", LONG_AGO), gate.submit("in time"), gate.submit("late too", LONG_AGO)]
        device.finish_all()
        await asyncio.gather(running, *waiting, return_exceptions=True)
        assert (gate.expired, gate.abandoned) == (2, 0)

    in_loop(test())


def test_expired_items_take_no_place_in_a_batch() -> None:
    async def test() -> None:
        gate, device, running = await busy_gate(max_batch_size=2)
        waiting = [*(gate.submit("late", LONG_AGO) for _ in range(5)), gate.submit("a"), gate.submit("b")]
        device.finish_all()
        await asyncio.gather(running, *waiting, return_exceptions=True)
        assert device.batches == [["running"], ["a", "b"]]

    in_loop(test())


def test_nothing_runs_when_all_that_waits_has_expired() -> None:
    async def test() -> None:
        device = Device(free=True)
        gate = MergeGate(device.run, max_batch_size=8)
        late = [gate.submit("late", LONG_AGO) for _ in range(20)]
        outcomes = await asyncio.gather(*late, return_exceptions=True)
        assert all(isinstance(outcome, DeadlineExceeded) for outcome in outcomes)
        assert device.batches == []

    in_loop(test())


def test_a_cancelled_callers_item_never_runs_and_is_counted() -> None:
    async def test() -> None:
        gate, device, running = await busy_gate()
        left, stayed = gate.submit("left"), gate.submit("stayed")
        left.cancel()
        device.finish_all()
        await asyncio.gather(running, stayed)
        assert device.batches == [["running"], ["stayed"]]
        assert (gate.abandoned, gate.expired) == (1, 0)

    in_loop(test())


def test_cancelling_the_task_that_awaits_takes_its_item_out() -> None:
    async def test() -> None:
        gate, device, running = await busy_gate()

        async def ask() -> Timed[str]:
            return await gate.submit("left")

        caller = asyncio.create_task(ask())
        await turns_of_the_loop(1)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        device.finish_all()
        await running
        await gate.submit("next")
        assert device.batches == [["running"], ["next"]]

    in_loop(test())


def test_a_caller_that_leaves_while_its_batch_runs_does_not_harm_the_others() -> None:
    async def test() -> None:
        gate, device, running = await busy_gate()
        left, stayed = gate.submit("left"), gate.submit("stayed")
        device.finish()
        await running
        await device.started.wait()
        left.cancel()
        device.finish_all()
        assert (await stayed).result == "result of stayed"
        assert (await gate.submit("next")).result == "result of next"

    in_loop(test())


def test_each_of_500_concurrent_items_gets_its_own_result() -> None:
    rng = random.Random(500)

    async def run(items: Sequence[int]) -> list[int]:
        assert 1 <= len(items) <= 8
        await turns_of_the_loop(rng.randrange(4))
        if any(item % 50 == 0 for item in items):
            raise ValueError
        return [-item for item in items]

    async def ask(gate: MergeGate[int, int], item: int) -> Timed[int]:
        await turns_of_the_loop(rng.randrange(200))
        return await gate.submit(item, time.monotonic() + rng.uniform(1000, 2000))

    async def test() -> None:
        gate = MergeGate(run, max_batch_size=8)
        outcomes = await asyncio.gather(*(ask(gate, item) for item in range(500)), return_exceptions=True)
        for item, outcome in enumerate(outcomes):
            if item % 50 == 0:
                assert isinstance(outcome, InferenceFailed)
            else:
                assert isinstance(outcome, Timed)
                assert outcome.result == -item

    in_loop(test())


def test_the_times_of_an_item_are_its_wait_and_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("deployments.batching.time", SimpleNamespace(monotonic=lambda: clock.now))

    async def test() -> None:
        gate, device, running = await busy_gate()
        clock.now = 101.0
        waiting = gate.submit("waiting")
        clock.now = 103.0
        device.finish()
        first = await running
        await device.started.wait()
        clock.now = 107.0
        device.finish()
        second = await waiting
        assert (first.queue_s, first.run_s) == (0.0, 3.0)
        assert (second.queue_s, second.run_s) == (2.0, 4.0)

    in_loop(test())


def test_a_deadline_that_passes_while_a_batch_runs_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("deployments.batching.time", SimpleNamespace(monotonic=lambda: clock.now))

    async def test() -> None:
        gate, device, running = await busy_gate()
        just_late, just_in_time = gate.submit("just late", 104.9), gate.submit("just in time", 105.0)
        clock.now = 105.0
        device.finish_all()
        with pytest.raises(DeadlineExceeded):
            await just_late
        await asyncio.gather(running, just_in_time)

    in_loop(test())
