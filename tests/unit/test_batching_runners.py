"""The merge gate of an engine that runs two batches at once."""

import asyncio
import random
import time
from collections.abc import Sequence

import pytest

from deployments.batching import MergeGate, Timed
from deployments.errors import DeadlineExceeded, InferenceFailed
from tests.unit.devices import LONG_AGO, Lanes, in_loop, turns_of_the_loop, two_busy_lanes


def test_two_batches_run_at_once() -> None:
    async def test() -> None:
        _, lanes, running = await two_busy_lanes()
        assert lanes.running == {0, 1}
        for number in (1, 0):  # The second does not wait for the first.
            lanes.finish(number)
            assert (await running[number]).result == f"result of running {number + 1}"

    in_loop(test())


def test_a_third_batch_waits_and_merges() -> None:
    async def test() -> None:
        gate, lanes, running = await two_busy_lanes()
        waiting = [gate.submit(item) for item in "abc"]
        await turns_of_the_loop(20)
        assert len(lanes.batches) == 2
        lanes.finish(1)
        await lanes.started(3)
        assert lanes.batches[2] == ["a", "b", "c"]
        assert lanes.running == {0, 2}
        for number in (0, 2):
            lanes.finish(number)
        await asyncio.gather(*running, *waiting)

    in_loop(test())


def test_items_submitted_together_to_idle_runners_run_together() -> None:
    async def test() -> None:
        lanes = Lanes()
        gate = MergeGate(lanes.run, max_batch_size=8, runners=2)
        waiting = [gate.submit(item) for item in "abc"]
        await turns_of_the_loop(20)
        assert lanes.batches == [["a", "b", "c"]]
        lanes.finish(0)
        await asyncio.gather(*waiting)

    in_loop(test())


def test_what_is_more_than_a_batch_goes_to_the_other_runner_at_once() -> None:
    async def test() -> None:
        lanes = Lanes()
        gate = MergeGate(lanes.run, max_batch_size=2, runners=2)
        waiting = [gate.submit(item) for item in "abcde"]
        await turns_of_the_loop(20)
        assert lanes.batches == [["a", "b"], ["c", "d"]]
        lanes.finish(0)
        await lanes.started(3)
        assert lanes.batches[2] == ["e"]
        lanes.finish(1)
        lanes.finish(2)
        await asyncio.gather(*waiting)

    in_loop(test())


def test_a_runner_that_was_idle_runs_a_lone_item_at_once() -> None:
    async def test() -> None:
        gate, lanes, running = await two_busy_lanes()
        lanes.finish(0)
        await running[0]
        await turns_of_the_loop(5)  # Its worker has ended by now.
        lone = gate.submit("lone")
        await turns_of_the_loop(2)
        assert lanes.batches[2:] == [["lone"]]
        lanes.finish(1)
        lanes.finish(2)
        await asyncio.gather(running[1], lone)

    in_loop(test())


def test_the_earliest_deadline_runs_first_whichever_runner_is_free() -> None:
    async def test() -> None:
        gate, lanes, running = await two_busy_lanes(max_batch_size=1)
        now = time.monotonic()
        deadlines = {"last": float("inf"), "second": now + 200, "third": now + 300, "first": now + 100}
        waiting = [gate.submit(item, deadline) for item, deadline in deadlines.items()]
        for number in (1, 0, 3, 2, 4, 5):
            await lanes.started(number + 1)
            lanes.finish(number)
        await asyncio.gather(*running, *waiting)
        assert lanes.batches[2:] == [["first"], ["second"], ["third"], ["last"]]

    in_loop(test())


def test_expired_and_abandoned_items_run_on_neither() -> None:
    async def test() -> None:
        gate, lanes, running = await two_busy_lanes()
        late, left, stays = gate.submit("late", LONG_AGO), gate.submit("left"), gate.submit("stays")
        left.cancel()
        lanes.finish(0)
        await lanes.started(3)
        assert lanes.batches[2] == ["stays"]
        with pytest.raises(DeadlineExceeded):
            await late
        assert (gate.expired, gate.abandoned) == (1, 1)
        lanes.finish(1)
        lanes.finish(2)
        await asyncio.gather(*running, stays)

    in_loop(test())


