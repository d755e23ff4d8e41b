"""A mirrored image on a Classifier's engine: alone, given way to, counted nowhere, and nobody's failure."""

import asyncio
import os
import sys
import threading
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.batching import MergeGate
from deployments.engines.base import Images
from deployments.engines.dummy import DummyEngine
from deployments.served import MIRROR_NICENESS, ServedVersion
from deployments.settings import ModelSettings
from deployments.statistics import BatchStatistics

SETTINGS = ModelSettings(name="model", engine="dummy", max_batch_size=4)


class Watched(DummyEngine):
    """Knows how many were inside it at once, on which threads, at which priority; waits while it is held."""

    def __init__(self) -> None:
        super().__init__(SETTINGS)
        self.inside, self.most_inside, self.calls = 0, 0, 0
        self.priorities: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.fails = False

    def infer(self, images: Images) -> NDArray[np.float32]:
        self.calls += 1
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        self.go.wait(20)
        self.inside -= 1
        if self.fails:
            raise RuntimeError("The engine failed.")
        return super().infer(images)


def served_by(engine: Watched) -> tuple[ServedVersion, BatchStatistics]:
    batches = BatchStatistics()
    served = ServedVersion(engine, SETTINGS, nullcontext, [batches])
    engine.calls, engine.most_inside, engine.priorities = 0, 0, []
    return served, batches


PIXELS = np.full((224, 224, 3), 10, np.uint8)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@pytest.mark.skipif(sys.platform != "linux", reason="Threads have priorities of their own on Linux alone.")
def test_a_mirror_gives_way_on_a_thread_of_its_own_and_no_other_thread_does() -> None:
    async def run() -> None:
        engine = Watched()
        served, _ = served_by(engine)
        here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        await served.mirror(PIXELS, niced=True)
        await served.gate.submit(PIXELS)
        await served.mirror(PIXELS, niced=False)
        assert engine.priorities == [max(here, MIRROR_NICENESS), here, here]
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == here
        served.close()

    asyncio.run(run())


@pytest.mark.parametrize("niced", [True, False], ids=["niced", "not niced"])
def test_a_mirror_answers_as_the_engine_does_and_is_counted_nowhere(niced: bool) -> None:
    async def run() -> None:
        served, batches = served_by(Watched())
        logits, run_s = await served.mirror(PIXELS, niced=niced)
        np.testing.assert_array_equal(logits, (await served.gate.submit(PIXELS)).result)
        assert run_s > 0
        assert {size: total.count for size, total in batches.by_size.items()} == {1: 1}
        served.close()

    asyncio.run(run())


@pytest.mark.parametrize("niced", [True, False], ids=["niced", "not niced"])
def test_a_mirror_and_a_batch_are_never_on_the_engine_together(niced: bool) -> None:
    async def run() -> None:
        engine = Watched()
        served, _ = served_by(engine)
        engine.go.clear()
        mirror = asyncio.create_task(served.mirror(PIXELS, niced=niced))
        await until(lambda: engine.inside == 1)
        real = [served.gate.submit(PIXELS) for _ in range(3)]
        await asyncio.sleep(0.02)
        assert (engine.inside, served.gate.is_idle) == (1, False)
        engine.go.set()
        await asyncio.gather(mirror, *real)
        assert engine.most_inside == 1
        served.close()

    asyncio.run(run())


def test_what_was_begun_is_finished_before_a_batch_begins_though_nobody_waits_for_it() -> None:
    async def run() -> None:
        engine = Watched()
        served, _ = served_by(engine)
        engine.go.clear()
        mirror = asyncio.create_task(served.mirror(PIXELS, niced=True))
        await until(lambda: engine.inside == 1)
        mirror.cancel()
        real = served.gate.submit(PIXELS)
        await asyncio.sleep(0.02)
        assert engine.calls == 1
        engine.go.set()
        await real
        assert engine.most_inside == 1
        served.close()

    asyncio.run(run())


def test_a_mirror_that_fails_leaves_the_gate_open() -> None:
    async def run() -> None:
        engine = Watched()
        served, _ = served_by(engine)
        engine.fails = True
        with pytest.raises(RuntimeError):
            await served.mirror(PIXELS, niced=True)
        engine.fails = False
        await served.gate.submit(PIXELS)
        await until(lambda: served.gate.is_idle)
        served.close()

    asyncio.run(run())


def test_a_gate_is_idle_when_nothing_runs_and_nothing_waits() -> None:
    async def run() -> None:
        open_ = asyncio.Event()

        async def work(items: Any) -> Any:
            await open_.wait()
            return items

        gate: MergeGate[int, int] = MergeGate(work, 1)
        assert gate.is_idle
        first = gate.submit(1)
        assert not gate.is_idle
        second = gate.submit(2)
        open_.set()
        await first
        await second
        await until(lambda: gate.is_idle)
        async with gate.alone():
            assert not gate.is_idle
        assert gate.is_idle

    asyncio.run(run())
