"""The merge gate when batches fail: each caller has its own fate, and nobody hangs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from deployments.batching import MergeGate, Timed
from deployments.errors import CorruptImage, InferenceFailed
from tests.unit.devices import fails_on_bad, in_loop, turns_of_the_loop


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
