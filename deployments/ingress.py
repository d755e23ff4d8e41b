"""The Ingress deployment: protocols, limits and deadlines in front of the graph. It decodes nothing.

It is the data plane that every protocol calls: an image goes to the Preprocessor, its pixels to the model's Classifier,
and the scores become an answer. A failing image never fails its neighbours.
"""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from grpc_health.v1 import health_pb2
from ray import serve
from ray.exceptions import RayError
from ray.serve._private.constants import RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH, RAY_SERVE_USE_GRPC_BY_DEFAULT
from ray.serve.exceptions import BackPressureError
from ray.serve.grpc_util import RayServegRPCContext
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette

from deployments.errors import (
    ApertureError,
    BadRequest,
    BodyTooLarge,
    DeadlineExceeded,
    InferenceFailed,
    ModelNotReady,
    Overloaded,
    TooManyImages,
    UnknownModel,
)
from deployments.gathering import Gatherer
from deployments.messages import Answer, ImageInput, Logits, ModelInfo, Pixels, Scores, Stages
from deployments.protocols import health
from deployments.protocols.http import asgi_app
from deployments.protocols.oip import rest as oip_rest
from deployments.protocols.predict import DEFAULT_TOP_K, checked_top_k, render_many, render_one
from deployments.protocols.predict import routes as predict_routes
from deployments.settings import Gathering, Limits, ModelSettings, Settings, check_messages_fit

logger = logging.getLogger("ray.serve")

Handle = DeploymentHandle[Any]

Job = tuple[Pixels, float]  # pixels, deadline in time.monotonic() seconds

# How soon a model that failed to answer is asked again whether it is warm.
DESCRIBE_RETRY_S = 1.0


@dataclass(frozen=True)
class Hops:
    """The way of one model's images through the deployments behind."""

    preprocess: Gatherer[ImageInput, Pixels | ApertureError]
    classify: Gatherer[Job, Scores | ApertureError]


@serve.ingress()
class Ingress:
    def __init__(self, settings: Settings, preprocessor: Handle, classifiers: dict[str, Handle]) -> None:
        if RAY_SERVE_USE_GRPC_BY_DEFAULT:
            check_messages_fit(settings, RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH)
        self._limits = settings.limits
        self._preprocessor = _on_this_loop(preprocessor)
        self._classifiers = {name: _on_this_loop(classifier) for name, classifier in classifiers.items()}
        self._hops = {model.name: self._hops_of(model, settings.gathering) for model in settings.models}
        self._models: dict[str, ModelInfo | None] = dict.fromkeys(classifiers)
        self._watchers: set[asyncio.Task[None]] = set()

    def __serve_build_asgi_app__(self) -> Starlette:
        for name in self._classifiers:
            self._watch(name)
        return asgi_app([*predict_routes(self), *oip_rest.routes(self)], self._limits, _request_id)

    # Python handles: serve.get_app_handle("aperture").predict.remote(image)

    async def predict(self, image: Any, top_k: int = DEFAULT_TOP_K, model: str | None = None) -> dict[str, Any]:
        """The body of POST /predict as a dict, for encoded bytes, uint8 (H, W, 3) pixels or an ObjectRef of either.

        Raises ApertureError, the one that HTTP answers with.
        """
        (answer,) = await self._classify_inputs([image], top_k, model)
        if isinstance(answer, ApertureError):
            raise answer
        return render_one(answer, top_k, _request_id())

    async def predict_many(
        self, images: Sequence[Any], top_k: int = DEFAULT_TOP_K, model: str | None = None
    ) -> dict[str, Any]:
        """As `predict` for several images: "results" keeps their order, and a bad image has "error" and "code"."""
        answers = await self._classify_inputs(images, top_k, model)
        return render_many(answers, self.info_of(model), top_k, _request_id())

    async def _classify_inputs(
        self, images: Sequence[Any], top_k: int, model: str | None
    ) -> list[Answer | ApertureError]:
        checked_top_k(top_k)
        self.check_count(len(images))
        async with _within(self._limits.request_timeout_s):
            resolved = await asyncio.gather(*(_resolve(image, self._limits) for image in images))
        return await self.classify(resolved, model)

    # The data plane

    def ready_models(self) -> dict[str, ModelInfo | None]:
        return dict(self._models)

    def info_of(self, model: str | None) -> ModelInfo:
        name = next(iter(self._models)) if model is None else model
        if name not in self._models:
            raise UnknownModel(f"There is no model {name!r}; this service has {', '.join(self._models)}.")
        info = self._models[name]
        if info is None:
            raise ModelNotReady(f"The model {name!r} is still loading.")
        return info

    def check_count(self, images: int) -> None:
        if images > self._limits.max_images:
            raise TooManyImages(f"The request has {images} images; at most {self._limits.max_images} are allowed.")

    async def classify(
        self, images: Sequence[ImageInput | ApertureError], model: str | None
    ) -> list[Answer | ApertureError]:
        info = self.info_of(model)
        self.check_count(len(images))
        deadline = time.monotonic() + self._limits.request_timeout_s
        async with _within(self._limits.request_timeout_s):
            return await asyncio.gather(*(self._classify_one(image, info, deadline) for image in images))

    async def _classify_one(
        self, image: ImageInput | ApertureError, info: ModelInfo, deadline: float
    ) -> Answer | ApertureError:
        if isinstance(image, ApertureError):
            return image
        hops = self._hops[info.name]
        try:
            started = time.monotonic()
            pixels = await hops.preprocess.submit(image, _size_bytes(image))
            if isinstance(pixels, ApertureError):
                return pixels
            preprocessed = time.monotonic()
            scores = await hops.classify.submit((pixels, deadline), pixels.nbytes)
            if isinstance(scores, ApertureError):
                return scores
            if scores.version != info.version:
                return self._describe_again(info)
            return _answer(info, scores, preprocessed - started, time.monotonic() - preprocessed)
        except ApertureError as refusal:
            return refusal
        except BackPressureError:
            return Overloaded("The service has more requests than it can answer in time; try again.")
        except Exception:
            logger.exception("An image of request %s failed", _request_id())
            return InferenceFailed("The image could not be classified because of an internal error.")

    def _hops_of(self, model: ModelSettings, gathering: Gathering | None) -> Hops:
        name = model.name

        async def preprocess(images: Sequence[ImageInput]) -> Sequence[Pixels | ApertureError]:
            # A replica that hangs must not keep one of the calls in flight for ever.
            async with _within(self._limits.request_timeout_s):
                pixels: Sequence[Pixels | ApertureError] = await self._preprocessor.preprocess.remote(
                    images, self.info_of(name).preprocessing
                )
            return pixels

        async def classify(jobs: Sequence[Job]) -> Sequence[Scores | ApertureError]:
            now = time.monotonic()  # Clocks of other machines differ, so what travels is the time that is left.
            async with _within(self._limits.request_timeout_s):
                scores: Sequence[Scores | ApertureError] = await self._classifiers[name].classify.remote(
                    [(pixels, deadline - now) for pixels, deadline in jobs]
                )
            return scores

        bounds = gathering or Gathering(max_calls=sys.maxsize, max_images=1)
        limits = {"max_calls": bounds.max_calls, "max_bytes": bounds.max_bytes}
        # A call returns as a whole: with more than a batch in it, the first images would wait for a second batch.
        batch = min(bounds.max_images, model.max_batch_size)
        return Hops(
            Gatherer(preprocess, max_items=bounds.max_images, **limits),
            Gatherer(classify, max_items=batch, **limits),
        )

    def _describe_again(self, info: ModelInfo) -> ModelNotReady:
        """A replica that started later found another version on disk, whose labels and preprocessing may differ."""
        if self._models[info.name] is info:
            logger.warning("Model %s has changed from version %d", info.name, info.version)
            self._models[info.name] = None
            self._watch(info.name)
        return ModelNotReady(f"The model {info.name!r} has just changed its version; try again.")

    def _watch(self, name: str) -> None:
        watcher = asyncio.create_task(self._await_model(name))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def _await_model(self, name: str) -> None:
        """Returns once the model is warm and the Preprocessor answers, which the first request needs, too."""
        while self._models[name] is None:
            try:
                info: ModelInfo = await self._classifiers[name].describe.remote()
                await self._preprocessor.preprocess.remote([np.zeros((1, 1, 3), np.uint8)], info.preprocessing)
                self._models[name] = info
            except Exception as err:
                logger.warning("Model %s does not answer yet: %r", name, err)
                await asyncio.sleep(DESCRIBE_RETRY_S)

    # grpc.health.v1.Health; Serve dispatches RPCs by the name of the method

    async def Check(
        self, request: health_pb2.HealthCheckRequest, grpc_context: RayServegRPCContext
    ) -> health_pb2.HealthCheckResponse:
        return health.check(request, self.ready_models(), grpc_context)

    async def Watch(self, request: health_pb2.HealthCheckRequest, grpc_context: RayServegRPCContext) -> None:
        health.refuse("Watch", grpc_context)

    async def List(self, request: health_pb2.HealthListRequest, grpc_context: RayServegRPCContext) -> None:
        health.refuse("List", grpc_context)


