"""The Ingress deployment: protocols, limits and deadlines in front of the graph. It touches no pixels.

It is the data plane that every protocol calls: an image goes to the Preprocessor, its pixels to the model's Classifier,
and the scores become an answer. A failing image never fails its neighbours.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from grpc_health.v1 import health_pb2
from ray import serve
from ray.serve.exceptions import BackPressureError
from ray.serve.grpc_util import RayServegRPCContext
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette

from deployments.errors import (
    ApertureError,
    DeadlineExceeded,
    InferenceFailed,
    ModelNotReady,
    Overloaded,
    TooManyImages,
    UnknownModel,
)
from deployments.messages import Answer, ImageInput, Logits, ModelInfo, Scores, Stages
from deployments.protocols import health
from deployments.protocols.http import asgi_app
from deployments.protocols.oip import rest as oip_rest
from deployments.protocols.predict import DEFAULT_TOP_K, checked_input, checked_top_k, render_many, render_one
from deployments.protocols.predict import routes as predict_routes
from deployments.settings import Settings

logger = logging.getLogger("ray.serve")

Handle = DeploymentHandle[Any]

# How soon a model that failed to answer is asked again whether it is warm.
DESCRIBE_RETRY_S = 1.0


@serve.ingress()
class Ingress:
    def __init__(self, settings: Settings, preprocessor: Handle, classifiers: dict[str, Handle]) -> None:
        self._limits = settings.limits
        self._preprocessor = _on_this_loop(preprocessor)
        self._classifiers = {name: _on_this_loop(classifier) for name, classifier in classifiers.items()}
        self._models: dict[str, ModelInfo | None] = dict.fromkeys(classifiers)
        self._watchers: list[asyncio.Task[None]] = []

    def __serve_build_asgi_app__(self) -> Starlette:
        self._watchers = [asyncio.create_task(self._await_model(name)) for name in self._classifiers]
        return asgi_app([*predict_routes(self), *oip_rest.routes(self)], self._limits, _request_id)

    # Python handles: serve.get_app_handle("aperture").predict.remote(image)

    async def predict(self, image: Any, top_k: int = DEFAULT_TOP_K, model: str | None = None) -> dict[str, Any]:
        """The body of POST /predict as a dict, for encoded bytes, uint8 (H, W, 3) pixels or an ObjectRef of either.

        Raises ApertureError, the one that HTTP answers with.
        """
        checked_top_k(top_k)
        (answer,) = await self.classify([await _resolve(image)], model)
        if isinstance(answer, ApertureError):
            raise answer
        return render_one(answer, top_k, _request_id())

    async def predict_many(
        self, images: Sequence[Any], top_k: int = DEFAULT_TOP_K, model: str | None = None
    ) -> dict[str, Any]:
        """As `predict` for several images: "results" keeps their order, and a bad image has "error" and "code"."""
        checked_top_k(top_k)
        resolved = await asyncio.gather(*(_resolve(image) for image in images))
        return render_many(await self.classify(resolved, model), self.info_of(model), top_k, _request_id())

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

    async def classify(self, images: Sequence[ImageInput], model: str | None) -> list[Answer | ApertureError]:
        info = self.info_of(model)
        if len(images) > self._limits.max_images:
            raise TooManyImages(f"The request has {len(images)} images; at most {self._limits.max_images} are allowed.")
        deadline = time.monotonic() + self._limits.request_timeout_s
        try:
            async with asyncio.timeout(self._limits.request_timeout_s):
                return await asyncio.gather(*(self._classify_one(image, info, deadline) for image in images))
        except TimeoutError:
            raise DeadlineExceeded(f"No answer within {self._limits.request_timeout_s:g} s.") from None

    async def _classify_one(self, image: ImageInput, info: ModelInfo, deadline: float) -> Answer | ApertureError:
        try:
            started = time.monotonic()
            pixels = await self._preprocessor.preprocess.remote(image, info.preprocessing)
            if isinstance(pixels, ApertureError):
                return pixels
            preprocessed = time.monotonic()
            classifier = self._classifiers[info.name]
            scores = await classifier.classify.remote(pixels, deadline - preprocessed)
            if isinstance(scores, ApertureError):
                return scores
            return _answer(info, scores, preprocessed - started, time.monotonic() - preprocessed)
        except BackPressureError:
            return Overloaded("The service has more requests than it can answer in time; try again.")
        except Exception:
            logger.exception("An image of request %s failed", _request_id())
            return InferenceFailed("The image could not be classified because of an internal error.")

    async def _await_model(self, name: str) -> None:
        while self._models[name] is None:
            try:
                self._models[name] = await self._classifiers[name].describe.remote()
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


async def _resolve(image: Any) -> ImageInput:
    value = await image if isinstance(image, ray.ObjectRef) else image
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return checked_input(value)


def _answer(info: ModelInfo, scores: Scores, preprocess_s: float, classify_s: float) -> Answer:
    stages = Stages(preprocess_s, queue_s=classify_s - scores.inference_s, inference_s=scores.inference_s)
    return Answer(info, scores.version, scores.logits, _softmax(scores.logits), stages)


def _softmax(logits: Logits) -> Logits:
    exponentials = np.exp(logits - logits.max())
    probabilities: Logits = exponentials / exponentials.sum()
    return probabilities


def _request_id() -> str:
    return serve.context._get_serve_request_context().request_id
