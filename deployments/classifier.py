"""The Classifier deployment: one per model, named after it. Pixels in, scores out, in batches on its device.

`@serve.batch` collects what arrives together, the merge gate decides what runs together, the engine runs it on a thread
of its own so that the event loop stays free for health checks and cancellations.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray import serve

from deployments.batching import MergeGate, Timed
from deployments.engines import create_engine
from deployments.engines.base import Engine
from deployments.errors import ApertureError, ConfigError
from deployments.messages import Logits, ModelInfo, Pixels, Scores
from deployments.settings import LiveSettings, ModelSettings, check_batch_can_fill, live_batch_size, with_threads
from deployments.statistics import BatchStatistics
from deployments.workload import Workload

logger = logging.getLogger("ray.serve")

Job = tuple[Pixels, float]  # pixels, and seconds: left for the caller, or a deadline in time.monotonic()
Outcome = asyncio.Future[Timed[Logits]]


class Classifier:
    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        try:
            check_batch_can_fill(settings, serve.get_replica_context()._deployment_config.max_ongoing_requests)
            cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
            self._engine = create_engine(with_threads(settings, cores))
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
        logger.info("Model %s is warm: %s", settings.name, self._info)
        # Serve's production profile writes the log in blocks of 1000 lines; how the model was chosen is wanted now.
        for handler in logger.handlers:
            handler.flush()

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

    async def _scores(self, outcome: Outcome) -> Scores | ApertureError:
        try:
            timed = await outcome
        except ApertureError as refusal:
            return refusal
        return Scores(timed.result, self._info.version, timed.run_s)

    @serve.batch(max_batch_size=1, batch_wait_timeout_s=0.0)
    async def _collect(self, calls: list[list[Job]]) -> list[list[Outcome]]:
        # Returns at once with futures, so that no call waits for the batch of another.
        return [[self._gate.submit(pixels, deadline) for pixels, deadline in jobs] for jobs in calls]

    async def _run(self, batch: Sequence[Pixels]) -> Sequence[Logits]:
        started = time.monotonic()
        logits = await asyncio.get_running_loop().run_in_executor(self._runners, _infer, self._engine, batch)
        self._workload.batches.add(len(batch), time.monotonic() - started)
        return logits


def _infer(engine: Engine, batch: Sequence[Pixels]) -> Sequence[Logits]:
    logits = engine.infer(batch)  # (N, classes) float32
    if not np.isfinite(logits).all():
        raise RuntimeError("The engine returned values that are not finite.")
    return list(logits)
