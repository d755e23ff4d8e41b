"""Looks at a candidate every few seconds, and takes the step that its figures call for; each is in the log with them.

One Ingress replica does it for all. Where the candidate stands is in the settings that are in force, which every
replica of the model has, so that another Ingress goes on where this one ended. This module knows no Ray.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from deployments.comparison import Comparison, Trial
from deployments.metrics import count_step
from deployments.promotion import Decision, decide
from deployments.settings.promotion import Promotion

logger = logging.getLogger("ray.serve")

# How often it looks, and how soon it notices a canary that fails. A look costs a broadcast to the Ingress replicas,
# some 2 ms.
LOOK_S: Final = 2.0
# What "lately" means.
RECENT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Look:
    """What is on trial now, and what all Ingress replicas have counted of it."""

    trial: Trial
    promotion: Promotion
    comparison: Comparison


class PromotionDriver:
    """Of one model. `look` says what is on trial, if anything is; `apply` puts the candidate where it is told to be,
    for every replica, and may fail: what was not applied is due again at the next look.
    """

    def __init__(
        self,
        model: str,
        look: Callable[[], Awaitable[Look | None]],
        apply: Callable[[Promotion], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._look = look
        self._apply = apply
        self._clock = clock
        self._trial: Trial | None = None
        # What had been counted at each look of the last minute.
        self._seen: deque[tuple[float, Comparison]] = deque()
        self._told: Decision | None = None

    async def run(self) -> None:
        """Looks for as long as it is let."""
        while True:
            try:
                await self.step()
            except Exception:
                logger.exception("The candidate of model %s could not be looked at", self._model)
            await asyncio.sleep(LOOK_S)

    async def step(self) -> None:
        """One look, and what follows from it."""
        look = await self._look()
        if look is None:
            self._trial = None
            return
        self._begin(look)
        decision = decide(look.promotion, look.comparison, self._recent(look.comparison))
        if decision.stage == look.promotion.stage:
            return
        if not _is_automatic(look.promotion, decision):
            self._tell_once(look, decision)
            return
        self._log(look, decision, "goes from %s to %s", look.promotion.stage, decision.stage)
        await self._apply(look.promotion.model_copy(update={"stage": decision.stage, "reason": decision.reason}))
        count_step(self._model, look.trial.candidate, decision.stage)

    def _begin(self, look: Look) -> None:
        if look.trial == self._trial:
            return
        self._trial, self._told = look.trial, None
        self._seen.clear()
        logger.info(
            "Model %s: version %d is %s beside version %d",
            self._model,
            look.trial.candidate,
            look.trial.stage,
            look.trial.stable,
        )

    def _recent(self, total: Comparison) -> Comparison:
        now = self._clock()
        self._seen.append((now, total))
        while len(self._seen) > 1 and self._seen[1][0] <= now - RECENT_S:
            self._seen.popleft()
        earliest = self._seen[0][1]
        # At the first look all is recent.
        return total if earliest is total else total.since(earliest)

    def _tell_once(self, look: Look, decision: Decision) -> None:
        if self._told is None or self._told.stage != decision.stage:
            self._told = decision
            self._log(look, decision, "is ready to go from %s to %s by hand", look.promotion.stage, decision.stage)

    def _log(self, look: Look, decision: Decision, what: str, *args: str) -> None:
        level = logging.WARNING if decision.stage == "rolled_back" else logging.INFO
        said = f"Model %s: version %d {what}: %s"
        logger.log(level, said, self._model, look.trial.candidate, *args, decision.reason)
        # Serve's production profile writes the log in blocks of 1000 lines; a step is wanted now.
        for handler in logger.handlers:
            handler.flush()


def _is_automatic(promotion: Promotion, decision: Decision) -> bool:
    steps = promotion.automatic
    return {"canary": steps.canary, "stable": steps.stable, "rolled_back": steps.rollback}.get(decision.stage, False)