def test_a_batch_that_fails_is_halved_on_its_own_runner_while_the_other_goes_on() -> None:
    async def test() -> None:
        gate, lanes, running = await two_busy_lanes()
        waiting = [gate.submit(item) for item in ("good", "bad")]
        lanes.finish(0)
        await lanes.started(3)
        lanes.finish(2)
        # The halves, one after the other, and what fails alone once more: the other runner is still busy with its own.
        for number in (3, 4, 5):
            await lanes.started(number + 1)
            assert lanes.running == {1, number}
            lanes.finish(number)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert lanes.batches[2:] == [["good", "bad"], ["good"], ["bad"], ["bad"]]
        assert isinstance(outcomes[0], Timed)
        assert isinstance(outcomes[1], InferenceFailed)
        lanes.finish(1)
        await asyncio.gather(*running)

    in_loop(test())


def test_an_item_submitted_in_the_turn_in_which_a_runner_finishes_is_not_lost() -> None:
    async def test(turns: int) -> None:
        gate, lanes, running = await two_busy_lanes()
        lanes.finish(0)
        lanes.finish(1)
        # From before the workers wake until after they have ended.
        await turns_of_the_loop(turns)
        last = gate.submit("last")
        await lanes.started(3)
        lanes.finish(2)
        assert (await last).result == "result of last"
        await asyncio.gather(*running)

    for turns in range(8):
        in_loop(test(turns))


@pytest.mark.parametrize("runners", [2, 3])
def test_each_of_500_concurrent_items_gets_its_own_result_and_no_runner_is_used_twice(runners: int) -> None:
    rng = random.Random(500)
    inside: list[int] = []

    async def run(items: Sequence[int]) -> list[int]:
        inside.append(len(items))
        assert len(inside) <= runners
        await turns_of_the_loop(rng.randrange(4))
        inside.pop()
        if any(item % 50 == 0 for item in items):
            raise ValueError
        return [-item for item in items]

    async def ask(gate: MergeGate[int, int], item: int) -> Timed[int]:
        await turns_of_the_loop(rng.randrange(200))
        return await gate.submit(item, time.monotonic() + rng.uniform(1000, 2000))

    async def test() -> None:
        gate = MergeGate(run, max_batch_size=8, runners=runners)
        outcomes = await asyncio.gather(*(ask(gate, item) for item in range(500)), return_exceptions=True)
        for item, outcome in enumerate(outcomes):
            if item % 50 == 0:
                assert isinstance(outcome, InferenceFailed)
            else:
                assert isinstance(outcome, Timed)
                assert outcome.result == -item

    in_loop(test())


def test_all_runners_work_again_after_a_batch_of_each_failed() -> None:
    async def test() -> None:
        lanes = Lanes()
        gate = MergeGate(lanes.run, max_batch_size=1, runners=2)
        bad = [gate.submit("bad") for _ in range(2)]
        await lanes.started(2)
        lanes.finish(0)
        lanes.finish(1)
        await lanes.started(4)  # Once more.
        lanes.finish(2)
        lanes.finish(3)
        outcomes = await asyncio.gather(*bad, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [InferenceFailed] * 2
        good = [gate.submit("good") for _ in range(2)]
        await lanes.started(6)
        assert lanes.running == {4, 5}
        lanes.finish(4)
        lanes.finish(5)
        await asyncio.gather(*good)

    in_loop(test())


def test_a_closing_loop_stops_all_runners() -> None:
    async def test() -> None:
        gate, _, _ = await two_busy_lanes()
        gate.submit("waiting")

    # asyncio.run cancels what is left and waits for it.
    in_loop(test())
