"""The merge gate's claims, with batches that end when the test says so: no test waits for time to pass."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from deployments.batching import MAX_WAITING_BATCHES, MergeGate, Timed
from deployments.errors import DeadlineExceeded, InferenceFailed, Overloaded
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
        gate = MergeGate(run, max_batch_size=8, max_waiting_batches=100)
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


def test_what_cannot_be_done_before_its_deadline_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("deployments.batching.time", SimpleNamespace(monotonic=lambda: clock.now))

    async def test() -> None:
        gate, device, running = await busy_gate()
        # The batch that runs takes 5 s, and that is what the next one is expected to take.
        just_late, just_in_time = gate.submit("just late", 109.9), gate.submit("just in time", 110.0)
        clock.now = 105.0
        device.finish_all()
        with pytest.raises(DeadlineExceeded):
            await just_late
        await asyncio.gather(running, just_in_time)

    in_loop(test())


# Deadlines that are still to come, and too much at once


def taught_gate(batch_s: float, image_s: float) -> tuple[MergeGate[str, str], Device]:
    """An idle gate that has learned what batches take."""
    device = Device(free=True)
    gate = MergeGate(device.run, max_batch_size=8)
    for size in (1, 2, 4, 8) * 5:
        gate._run_times.add(size, batch_s + size * image_s, time.monotonic() + 1)
    return gate, device


def test_a_batch_is_made_smaller_where_that_brings_it_out_in_time() -> None:
    async def test() -> None:
        gate, device = taught_gate(batch_s=0.0, image_s=100.0)
        soon = gate.submit("soon", time.monotonic() + 350)
        others = [gate.submit("other", time.monotonic() + 10_000) for _ in range(7)]
        await asyncio.gather(soon, *others)
        assert device.batches[0] == ["soon", "other", "other"]

    in_loop(test())


def test_what_could_only_be_in_time_at_everybody_elses_expense_is_dropped() -> None:
    async def test() -> None:
        # A full batch takes hardly more than one of one.
        gate, device = taught_gate(batch_s=100.0, image_s=1.0)
        soon = gate.submit("soon", time.monotonic() + 102.5)
        others = [gate.submit("other", time.monotonic() + 10_000) for _ in range(7)]
        with pytest.raises(DeadlineExceeded):
            await soon
        await asyncio.gather(*others)
        assert device.batches == [["other"] * 7]
        assert gate.expired == 1

    in_loop(test())


def test_a_full_queue_refuses_with_when_to_come_again() -> None:
    async def test() -> None:
        gate, device, running = await busy_gate(max_batch_size=2)
        gate._run_times.add(2, 0.5, time.monotonic())
        waiting = [gate.submit(str(number)) for number in range(2 * MAX_WAITING_BATCHES)]
        with pytest.raises(Overloaded) as caught:
            await gate.submit("too much")
        assert 0 < (caught.value.retry_after_s or 0) <= 0.5 * MAX_WAITING_BATCHES
        device.finish_all()
        await asyncio.gather(running, *waiting)
        assert (await gate.submit("next")).result == "result of next"

    in_loop(test())


def test_what_callers_have_cancelled_does_not_fill_the_queue() -> None:
    async def test() -> None:
        gate, device, running = await busy_gate(max_batch_size=2)
        waiting = [gate.submit(str(number)) for number in range(2 * MAX_WAITING_BATCHES)]
        for future in waiting[::2]:
            future.cancel()
        more = [gate.submit("more") for _ in range(MAX_WAITING_BATCHES)]
        device.finish_all()
        await asyncio.gather(running, *waiting[1::2], *more)
        assert gate.abandoned == MAX_WAITING_BATCHES

    in_loop(test())


def test_nobody_is_lost_whatever_callers_and_batches_do() -> None:
    """Callers leave at any moment, batches fail, deadlines pass; who stays gets a result or an error."""
    rng = random.Random(11)
    outcomes: Counter[str] = Counter()

    async def run(items: Sequence[int]) -> list[int]:
        await turns_of_the_loop(rng.randrange(6))
        fate = rng.random()
        if fate < 0.1:
            raise ConnectionError
        if fate < 0.2:
            raise asyncio.CancelledError
        return [-item for item in items]

    async def ask(gate: MergeGate[int, int], item: int) -> None:
        await turns_of_the_loop(rng.randrange(300))
        future = gate.submit(item, time.monotonic() + rng.choice([-1.0, 1000.0, 1000.0, float("inf")]))
        await turns_of_the_loop(rng.randrange(8))
        if rng.random() < 0.3:
            future.cancel()
        (outcome,) = await asyncio.gather(future, return_exceptions=True)
        assert not isinstance(outcome, Timed) or outcome.result == -item
        outcomes[type(outcome).__name__] += 1

    async def test() -> None:
        for runners in (1, 2):
            gate = MergeGate(run, max_batch_size=4, runners=runners)
            await asyncio.gather(*(ask(gate, item) for item in range(300)))
            await asyncio.gather(*(gate.submit(1) for _ in range(10)), return_exceptions=True)
            assert (gate._running, gate.waiting) == (0, 0)

    in_loop(test())
    assert outcomes.keys() >= {"Timed", "InferenceFailed", "CancelledError", "DeadlineExceeded"}
