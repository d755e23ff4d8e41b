"""The simulated gates do what the real ones do on the same arrivals; the real ones run on a loop whose clock jumps."""

import asyncio
import random
import selectors
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from benchmarks.simulation.cores import Device
from benchmarks.simulation.gates import Gate, Gatherer
from benchmarks.simulation.timeline import Timeline
from deployments import gathering
from deployments.batching import MergeGate

ITEMS = 400

Groups = list[list[int]]


class Jumping(selectors.DefaultSelector):
    """Does not wait: the time that it is asked to wait for has passed at once."""

    passed_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.passed_s += timeout or 0.0
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jumping = Jumping()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.passed_s


def moments_s(per_second: float, seed: int) -> list[float]:
    chance, now, found = random.Random(seed), 1.0, []
    for _ in range(ITEMS):
        now += chance.expovariate(per_second)
        found.append(now)
    return found


def busy_s(size: int) -> float:
    return 0.01 + 0.004 * size


def in_jumping_loop(submit_all: Callable[[asyncio.AbstractEventLoop], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        loop = runner.get_loop()

        async def run() -> None:
            await submit_all(loop)

        runner.run(run())


def at_their_moments(
    loop: asyncio.AbstractEventLoop, per_second: float, seed: int, submit: Callable[[int], Awaitable[Any]]
) -> "asyncio.Future[list[Any]]":
    async def one(number: int, moment_s: float) -> None:
        await asyncio.sleep(moment_s - loop.time())
        await submit(number)

    return asyncio.gather(*(one(number, at_s) for number, at_s in enumerate(moments_s(per_second, seed))))


def real_batches(per_second: float, seed: int, max_batch_size: int, runners: int) -> Groups:
    batches: Groups = []

    async def submit_all(loop: asyncio.AbstractEventLoop) -> None:
        async def run(items: Sequence[int]) -> Sequence[int]:
            batches.append(list(items))
            await asyncio.sleep(busy_s(len(items)))
            return items

        # The simulation keeps whatever comes.
        gate: MergeGate[int, int] = MergeGate(run, max_batch_size, runners, max_waiting_batches=ITEMS)
        await at_their_moments(loop, per_second, seed, gate.submit)

    in_jumping_loop(submit_all)
    return batches


def simulated_batches(per_second: float, seed: int, max_batch_size: int, runners: int) -> list[int]:
    timeline, sizes = Timeline(), []

    def batch_s(size: int) -> float:
        sizes.append(size)
        return busy_s(size)

    gate = Gate(timeline, Device(timeline), batch_s, max_batch_size=max_batch_size, runners=runners)
    for moment_s in moments_s(per_second, seed):
        timeline.at(moment_s, gate.submit, lambda in_time: None)
    timeline.run()
    return sizes


LOADS = [(20, 1), (60, 2), (150, 3), (400, 4)]  # a second, and the seed


@pytest.mark.parametrize("runners", [1, 2])
@pytest.mark.parametrize(("per_second", "seed"), LOADS)
def test_the_simulated_gate_makes_the_batches_of_the_merge_gate(per_second: float, seed: int, runners: int) -> None:
    real = real_batches(per_second, seed, 8, runners)
    assert simulated_batches(per_second, seed, 8, runners) == [len(batch) for batch in real]
    assert sum(map(len, real)) == ITEMS


def real_groups(per_second: float, seed: int, max_calls: int, max_items: int) -> Groups:
    groups: Groups = []

    async def submit_all(loop: asyncio.AbstractEventLoop) -> None:
        async def send(items: Sequence[int]) -> Sequence[int]:
            groups.append(list(items))
            await asyncio.sleep(busy_s(len(items)))
            return items

        gatherer: gathering.Gatherer[int, int] = gathering.Gatherer(
            send, max_calls=max_calls, max_items=max_items, max_bytes=2**20
        )
        await at_their_moments(loop, per_second, seed, lambda number: gatherer.submit(number, 1))

    in_jumping_loop(submit_all)
    return groups


def simulated_groups(per_second: float, seed: int, max_calls: int, max_items: int) -> Groups:
    timeline, groups = Timeline(), []

    def send(items: Sequence[int], returned: Callable[[], object]) -> None:
        groups.append(list(items))
        timeline.after(busy_s(len(items)), returned)

    gatherer: Gatherer[int] = Gatherer(timeline, send, max_calls=max_calls, max_items=max_items)
    for number, moment_s in enumerate(moments_s(per_second, seed)):
        timeline.at(moment_s, gatherer.submit, number)
    timeline.run()
    return groups


@pytest.mark.parametrize("max_calls", [1, 4])
@pytest.mark.parametrize(("per_second", "seed"), [*LOADS, (1500, 5)])
def test_the_simulated_gatherer_makes_the_calls_of_the_real_one(per_second: float, seed: int, max_calls: int) -> None:
    real = real_groups(per_second, seed, max_calls, 16)
    assert simulated_groups(per_second, seed, max_calls, 16) == real
    assert sorted(number for group in real for number in group) == list(range(ITEMS))


def test_an_item_whose_deadline_passes_is_dropped_before_its_batch() -> None:
    timeline = Timeline()
    outcomes: list[object] = []
    gate = Gate(timeline, Device(timeline), busy_s, max_batch_size=8)
    gate.submit(outcomes.append)
    timeline.at(0.001, gate.submit, lambda in_time: outcomes.append(("late", in_time)), 0.002)
    timeline.at(0.001, gate.submit, lambda in_time: outcomes.append(("early", in_time)), 1.0)
    timeline.run()
    assert outcomes == [True, ("late", False), ("early", True)]
    assert gate.sizes == {1: 2}
