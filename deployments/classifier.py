"""The Classifier deployment: one per model, named after it. Pixels in, scores out, in batches on its device.

`@serve.batch` collects what arrives together, the merge gate decides what runs together, the engine runs it on a thread
of its own so that the event loop stays free for health checks and cancellations.

A replica that is no good ends itself, and another one takes its place: when a batch hangs, when native code crashes,
and when an image has failed and a blank one fails as well.
"""

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray import serve

from deployments import deadlines
from deployments.batching import MergeGate, Timed
from deployments.engines import create_engine
from deployments.engines.base import Engine
from deployments.errors import ApertureError, ConfigError, DeadlineExceeded, InferenceFailed, Overloaded
from deployments.messages import Logits, ModelInfo, Pixels, Scores
from deployments.settings import LiveSettings, ModelSettings, check_batch_can_fill, live_batch_size, with_threads
from deployments.statistics import BatchStatistics
from deployments.watchdog import Watchdog, die_of_crashes, end_process
from deployments.workload import Workload

logger = logging.getLogger("ray.serve")

Job = tuple[Pixels, float]  # pixels, and seconds: left for the caller, or a deadline in time.monotonic()
Outcome = asyncio.Future[Timed[Logits]]

# How long an idle replica goes without a blank image. It costs what an image costs: 0.5 % of a core at 50 ms.
IDLE_CHECK_S = 10.0
# A batch that takes as long as so many full ones has hung, whatever hang_timeout_s says: a full batch of a large model
# on a CPU takes seconds, and several times that when others want its cores.
HANG_BATCHES = 10


