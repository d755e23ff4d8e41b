"""The merge gate: what fails is tried once more by itself, and what may do harm runs while nothing else does."""

import asyncio
from collections.abc import Sequence

import pytest

from deployments.batching import MergeGate, Timed
from deployments.errors import CorruptImage, InferenceFailed
from tests.unit.devices import Device, busy_gate, in_loop, turns_of_the_loop


class Runs:
    """What ran, in batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    async def run(self, items: Sequence[str]) -> list[str | Exception]:
        self.batches.append(list(items))
        await asyncio.sleep(0)
        return [self.outcome(item, items) for item in items]

    def outcome(self, item: str, items: Sequence[str]) -> str | Exception:
        return f"result of {item}"


def results(outcomes: Sequence[object]) -> list[object]:
    return [outcome.result if isinstance(outcome, Timed) else type(outcome) for outcome in outcomes]


def test_an_item_that_fails_alone_by_chance_succeeds_when_it_is_run_once_more() -> None:
    class Flaky(Runs):
        def outcome(self, item: str, items: Sequence[str]) -> str | Exception:
            if item == "flaky" and len(self.batches) == 1:
                raise RuntimeError("out of luck")
            return super().outcome(item, items)

    async def test() -> None:
        device = Flaky()
        gate = MergeGate(device.run, max_batch_size=8)
        assert (await gate.submit("flaky")).result == "result of flaky"
        assert device.batches == [["flaky"], ["flaky"]]

    in_loop(test())


def test_what_one_item_alone_lacks_costs_its_neighbours_no_second_run() -> None:
    class Spoiled(Runs):
        def outcome(self, item: str, items: Sequence[str]) -> str | Exception:
            return ValueError("not finite") if item == "bad" else super().outcome(item, items)

    async def test() -> None:
        device = Spoiled()
        gate = MergeGate(device.run, max_batch_size=8)
        outcomes = await asyncio.gather(*(gate.submit(item) for item in ("a", "bad", "b")), return_exceptions=True)
        assert results(outcomes) == ["result of a", InferenceFailed, "result of b"]
        assert device.batches == [["a", "bad", "b"], ["bad"]]

    in_loop(test())


def test_a_refusal_of_one_item_is_its_answer_and_not_tried_again() -> None:
    class Refusing(Runs):
        def outcome(self, item: str, items: Sequence[str]) -> str | Exception:
            return CorruptImage("It breaks off.") if item == "bad" else super().outcome(item, items)

    async def test() -> None:
        device = Refusing()
        gate = MergeGate(device.run, max_batch_size=8)
        outcomes = await asyncio.gather(*(gate.submit(item) for item in ("a", "bad")), return_exceptions=True)
        assert results(outcomes) == ["result of a", CorruptImage]
        assert device.batches == [["a", "bad"]]

    in_loop(test())


def test_a_batch_that_finds_no_memory_is_answered_in_smaller_ones() -> None:
    class Small(Runs):
        def outcome(self, item: str, items: Sequence[str]) -> str | Exception:
            if len(items) > 2:
                raise MemoryError
            return super().outcome(item, items)

    async def test() -> None:
        device = Small()
        gate = MergeGate(device.run, max_batch_size=8)
        outcomes = await asyncio.gather(*(gate.submit(item) for item in "abcdefgh"))
        assert results(outcomes) == [f"result of {item}" for item in "abcdefgh"]
        assert [len(batch) for batch in device.batches] == [8, 4, 2, 2, 4, 2, 2]

    in_loop(test())


def test_who_has_the_gate_for_itself_waits_for_what_runs_and_holds_up_what_comes() -> None:
    async def test() -> None:
        gate, device, running = await busy_gate()
        seen: list[str] = []

        async def suspect() -> None:
            async with gate.alone() as run_alone:
                seen.append("alone")
                waiting = [gate.submit("innocent") for _ in range(3)]
                await turns_of_the_loop(5)
                assert device.batches == [["running"]]
                device.finish_all()
                assert (await run_alone("suspect")).result().result == "result of suspect"
                assert device.batches == [["running"], ["suspect"]]
                seen.append(f"{sum(future.done() for future in waiting)} others")
            await asyncio.gather(*waiting)

        task = asyncio.create_task(suspect())
        await turns_of_the_loop(5)
        assert seen == []
        device.finish()
        await running
        await task
        assert seen == ["alone", "0 others"]
        assert device.batches[2:] == [["innocent"] * 3]

    in_loop(test())


def test_two_who_want_the_gate_for_themselves_have_it_one_after_the_other() -> None:
    async def test() -> None:
        gate = MergeGate(Device(free=True).run, max_batch_size=8, runners=2)
        inside = 0

        async def suspect(name: str) -> str:
            nonlocal inside
            async with gate.alone() as run_alone:
                inside += 1
                assert inside == 1
                result = (await run_alone(name)).result().result
                await turns_of_the_loop(3)
                inside -= 1
                return result

        others = asyncio.gather(*(gate.submit("other") for _ in range(20)))
        assert await asyncio.gather(*map(suspect, "abc")) == [f"result of {name}" for name in "abc"]
        assert len(await others) == 20

    in_loop(test())


@pytest.mark.parametrize("turns", range(6))
def test_who_gives_up_its_turn_holds_up_nobody(turns: int) -> None:
    async def test() -> None:
        gate, device, running = await busy_gate()

        async def suspect() -> None:
            async with gate.alone():
                await asyncio.Event().wait()

        task = asyncio.create_task(suspect())
        await turns_of_the_loop(2)
        waiting = gate.submit("innocent")
        device.finish()
        # Before it has its turn, in the moment that it gets it, and after.
        await turns_of_the_loop(turns)
        task.cancel()
        device.finish_all()
        assert (await waiting).result == "result of innocent"
        await running
        async with gate.alone() as run_alone:
            assert (await run_alone("next")).result().result == "result of next"

    in_loop(test())


def test_a_suspect_that_fails_is_its_callers_failure() -> None:
    async def test() -> None:
        async def run(items: Sequence[str]) -> list[str | Exception]:
            raise RuntimeError("secret")

        gate: MergeGate[str, str] = MergeGate(run, max_batch_size=8)
        async with gate.alone() as run_alone:
            outcome = await run_alone("suspect")
        assert isinstance(outcome.exception(), InferenceFailed)

    in_loop(test())