def _on_this_loop(handle: Handle) -> Handle:
    # Routing on a loop of its own, the default, is there for callers without one and costs two thread switches a call.
    handle._init(_run_router_in_separate_loop=False)  # type: ignore[no-untyped-call]
    return handle


@asynccontextmanager
async def _within(timeout_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise DeadlineExceeded(f"No answer within {timeout_s:g} s.") from None


async def _resolve(image: Any, limits: Limits) -> ImageInput | ApertureError:
    try:
        value = await image if isinstance(image, ray.ObjectRef) else image
    except RayError as err:
        return BadRequest(f"The reference to an image cannot be resolved: {type(err).__name__}.")
    if isinstance(value, bytearray | memoryview):
        value = bytes(value)
    if not isinstance(value, bytes | np.ndarray):
        return BadRequest(f"An image must be bytes or a uint8 array of shape (H, W, 3), not {type(value).__name__}.")
    if isinstance(value, bytes) and len(value) > limits.max_body_bytes:
        return BodyTooLarge(f"The image is larger than the {limits.max_body_bytes} bytes that this service accepts.")
    if isinstance(value, np.ndarray) and value.nbytes > limits.max_array_bytes:
        return BodyTooLarge(f"The array is larger than the {limits.max_array_bytes} bytes that this service accepts.")
    return value


def _size_bytes(image: ImageInput) -> int:
    return len(image) if isinstance(image, bytes) else image.nbytes


def _answer(info: ModelInfo, scores: Scores, preprocess_s: float, classify_s: float) -> Answer:
    stages = Stages(preprocess_s, queue_s=classify_s - scores.inference_s, inference_s=scores.inference_s)
    return Answer(info, scores.logits, _softmax(scores.logits), stages)


def _softmax(logits: Logits) -> Logits:
    exponentials = np.exp(logits - logits.max())
    probabilities: Logits = exponentials / exponentials.sum()
    return probabilities


def _request_id() -> str:
    return serve.context._get_serve_request_context().request_id
