"""The merge gate's claims, with batches that end when the test says so: no test waits for time to pass."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.batching import MergeGate, Timed
from deployments.errors import CorruptImage, DeadlineExceeded, InferenceFailed

# Passed before any test begins; time.monotonic() is positive.
LONG_AGO = 0.0
# A gate that loses a caller would hold its test for ever.
PATIENCE_S = 20.0


def in_loop(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await test

    asyncio.run(bounded())


async def turns_of_the_loop(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Device:
    """Runs batches one after the other; each is held until `finish`, unless the device was made `free`."""

    def __init__(self, *, free: bool = False) -> None:
        self.batches: list[list[str]] = []
        self.started = asyncio.Event()
        self._finish = asyncio.Event()
        self._free = free

    async def run(self, items: Sequence[str]) -> list[str]:
        self.batches.append(list(items))
        self.started.set()
        if not self._free:
            await self._finish.wait()
            self._finish.clear()
        return [f"result of {item}" for item in items]

    def finish(self) -> None:
        self.started.clear()
        self._finish.set()

    def finish_all(self) -> None:
        self._free = True
        self.finish()


async def busy_gate(max_batch_size: int = 8) -> tuple[MergeGate[str, str], Device, asyncio.Future[Timed[str]]]:
    """A gate whose device is in the middle of a batch of one, and the future of that one."""
    device = Device()
    gate = MergeGate(device.run, max_batch_size)
    running = gate.submit("running")
    await device.started.wait()
    return gate, device, running


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


async def fails_on_bad(items: Sequence[str]) -> list[str]:
    if "bad" in items:
        raise ValueError("secret text of the model library")
    return [f"result of {item}" for item in items]


@pytest.mark.parametrize("place", range(8), ids=lambda place: f"place {place}")
def test_one_bad_item_in_a_full_batch_fails_alone(place: int) -> None:
    async def test() -> None:
        batches = []

        async def run(items: Sequence[str]) -> list[str]:
            batches.append(len(items))
            return await fails_on_bad(items)

        gate = MergeGate(run, max_batch_size=8)
        items = [f"good {number}" for number in range(7)]
        items.insert(place, "bad")
        outcomes = await asyncio.gather(*(gate.submit(item) for item in items), return_exceptions=True)
        assert batches[0] == 8
        failed = outcomes.pop(place)
        assert isinstance(failed, InferenceFailed)
        results = [outcome.result for outcome in outcomes if isinstance(outcome, Timed)]
        assert results == [f"result of good {number}" for number in range(7)]

    in_loop(test())


def test_an_error_meant_for_the_client_reaches_its_caller_as_it_is() -> None:
    async def test() -> None:
        refusal = CorruptImage("The image breaks off in the middle.")

        async def run(items: Sequence[str]) -> list[str]:
            if "corrupt" in items:
                raise refusal
            return list(items)

        gate = MergeGate(run, max_batch_size=8)
        outcomes = await asyncio.gather(gate.submit("fine"), gate.submit("corrupt"), return_exceptions=True)
        assert isinstance(outcomes[0], Timed)
        assert outcomes[1] is refusal

    in_loop(test())


def test_a_foreign_exceptions_text_does_not_reach_the_caller() -> None:
    async def test() -> None:
        gate = MergeGate(fails_on_bad, max_batch_size=8)
        with pytest.raises(InferenceFailed) as caught:
            await gate.submit("bad")
        assert "secret" not in str(caught.value)

    in_loop(test())


def test_a_foreign_exceptions_text_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        gate = MergeGate(fails_on_bad, max_batch_size=8)
        with pytest.raises(InferenceFailed):
            await gate.submit("bad")

    with caplog.at_level(logging.ERROR, logger="ray.serve"):
        in_loop(test())
    assert "secret text of the model library" in caplog.text


@pytest.mark.parametrize("wrong", [-1, 1], ids=["one too few", "one too many"])
def test_a_wrong_number_of_results_is_a_failure_and_not_a_mix_up(wrong: int) -> None:
    async def test() -> None:
        async def run(items: Sequence[str]) -> list[str]:
            return ["somebody's result"] * (len(items) + wrong)

        gate = MergeGate(run, max_batch_size=8)
        outcomes = await asyncio.gather(*(gate.submit(item) for item in "abc"), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [InferenceFailed] * 3

    in_loop(test())


def test_no_result_at_all_is_a_failure() -> None:
    async def test() -> None:
        async def run(items: Sequence[str]) -> Any:
            return None

        gate: MergeGate[str, str] = MergeGate(run, max_batch_size=8)
        with pytest.raises(InferenceFailed):
            await gate.submit("a")

    in_loop(test())


def test_the_gate_works_again_after_every_item_of_a_batch_failed() -> None:
    async def test() -> None:
        gate = MergeGate(fails_on_bad, max_batch_size=8)
        outcomes = await asyncio.gather(*(gate.submit("bad") for _ in range(8)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [InferenceFailed] * 8
        assert (await gate.submit("good")).result == "result of good"

    in_loop(test())


def cancelled_by_itself() -> Callable[[Sequence[str]], Awaitable[list[str]]]:
    async def run(items: Sequence[str]) -> list[str]:
        if "bad" in items:
            raise asyncio.CancelledError
        return [f"result of {item}" for item in items]

    return run


def cancelled_through_its_executor() -> Callable[[Sequence[str]], Awaitable[list[str]]]:
    async def run(items: Sequence[str]) -> list[str]:
        if "bad" in items:
            # What an executor does to its queue when it is shut down.
            future: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
            future.cancel()
            return await future
        return [f"result of {item}" for item in items]

    return run


@pytest.mark.parametrize("make_run", [cancelled_by_itself, cancelled_through_its_executor])
def test_a_run_that_is_cancelled_fails_its_item_and_hangs_nobody(
    make_run: Callable[[], Callable[[Sequence[str]], Awaitable[list[str]]]],
) -> None:
    async def test() -> None:
        gate = MergeGate(make_run(), max_batch_size=8)
        outcomes = await asyncio.gather(*(gate.submit(item) for item in ("a", "bad", "b")), return_exceptions=True)
        assert isinstance(outcomes[1], InferenceFailed)
        assert [outcome.result for outcome in outcomes if isinstance(outcome, Timed)] == ["result of a", "result of b"]
        assert (await gate.submit("next")).result == "result of next"

    in_loop(test())


def test_a_closing_loop_stops_the_gate_in_the_middle_of_a_batch() -> None:
    started = []

    async def run(items: Sequence[str]) -> list[str]:
        started.append(len(items))
        await asyncio.Event().wait()
        return list(items)

    async def test() -> None:
        gate = MergeGate(run, max_batch_size=8)
        futures = [gate.submit(item) for item in "abcd"]
        await turns_of_the_loop(3)
        assert not any(future.done() for future in futures)

    # asyncio.run cancels what is left and waits for it: halves that ran again would never end.
    in_loop(test())
    assert started == [4]


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
