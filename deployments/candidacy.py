"""A model's candidate as one Ingress replica sees it: what is on trial, what is counted of it, and where mirrors go.

What is on trial follows from the settings that are in force and from the versions that are announced: a candidate that
is not there is not on trial.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from deployments.comparison import Comparisons, Trial
from deployments.errors import ApertureError, InferenceFailed
from deployments.hops import ReplicaLost
from deployments.messages import Answer, ImageInput, ModelInfo, Override, Pixels
from deployments.model_client import ModelClient
from deployments.promotion import Report
from deployments.promotion_driver import Look, PromotionDriver
from deployments.settings import LiveSettings
from deployments.settings.promotion import Promotion
from deployments.shadowing import Mirrors, Target
from deployments.trial_metrics import TrialMetrics

logger = logging.getLogger("ray.serve")

# How often the metrics follow what was counted.
METRICS_S: Final = 5.0
# A replica may end for many reasons while a mirror is on it; when so many have, mirrors are taken to be the reason, and
# there are none any more. Others wait meanwhile for what a replica had.
MAX_LOST: Final = 2


class Candidacy:
    def __init__(
        self,
        model: ModelClient,
        ask: Callable[[ImageInput, ModelInfo, bool], Awaitable[Answer | ApertureError]],
        images_in_hand: Callable[[], int],
        of_all_replicas: Callable[[str], Awaitable[Sequence[Comparisons]]],
        is_first: Callable[[], bool],
    ) -> None:
        """`ask` asks the candidate, and is told whether on a thread that gives way to others; it may raise ReplicaLost.

        `of_all_replicas`: what every Ingress has counted of the model of that name. `is_first`: whether this Ingress is
        the one that looks after promotions.
        """
        self.counted = Comparisons()
        self._model = model
        self._name = model.catalogue.name
        self._images_in_hand = images_in_hand
        self._of_all_replicas = of_all_replicas
        self._is_first = is_first
        self._ask = ask
        # Replicas that ended while a mirror was on them, in this trial.
        self._lost: dict[Trial, int] = {}
        self._mirrors = Mirrors(self._target, self._mirror, self._is_free)
        self._driver = PromotionDriver(self._name, self._look, self._apply)
        self._metrics = TrialMetrics(self._name)
        self._digest: tuple[LiveSettings | None, str] = (None, "")
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to look after the promotion and the metrics. Needs a running event loop."""
        self._tasks = [asyncio.create_task(self._driver.run()), asyncio.create_task(self._export())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._mirrors.close()

    # What the data plane tells, for each image

    def answered(self, image: ImageInput, pixels: Pixels, answer: Answer) -> None:
        """A version has classified an image, which may be mirrored. Returns at once."""
        self.counted.answered(answer.info.version, answer.stages.total_s(), self._trial())
        self._mirrors.offer(image, pixels, answer)

    def failed(self, info: ModelInfo, error: ApertureError) -> None:
        """An image has no answer. What was refused or came too late is no failure of the version."""
        if isinstance(error, InferenceFailed):
            self.counted.failed(info.version, self._trial())

    def freed(self) -> None:
        """A request is done."""
        self._mirrors.freed()

    # What anybody may want to know

    async def report(self) -> Report:
        """Of all Ingress replicas together."""
        counted = Comparisons()
        for replica in await self._of_all_replicas(self._name):
            counted.merge(replica)
        return Report(self._name, self._model.live.promotion, self._trial(), counted)

    # What is on trial

    def _trial(self) -> Trial | None:
        live, catalogue = self._model.live, self._model.catalogue
        if live.shadow is None:
            return None
        candidate = catalogue.info_under(live.shadow.candidate)
        stable = catalogue.default() if live.default is None else catalogue.info_under(live.default)
        if candidate is None or stable is None or candidate is stable:
            return None
        stage = "shadow" if live.promotion is None else live.promotion.stage
        return Trial(self._configuration(), stable.version, candidate.version, stage)

    def _configuration(self) -> str:
        base = self._model.base
        if base is not self._digest[0]:
            self._digest = base, hashlib.sha256(base.model_dump_json().encode()).hexdigest()[:16]
        return self._digest[1]

    def _target(self) -> Target | None:
        trial, shadow = self._trial(), self._model.live.shadow
        if trial is None or shadow is None or trial.stage not in ("shadow", "canary"):
            return None
        if self._lost.get(trial, 0) >= MAX_LOST:
            return None
        candidate = self._model.catalogue.infos[trial.candidate]
        return Target(candidate, trial.stable, shadow.share, self.counted.of(trial))

    async def _mirror(self, image: ImageInput, candidate: ModelInfo) -> Answer | ApertureError:
        trial = self._trial()
        try:
            # Nobody waits for a candidate that gets no requests.
            return await self._ask(image, candidate, trial is not None and trial.stage == "shadow")
        except ReplicaLost:
            if trial is not None:
                self._lost = {trial: self._lost.get(trial, 0) + 1}
                logger.error(
                    "A replica of model %s has ended while its version %d had a mirrored image, %d of %d times",
                    self._name,
                    candidate.version,
                    self._lost[trial],
                    MAX_LOST,
                )
            return InferenceFailed("The replica has ended.")

    def _is_free(self) -> bool:
        """Whether a replica has nothing to do, and another one as little, for the next request that comes."""
        in_hand = self._images_in_hand()
        return in_hand == 0 or in_hand + 1 < len(self._model.statuses)

    # What the driver needs

    async def _look(self) -> Look | None:
        promotion = self._model.live.promotion
        if promotion is None or not self._is_first() or self._trial() is None:
            return None
        report = await self.report()
        trial, promotion = self._trial(), self._model.live.promotion
        if trial is None or promotion is None:
            return None
        return Look(trial, promotion, report.counted.of(trial))

    async def _apply(self, promotion: Promotion) -> None:
        model = self._model
        if any(replica.base != model.base or replica.live != model.live for replica in model.statuses):
            return  # A configuration is just coming in; with it, this step may not be due any more.
        if model.catalogue.is_unloaded:
            return
        latest = model.catalogue.override
        # Later than what is in force, whatever the clock of the machine that made that.
        sequence = max(time.time_ns(), 0 if latest is None else latest.sequence + 1)
        live = model.live.model_copy(update={"promotion": promotion})
        if not all(await model.override(Override(model.base, sequence, live))):
            logger.warning("Something else is just changing the model %s; its candidate waits", self._name)
        await model.refresh()

    async def _export(self) -> None:
        while True:
            await asyncio.sleep(METRICS_S)
            try:
                self._metrics.export(self.counted)
            except Exception:
                logger.exception("The figures of model %s could not be exported", self._name)
