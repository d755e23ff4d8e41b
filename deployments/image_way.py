"""The way of one image through the deployments behind the Ingress: out of the cache, or pixels and then scores.

What becomes of it is an answer or a refusal, and the model's candidacy (candidacy.py) hears of either.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray
from ray.serve.exceptions import BackPressureError

from deployments import deadlines, tracing
from deployments.admission import Place
from deployments.answer_keys import key_of
from deployments.candidacy import Candidacy
from deployments.dimensions import megapixels_of
from deployments.errors import ApertureError, BadRequest, InferenceFailed, ModelNotReady, Overloaded, VersionAbsent
from deployments.hops import Hops, ReplicaLost
from deployments.messages import Answer, ImageInput, ModelInfo, Pixels, Prepared, Scores, Stages
from deployments.model_client import ModelClient
from deployments.settings import Limits

logger = logging.getLogger("ray.serve")

Outcome = Answer | ApertureError

# When to come again if Serve holds no more calls: a batch or two later.
BACK_PRESSURE_RETRY_S = 1.0
# How soon a version that a replica lacks is asked of a replica again.
ABSENT_RETRY_S = 0.1


class ImageWay:
    def __init__(
        self,
        models: Mapping[str, ModelClient],
        candidacies: Mapping[str, Candidacy],
        limits: Limits,
        request_id: Callable[[], str],
    ) -> None:
        """`candidacies`: one for each of the models, by the time of the first image."""
        self._models = models
        self._candidacies = candidacies
        self._limits = limits
        self._request_id = request_id

    async def outcome(self, image: ImageInput, info: ModelInfo, deadline: float, place: Place) -> Outcome:
        """Of an image that was let in. Raises nothing."""
        cache = self._models[info.name].cache
        try:
            hops = self._models[info.name].hops_to(info)
            if not cache.is_on:
                return await self._computed(image, info, hops, place, deadline)
            key = await key_of(image, info, cache.generation(info.version))
            # What costs nothing says nothing of the model's rate, and is ahead of nobody.
            compute = tracing.carried(partial(self._computed, image, info, hops, place))
            return await cache.answer(key, compute, deadline, place.end)
        except ApertureError as refusal:
            return refusal
        except Exception:
            logger.exception("An image of request %s failed", self._request_id())
            return InferenceFailed("The image could not be classified because of an internal error.")

    async def mirrored(self, image: ImageInput, info: ModelInfo, niced: bool) -> Outcome:
        """As `_computed`, for the copy of an image, in a moment that real requests leave free. Raises ReplicaLost."""
        hops, deadline = self._models[info.name].hops_to(info), deadlines.after(self._limits.request_timeout_s)
        pixels = await self._pixels(image, info, hops, deadline)
        if isinstance(pixels, ApertureError):
            return pixels
        try:
            scores = await hops.mirror(pixels, deadline, niced=niced)
        except BackPressureError:
            return Overloaded("The service has requests to answer.")
        return scores if isinstance(scores, ApertureError) else _answer(info, scores, 0.0, scores.inference_s)

    async def heat(
        self, image: bytes, info: ModelInfo, index: int, deadline: float
    ) -> NDArray[np.float32] | ApertureError:
        """What the network looked at for that class, (height, width) in [0, 1]. Raises ApertureError as well."""
        hops = self._models[info.name].hops_to(info)
        try:
            pixels = await self._pixels(image, info, hops, deadline)
            return pixels if isinstance(pixels, ApertureError) else await hops.explain(pixels, index, deadline)
        except BackPressureError:
            raise Overloaded(
                "The service has more requests than it can answer in time.", BACK_PRESSURE_RETRY_S
            ) from None
        except ReplicaLost:
            raise ModelNotReady("The replica that made the heat map was lost; try again.", ABSENT_RETRY_S) from None

    async def _computed(self, image: ImageInput, info: ModelInfo, hops: Hops, place: Place, deadline: float) -> Outcome:
        """Raises ApertureError as well."""
        try:
            started = time.monotonic()
            pixels = await self._pixels(image, info, hops, deadline)
            place.decoded()
            if isinstance(pixels, ApertureError):
                return pixels
            preprocessed = time.monotonic()
            scores = await self._scores(pixels, info, hops, deadline)
            if isinstance(scores, ApertureError):
                self._candidacies[info.name].failed(info, scores)
                return scores
            answer = _answer(info, scores, preprocessed - started, time.monotonic() - preprocessed)
            self._candidacies[info.name].answered(image, pixels, answer)
            return answer
        except BackPressureError:
            raise Overloaded(
                "The service has more requests than it can answer in time; try again.", BACK_PRESSURE_RETRY_S
            ) from None

    async def _pixels(self, image: ImageInput, info: ModelInfo, hops: Hops, deadline: float) -> Pixels | ApertureError:
        if not isinstance(image, Prepared):
            return await hops.preprocess(image, deadline)
        side = info.preprocessing.crop_size
        if image.pixels.shape != (side, side, 3):
            return BadRequest(
                f"A preprocessed image for {info.name!r} has {side} x {side} pixels of 3 channels, not the shape "
                f"{image.pixels.shape}."
            )
        return image.pixels

    async def _scores(self, pixels: Pixels, info: ModelInfo, hops: Hops, deadline: float) -> Scores | ApertureError:
        while True:
            scores = await hops.classify(pixels, deadline)
            if not isinstance(scores, VersionAbsent) or not self._models[info.name].has(info):
                return scores
            # Another replica has it, and the router is about to hear which.
            await asyncio.sleep(ABSENT_RETRY_S)


def size_bytes(image: ImageInput | ApertureError) -> int:
    if isinstance(image, bytes):
        return len(image)
    return 0 if isinstance(image, ApertureError) else _pixels_of(image).nbytes


def megapixels_in(image: ImageInput | ApertureError, limits: Limits) -> float:
    """That are to be decoded, or resized. A header may say anything; what has more than may be is refused."""
    if isinstance(image, bytes):
        return min(megapixels_of(image), limits.max_pixels / 1e6)
    return 0.0 if isinstance(image, ApertureError) else _pixels_of(image).size / 3e6


def _pixels_of(image: Pixels | Prepared) -> Pixels:
    return image.pixels if isinstance(image, Prepared) else image


def _answer(info: ModelInfo, scores: Scores, preprocess_s: float, classify_s: float) -> Answer:
    stages = Stages(preprocess_s, queue_s=classify_s - scores.inference_s, inference_s=scores.inference_s)
    return Answer.of(info, scores.logits, stages, scores.batch_size)