class Classifier:
    def __init__(self, settings: ModelSettings, load: Callable[[ModelSettings], Engine] = create_engine) -> None:
        """`load`: what makes the engine."""
        die_of_crashes()
        self._settings = settings
        try:
            check_batch_can_fill(settings, serve.get_replica_context()._deployment_config.max_ongoing_requests)
            cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
            self._engine = load(with_threads(settings, cores))
        except ConfigError as err:
            logger.error("Model %s cannot be served: %s", settings.name, err)
            # Without the frames of the loader: the sentence is what `serve status` is to show.
            raise ConfigError(str(err)) from None
        self._info = replace(self._engine.info(), inputs=settings.inputs, outputs=settings.outputs)
        runners = self._engine.runners()
        self._runners = ThreadPoolExecutor(runners, thread_name_prefix="engine")
        self._gate: MergeGate[Pixels, Logits] = MergeGate(self._run, settings.max_batch_size, runners)
        self._workload = Workload(runners)
        self._set_max_batch_size(settings.max_batch_size)
        side = self._info.preprocessing.crop_size
        self._blank: Pixels = np.zeros((side, side, 3), np.uint8)
        self._blank_run: asyncio.Task[None] | None = None
        self._last_success = 0.0  # time.monotonic()
        self._hang_timeout_s = max(settings.hang_timeout_s, HANG_BATCHES * self._full_batch_s())
        self._watchdog = Watchdog(self._hang_timeout_s)
        logger.info("Model %s is warm: %s", settings.name, self._info)
        # Serve's production profile writes the log in blocks of 1000 lines; how the model was chosen is wanted now.
        for handler in logger.handlers:
            handler.flush()

    async def check_health(self) -> None:
        """Raises InferenceFailed if a blank image fails on the way that images go.

        Serve calls this every health_check_period_s, and first when the replica is ready. Under load the batches that
        come through say as much, and it costs nothing. One that runs is the watchdog's.
        """
        self._watchdog.start()
        if not self._watchdog.is_busy and time.monotonic() - self._last_success > IDLE_CHECK_S:
            await self._run_blank()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Applies `user_config` while the model serves. Raises ConfigError if it does not fit."""
        self._set_max_batch_size(live_batch_size(self._settings, LiveSettings.model_validate(user_config)))

    def _set_max_batch_size(self, max_batch_size: int) -> None:
        self._gate.max_batch_size = max_batch_size
        self._collect.set_max_batch_size(max_batch_size)  # type: ignore[attr-defined]

    def describe(self) -> ModelInfo:
        """Returned once the model is warm: a replica answers nothing before its constructor is done."""
        return self._info

    def batch_statistics(self) -> BatchStatistics:
        """What this replica has run."""
        return self._workload.batches

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What autoscaling goes by (deployments/autoscaling.py). Serve calls this every metrics_interval_s."""
        gate = self._gate
        return self._workload.figures(waiting=gate.waiting, queue_s=gate.queue_s, max_batch_size=gate.max_batch_size)

    async def classify(self, jobs: Sequence[Job]) -> Sequence[Scores | ApertureError]:
        """Scores for each image, or the reason why it has none.

        A job is uint8 (crop_size, crop_size, 3) pixels and for how many seconds the caller still waits; work that would
        start later is dropped.
        """
        self._workload.arrive(len(jobs))
        now = time.monotonic()
        outcomes = await self._collect([(pixels, now + budget_s) for pixels, budget_s in jobs])
        return await asyncio.gather(*(self._scores(outcome) for outcome in outcomes))

    async def classify_alone(self, job: Job) -> AsyncGenerator[Scores | ApertureError | None, None]:
        """As `classify`, for an image that another replica may have died of.

        First None, once nothing else runs here: if this replica dies from now on, then of this image.
        """
        pixels, budget_s = job
        deadline = deadlines.after(budget_s)
        self._workload.arrive(1)
        async with self._gate.alone() as run_alone:
            if time.monotonic() > deadline:
                yield DeadlineExceeded("The deadline passed while the image waited for a batch.")
                return
            # Serve sends it before it asks for more.
            yield None
            outcome = await run_alone(pixels)
        yield await self._scores(outcome)

    async def _scores(self, outcome: Outcome) -> Scores | ApertureError:
        try:
            timed = await outcome
        except InferenceFailed as failure:
            await self._check_engine()
            return failure
        except ApertureError as refusal:
            return refusal
        return Scores(timed.result, self._info.version, timed.run_s)

    async def _check_engine(self) -> None:
        """Returns if it was the image's fault. Otherwise this process ends, and others run what waits here."""
        try:
            await self._run_blank()
        except InferenceFailed:
            end_process("the engine failed on a blank image, too.")

    def _full_batch_s(self) -> float:
        started = time.monotonic()
        self._engine.infer([self._blank] * self._settings.max_batch_size)
        return time.monotonic() - started

    async def _run_blank(self) -> None:
        """One at a time, for all who want to know. Raises InferenceFailed."""
        if self._blank_run is None or self._blank_run.done():
            self._blank_run = asyncio.create_task(self._submit_blank())
        await asyncio.shield(self._blank_run)

    async def _submit_blank(self) -> None:
        # What is refused or dropped under load has not failed.
        with suppress(Overloaded, DeadlineExceeded):
            await self._gate.submit(self._blank, deadlines.after(self._hang_timeout_s))

    @serve.batch(max_batch_size=1, batch_wait_timeout_s=0.0)
    async def _collect(self, calls: list[list[Job]]) -> list[list[Outcome]]:
        # Returns at once with futures, so that no call waits for the batch of another.
        return [[self._gate.submit(pixels, deadline) for pixels, deadline in jobs] for jobs in calls]

    async def _run(self, batch: Sequence[Pixels]) -> Sequence[Logits | Exception]:
        started, loop = time.monotonic(), asyncio.get_running_loop()
        with self._watchdog.batch():
            results = await loop.run_in_executor(self._runners, _infer, self._engine, batch, len(self._info.labels))
        ended = time.monotonic()
        if not all(isinstance(result, Exception) for result in results):
            self._last_success = ended
        if asked := sum(pixels is not self._blank for pixels in batch):
            self._workload.batches.add(asked, ended - started)
        return results


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
