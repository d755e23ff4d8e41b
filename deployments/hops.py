"""The way of one model's images through the deployments behind the Ingress, in gathered calls.

A deadline is of this process's clock; what travels is the budget, the seconds that are left (deadlines.py).
"""

import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from deployments.deadlines import budget_s, within
from deployments.errors import ApertureError
from deployments.gathering import Gatherer
from deployments.messages import Pixels, Scores
from deployments.settings import Gathering, ModelSettings, PreprocessingSpec, Settings

logger = logging.getLogger("ray.serve")

Handle = DeploymentHandle[Any]
Result = TypeVar("Result")


class Hops:
    """The calls of one Ingress replica for one model."""

    def __init__(self, model: ModelSettings, settings: Settings, preprocessor: Handle, classifier: Handle) -> None:
        self._preprocessor = preprocessor
        self._classifier = classifier
        # A replica that hangs must not keep one of the calls in flight for ever.
        self._call_timeout_s = settings.limits.request_timeout_s
        bounds = settings.gathering or Gathering(max_calls=sys.maxsize, max_images=1)
        limits = {"max_calls": bounds.max_calls, "max_bytes": bounds.max_bytes}
        # All images of a model have the same spec; it changes when the model does.
        self._spec = PreprocessingSpec()
        self._preprocess: Gatherer[tuple[bytes | Pixels, float], Pixels | ApertureError] = Gatherer(
            self._call_preprocessor, max_items=bounds.max_images, **limits
        )
        # A call returns as a whole: with more than a batch in it, the first images would wait for a second batch.
        self._classify: Gatherer[tuple[Pixels, float], Scores | ApertureError] = Gatherer(
            self._call_classifier, max_items=min(bounds.max_images, model.max_batch_size), **limits
        )

    async def preprocess(
        self, image: bytes | Pixels, spec: PreprocessingSpec, deadline: float
    ) -> Pixels | ApertureError:
        self._spec = spec
        return await self._preprocess.submit((image, deadline), _size_bytes(image))

    async def classify(self, pixels: Pixels, deadline: float) -> Scores | ApertureError:
        return await self._classify.submit((pixels, deadline), pixels.nbytes)

    async def probe(self, spec: PreprocessingSpec) -> None:
        """Returns once the Preprocessor answers."""
        await self._preprocessor.preprocess.remote([(np.zeros((1, 1, 3), np.uint8), self._call_timeout_s)], spec)

    async def _call_preprocessor(
        self, images: Sequence[tuple[bytes | Pixels, float]]
    ) -> Sequence[Pixels | ApertureError]:
        def call() -> Awaitable[Sequence[Pixels | ApertureError]]:
            return self._preprocessor.preprocess.remote(_with_budgets(images), self._spec)

        async with within(self._call_timeout_s):
            return await _repeated_once(call)

    async def _call_classifier(self, jobs: Sequence[tuple[Pixels, float]]) -> Sequence[Scores | ApertureError]:
        def call() -> Awaitable[Sequence[Scores | ApertureError]]:
            return self._classifier.classify.remote(_with_budgets(jobs))

        async with within(self._call_timeout_s):
            return await _repeated_once(call)


async def _repeated_once(call: Callable[[], Awaitable[Result]]) -> Result:
    """What a replica had when it died is asked of another one. Serve itself repeats only what was not accepted yet;
    nothing that the graph does changes anything, so that twice is as good as once."""
    try:
        return await call()
    except RayActorError as err:
        logger.warning("A call is repeated, since its replica is gone: %s", type(err).__name__)
        return await call()


def _with_budgets(items: Sequence[tuple[Any, float]]) -> list[tuple[Any, float]]:
    return [(item, budget_s(deadline)) for item, deadline in items]


def _size_bytes(image: bytes | Pixels) -> int:
    return len(image) if isinstance(image, bytes) else image.nbytes
