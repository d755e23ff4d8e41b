"""One version of a model in a Classifier: its engine, the merge gate in front of it, and the threads behind.

What is asked of a version goes to its own gate, so that a batch is of one version, and finishes on what it began with.
"""

import asyncio
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import Final, Protocol

import numpy as np

from deployments import deadlines
from deployments.batch_metrics import BatchMetrics
from deployments.batching import MergeGate, Timed
from deployments.engines.base import Engine, taken_padding
from deployments.errors import DeadlineExceeded, Overloaded
from deployments.messages import Logits, Pixels
from deployments.settings import ModelSettings
from deployments.work_spans import Traced, record_batch

# A batch that takes as long as so many full ones has hung, whatever hang_timeout_s says: a full batch of a large model
# on a CPU takes seconds, and several times that when others want its cores.
HANG_BATCHES: Final = 10
# Of the thread that runs mirrors: a tenth of what a thread of a real batch gets where both want the same core. With 19,
# mirrors took over a second on a busy machine, while real batches gained nothing more.
MIRROR_NICENESS: Final = 10

Outcome = asyncio.Future[Timed[Logits]]
Infer = Callable[[Engine, Sequence[Pixels], int], Sequence[Logits | Exception]]


class CountsBatches(Protocol):
    def add(self, size: int, duration_s: float) -> None:
        """A batch of that many images has taken so long."""
        ...


class ServedVersion:
    """Made where it may block: it runs a full batch to see how long one takes."""

    def __init__(
        self,
        engine: Engine,
        settings: ModelSettings,
        watched: Callable[[], AbstractContextManager[None]],
        batches: Sequence[CountsBatches],
    ) -> None:
        """`watched`: watches each batch while it runs. `batches`: where they are counted."""
        self.info = replace(engine.info(), inputs=settings.inputs, outputs=settings.outputs)
        self.last_success = 0.0  # time.monotonic()
        self.runners = engine.runners()
        self._batches = batches
        self._engine = engine
        self._watched = watched
        self._threads = ThreadPoolExecutor(self.runners, thread_name_prefix=f"engine-{self.info.version}")
        self._mirroring: set[asyncio.Task[tuple[Logits | Exception, float]]] = set()
        # Without a thread until there is something for it.
        self._niced = ThreadPoolExecutor(1, thread_name_prefix=f"mirror-{self.info.version}", initializer=_give_way)
        self._metrics = BatchMetrics(self.info.name, self.info.version)
        self.gate: MergeGate[Pixels | Traced, Logits] = MergeGate(
            self._run, settings.max_batch_size, self.runners, on_wait=self._waited, on_halve=self._metrics.halved
        )
        side = self.info.preprocessing.crop_size
        self._blank: Pixels = np.zeros((side, side, 3), np.uint8)
        self._blank_run: asyncio.Task[None] | None = None
        self.hang_timeout_s = max(settings.hang_timeout_s, HANG_BATCHES * self._full_batch_s(settings.max_batch_size))

    async def run_blank(self) -> None:
        """One at a time, for all who want to know. Raises InferenceFailed."""
        if self._blank_run is None or self._blank_run.done():
            self._blank_run = asyncio.create_task(self._submit_blank())
        await asyncio.shield(self._blank_run)

    async def drained(self) -> None:
        """Returns once what has been asked is answered. Nothing more is to be asked."""
        is_idle = False
        while not is_idle:
            async with self.gate.alone():
                is_idle = not self.gate.waiting

    def close(self) -> None:
        self._threads.shutdown(wait=False)
        self._niced.shutdown(wait=False)
        # Others may still hold this object, for its figures.
        del self._engine

    async def _submit_blank(self) -> None:
        # What is refused or dropped under load has not failed.
        with suppress(Overloaded, DeadlineExceeded):
            await self.gate.submit(self._blank, deadlines.after(self.hang_timeout_s))

    async def mirror(self, pixels: Pixels, *, niced: bool) -> tuple[Logits | Exception, float]:
        """A real image's copy, of which nothing is counted, and how long it took; once nothing else of this version
        runs, and until it is done nothing else of it does.

        `niced`: on a thread that gives way to all others. Who has to wait for it then waits long on a busy machine.
        """
        # Whoever asked may leave: what runs on the engine runs on, and nothing may run beside it.
        running = asyncio.create_task(self._mirror(pixels, niced))
        self._mirroring.add(running)
        running.add_done_callback(self._mirroring.discard)
        return await asyncio.shield(running)

    async def _mirror(self, pixels: Pixels, niced: bool) -> tuple[Logits | Exception, float]:
        async with self.gate.alone():
            started = time.monotonic()
            (result,) = await self._run_on(self._niced if niced else self._threads, _infer, [pixels])
        return result, time.monotonic() - started

    def _full_batch_s(self, size: int) -> float:
        started = time.monotonic()
        self._engine.infer([self._blank] * size)
        return time.monotonic() - started

    async def _run(self, items: Sequence[Pixels | Traced]) -> Sequence[Logits | Exception]:
        batch = [item.pixels if isinstance(item, Traced) else item for item in items]
        started = time.monotonic()
        try:
            results = await self._run_on(self._threads, self._infer_counted, batch)
        except Exception as err:
            record_batch(items, self.info, started, time.monotonic(), err)
            raise
        ended = time.monotonic()
        record_batch(items, self.info, started, ended, results)
        if not all(isinstance(result, Exception) for result in results):
            self.last_success = ended
        if asked := sum(pixels is not self._blank for pixels in batch):
            for batches in self._batches:
                batches.add(asked, ended - started)
            self._metrics.ran(asked, self.gate.max_batch_size, ended - started)
        return results

    def _waited(self, item: Pixels | Traced, waited_s: float) -> None:
        if item is not self._blank:
            self._metrics.waited(waited_s)

    async def _run_on(
        self, threads: ThreadPoolExecutor, infer: Infer, batch: Sequence[Pixels]
    ) -> Sequence[Logits | Exception]:
        loop = asyncio.get_running_loop()
        with self._watched():
            return await loop.run_in_executor(threads, infer, self._engine, batch, len(self.info.labels))

    def _infer_counted(self, engine: Engine, batch: Sequence[Pixels], classes: int) -> Sequence[Logits | Exception]:
        taken_padding()  # What a mirror has left in this thread.
        try:
            return _infer(engine, batch, classes)
        finally:
            self._metrics.padded(taken_padding())


def _give_way() -> None:
    """Lowers the priority of this thread alone, where a thread has one of its own."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), MIRROR_NICENESS)


def _infer(engine: Engine, batch: Sequence[Pixels], classes: int) -> Sequence[Logits | Exception]:
    """For each image float32 (classes,), or why it alone has none."""
    try:
        logits = engine.infer(batch)  # (N, classes) float32
    except BaseException as err:
        # Smaller batches find the memory only if nobody keeps what this one had.
        traceback.clear_frames(err.__traceback__)
        if isinstance(err, Exception) and not isinstance(err, StopIteration):
            raise
        # A future cannot carry a StopIteration, and anything but an Exception would end the event loop.
        raise RuntimeError(f"The engine raised {type(err).__name__}.") from err
    if logits.shape != (len(batch), classes):
        raise RuntimeError(f"The engine returned the shape {logits.shape} in place of {(len(batch), classes)}.")
    not_finite = RuntimeError("The engine returned values that are not finite.")
    return [row if np.isfinite(row).all() else not_finite for row in logits]
