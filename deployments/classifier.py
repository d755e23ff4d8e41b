"""The Classifier deployment: one per model, named after it. Pixels in, scores out, in batches on its device.

`@serve.batch` collects what arrives together, the merge gate of the version that is asked for decides what runs
together (served.py), the engine runs it on a thread of its own so that the event loop stays free for health checks and
cancellations. Which versions there are is versions.py's to say, and preparation.py loads them beside each other.

A replica that is no good ends itself, and another one takes its place: when a batch hangs, when native code crashes,
and when an image has failed and a blank one fails as well.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve

from deployments import deadlines, tracing
from deployments.engines import create_engine
from deployments.engines.base import Engine
from deployments.engines.explanation import Explainer
from deployments.errors import ApertureError, ConfigError, DeadlineExceeded, InferenceFailed, Overloaded, VersionAbsent
from deployments.messages import ModelInfo, Override, Pixels, ReplicaStatus, Scores, State
from deployments.metrics import expect_in
from deployments.preparation import Preparation
from deployments.served import Outcome, ServedVersion
from deployments.settings import (
    LiveSettings,
    ModelSettings,
    Traces,
    check_batch_can_fill,
    live_batch_size,
    with_threads,
)
from deployments.statistics import BatchStatistics
from deployments.tracing import ImageTrace
from deployments.version_metrics import VersionMetrics
from deployments.versions import VersionSet
from deployments.watchdog import Watchdog, die_of_crashes, end_process
from deployments.work_spans import Traced
from deployments.workload import Workload

logger = logging.getLogger("ray.serve")

Job = tuple[Pixels, float]  # pixels, and how many seconds are left for the caller
Item = tuple[Pixels | Traced, float]  # and a deadline in time.monotonic()

# How long an idle replica goes without a blank image. It costs what an image costs: 0.5 % of a core at 50 ms.
IDLE_CHECK_S = 10.0
# By then Ingress replicas know what there is (catalogue.POLL_S).
ABSENT_RETRY_S = 1.0


class Classifier:
    def __init__(
        self,
        settings: ModelSettings,
        load: Callable[[ModelSettings, int | None], Engine] = create_engine,
        traces: Traces | None = None,
    ) -> None:
        """`load`: what makes the engine of a version."""
        self._traces = traces
        die_of_crashes()
        expect_in("Classifier")
        self._watchdog = Watchdog(settings.hang_timeout_s)
        self._workload = Workload(runners=1)
        try:
            config = serve.get_replica_context()._deployment_config
            check_batch_can_fill(settings, config.max_ongoing_requests)
            if traces is not None:
                tracing.start(traces, serve.get_replica_context())
            cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
            self._settings = with_threads(settings, cores)
            self._explainer = Explainer(self._settings)
            self._preparation = Preparation(self._settings, load, self._watchdog, self._workload)
            self._base = self._live = LiveSettings.model_validate(config.user_config or {})
            self._override: Override | None = None
            self._versions: VersionSet[ServedVersion] = VersionSet(
                settings.name, self._preparation.on_disk, self._preparation.load_beside, self._states_of_all
            )
            self._batch_size = live_batch_size(settings, self._live)
            self._versions.load_first(self._live.versions, self._preparation.load)
        except ConfigError as err:
            logger.error("Model %s cannot be served: %s", settings.name, err)
            # Without the frames of the loader: the sentence is what `serve status` is to show.
            raise ConfigError(str(err)) from None
        self._is_watched = False
        self._version_metrics = VersionMetrics(settings.name)
        self._set_batch_size()
        for version in self._versions.serving():
            logger.info("Model %s is warm: %s", settings.name, self._served(version).info)
        # Serve's production profile writes the log in blocks of 1000 lines; how the model was chosen is wanted now.
        for handler in logger.handlers:
            handler.flush()

    async def check_health(self) -> None:
        """Raises InferenceFailed if a blank image fails on the way that images go.

        Serve calls this every health_check_period_s, and first when the replica is ready. Under load the batches that
        come through say as much, and it costs nothing. One that runs is the watchdog's.
        """
        self._watchdog.start()
        if not self._is_watched:
            self._is_watched = True
            self._apply()
        serving = self._versions.serving()
        self._version_metrics.export(self._versions.statuses(), [self._served(version).info for version in serving])
        for version in serving:
            served = self._served(version)
            if not self._watchdog.is_busy and time.monotonic() - served.last_success > IDLE_CHECK_S:
                await served.run_blank()

    # What changes while it serves. All of it async: the rest Serve runs on threads, beside the event loop.

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Applies `user_config` while the model serves: what takes long goes on in the background.

        One that is wrong leaves everything as it is, and the log says why: Serve would end the replica, and then every
        one after it.
        """
        try:
            live = LiveSettings.model_validate(user_config)
            live_batch_size(self._settings, live)
        except ConfigError as err:
            logger.error("The user_config of model %s is not applied: %s", self._settings.name, err)
            return
        if live != self._base:
            self._base, self._override = live, None
            self._apply()

    async def override(self, override: Override) -> bool:
        """Whether it is in force: not if something later is, or it was made for another configuration."""
        if override.base != self._base:
            return False
        if self._override is None or override.sequence > self._override.sequence:
            self._override = override
            self._apply()
        return self._override.sequence == override.sequence

    async def look_again(self) -> None:
        """At what is on disk, and at versions that have failed."""
        self._versions.look_again()

    def _apply(self) -> None:
        override = self._override
        self._live = live = self._base if override is None else override.live
        self._batch_size = live_batch_size(self._settings, live)
        self._set_batch_size()
        is_unloaded = override is not None and override.unloaded
        self._versions.want(None if is_unloaded else live.versions, live.poll_s)

    def _set_batch_size(self) -> None:
        for version in self._versions.serving():
            self._served(version).gate.max_batch_size = self._batch_size
        self._preparation.max_batch_size = self._batch_size
        self._collect.set_max_batch_size(self._batch_size)  # type: ignore[attr-defined]

    async def _states_of_all(self) -> Sequence[Mapping[int, State]]:
        """Of every replica of this model."""
        handle = serve.get_deployment_handle(serve.get_replica_context().deployment)
        statuses: Sequence[ReplicaStatus] = await handle.broadcast("status").results_async()
        return [{each.version: each.state for each in status.versions} for status in statuses]

    # What it says of itself

    async def status(self) -> ReplicaStatus:
        return ReplicaStatus(
            self._versions.statuses(), self._live, self._override, self._versions.is_loading, self._versions.fault
        )

    async def describe(self, version: int | None = None) -> ModelInfo | None:
        """Of that version, or the highest; None if it is not here. A replica answers once its constructor is done."""
        serving = self._versions.serving()
        served = self._versions.get(max(serving, default=-1) if version is None else version)
        return None if served is None else served.info

    async def batch_statistics(self) -> Mapping[int, BatchStatistics]:
        """What each version has run here."""
        return self._preparation.batches

    def record_routing_stats(self) -> dict[str, Any]:
        """What the router goes by (routing.py). Serve calls this every request_routing_stats_period_s."""
        return {"versions": list(self._versions.serving())}

    async def batches_before(self, end: int) -> Counter[int]:
        """What has run here in the minute before `end`, seconds since 1970: batches by how many images they had."""
        return self._preparation.recent.minute_before(end)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What autoscaling goes by (deployments/autoscaling.py). Serve calls this every metrics_interval_s."""
        gates = [self._served(version).gate for version in self._versions.serving()]
        return self._workload.figures(
            waiting=sum(gate.waiting for gate in gates),
            queue_s=self._preparation.queue_s(),
            max_batch_size=self._batch_size,
        )

    # Images

    async def classify(
        self, jobs: Sequence[Job], version: int, traces: Sequence[ImageTrace | None] | None = None
    ) -> Sequence[Scores | ApertureError]:
        """Scores for each image, or the reason why it has none; VersionAbsent for all if that version is not here.

        A job is uint8 (crop_size, crop_size, 3) pixels and for how many seconds the caller still waits; work that would
        start later is dropped. `traces`: of each image, where there are any.
        """
        self._workload.arrive(len(jobs))
        served = self._versions.get(version)
        if served is None:
            return [self._absent(version)] * len(jobs)
        now = time.monotonic()
        items = [
            (pixels if trace is None else Traced(pixels, trace, now), now + budget_s)
            for (pixels, budget_s), trace in zip(jobs, traces or [None] * len(jobs), strict=True)
        ]
        outcomes = await self._collect((served, items))
        return await asyncio.gather(*(self._scores(served, outcome) for outcome in outcomes))

    async def classify_alone(
        self, job: Job, version: int, traces: Sequence[ImageTrace | None] = (None,)
    ) -> AsyncGenerator[Scores | ApertureError | None, None]:
        """As `classify`, for an image that another replica may have died of.

        First None, once nothing else of that version runs here: if this replica dies from now on, then of this image.
        """
        (pixels, budget_s), (trace,) = job, traces
        item = pixels if trace is None else Traced(pixels, trace, time.monotonic())
        deadline = deadlines.after(budget_s)
        self._workload.arrive(1)
        served = self._versions.get(version)
        if served is None:
            yield self._absent(version)
            return
        async with served.gate.alone() as run_alone:
            if time.monotonic() > deadline:
                yield DeadlineExceeded("The deadline passed while the image waited for a batch.")
                return
            # Serve sends it before it asks for more.
            yield None
            outcome = await run_alone(item)
        yield await self._scores(served, outcome)

    async def mirror(self, job: Job, version: int, *, niced: bool) -> Scores | ApertureError:
        """As `classify`, for the copy of an image that another version has answered; Overloaded if this replica has
        anything real to do. It counts for nothing here, and no failure of it is taken for one of this replica.
        """
        served = self._versions.get(version)
        if served is None:
            return self._absent(version)
        if not all(self._served(each).gate.is_idle for each in self._versions.serving()):
            return Overloaded("The replica has requests to answer.")
        try:
            result, run_s = await served.mirror(job[0], niced=niced)
        except ApertureError as failure:
            return failure
        except Exception as err:
            result = err
        if isinstance(result, Exception):
            logger.error("Version %d failed on a mirrored image", version, exc_info=result)
            return InferenceFailed("The model failed on this image.")
        return Scores(result, version, run_s)

    async def explain(self, job: Job, index: int, version: int) -> NDArray[np.float32] | ApertureError:
        """Where in the pixels of `job` that version finds what speaks for the class `index`: float32 (h, w) in [0, 1].

        Beside what is served, in a process that gives way to it (engines/explanation.py); one at a time.
        """
        served = self._versions.get(version)
        if served is None:
            return self._absent(version)
        pixels, budget_s = job
        try:
            return await self._explainer.explain(served.info, pixels, index, budget_s)
        except ApertureError as refusal:
            return refusal

    async def _scores(self, served: ServedVersion, outcome: Outcome) -> Scores | ApertureError:
        try:
            timed = await outcome
        except InferenceFailed as failure:
            await self._check_engine(served)
            return failure
        except ApertureError as refusal:
            return refusal
        return Scores(timed.result, served.info.version, timed.run_s, timed.batch_size)

    async def _check_engine(self, served: ServedVersion) -> None:
        """Returns if it was the image's fault. Otherwise this process ends, and others run what waits here."""
        try:
            await served.run_blank()
        except InferenceFailed:
            end_process("the engine failed on a blank image, too.")

    @serve.batch(max_batch_size=1, batch_wait_timeout_s=0.0)
    async def _collect(self, calls: list[tuple[ServedVersion, list[Item]]]) -> list[list[Outcome]]:
        # Returns at once with futures, so that no call waits for the batch of another.
        return [[served.gate.submit(pixels, deadline) for pixels, deadline in items] for served, items in calls]

    def __del__(self) -> None:
        """Serve calls this when nothing is asked any more, before it ends the process."""
        if self._traces is not None:
            tracing.stop()

    def _served(self, version: int) -> ServedVersion:
        served = self._versions.get(version)
        assert served is not None
        return served

    def _absent(self, version: int) -> VersionAbsent:
        message = f"Version {version} of the model {self._settings.name!r} has just changed; try again."
        return VersionAbsent(message, ABSENT_RETRY_S)
