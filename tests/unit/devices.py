"""A stand-in for the device behind a merge gate, whose batches end when the test says so."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from deployments.batching import MergeGate, Timed

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


async def fails_on_bad(items: Sequence[str]) -> list[str]:
    if "bad" in items:
        raise ValueError("secret text of the model library")
    return [f"result of {item}" for item in items]


class Lanes:
    """Runs batches beside each other; each is held until the test finishes it by its number."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.running: set[int] = set()
        self._began = asyncio.Condition()
        self._finish: list[asyncio.Event] = []

    async def run(self, items: Sequence[str]) -> list[str]:
        number = len(self.batches)
        self.batches.append(list(items))
        self._finish.append(asyncio.Event())
        self.running.add(number)
        async with self._began:
            self._began.notify_all()
        try:
            await self._finish[number].wait()
        finally:
            self.running.remove(number)
        return await fails_on_bad(items)

    async def started(self, count: int) -> None:
        """Returns once that many batches have begun."""
        async with self._began:
            await self._began.wait_for(lambda: len(self.batches) >= count)

    def finish(self, number: int) -> None:
        self._finish[number].set()


async def two_busy_lanes(
    max_batch_size: int = 8,
) -> tuple[MergeGate[str, str], Lanes, list[asyncio.Future[Timed[str]]]]:
    """A gate with two runners, each in the middle of a batch of one, and the futures of these."""
    lanes = Lanes()
    gate = MergeGate(lanes.run, max_batch_size, runners=2)
    running = []
    for count in (1, 2):
        running.append(gate.submit(f"running {count}"))
        await lanes.started(count)
    return gate, lanes, running
