"""The Ingress deployment: protocols, limits and deadlines in front of the graph. It decodes nothing.

HTTP routes, gRPC methods and Python handles all translate to the one data plane.
"""

import asyncio
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve._private.constants import RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH, RAY_SERVE_USE_GRPC_BY_DEFAULT
from ray.serve.context import _get_global_client
from starlette.applications import Starlette

from deployments import tracing
from deployments.access import AccessControl
from deployments.administration import ModelAdmin
from deployments.comparison import Comparisons
from deployments.dataplane import ServeDataPlane
from deployments.deadlines import within
from deployments.errors import ApertureError, BadRequest, BodyTooLarge
from deployments.hops import Handle
from deployments.live_figures import LiveView
from deployments.live_poll import GraphPoll
from deployments.messages import Answer, ImageInput, ModelInfo
from deployments.metrics import expect_in
from deployments.protocols import admin, comparison, explain, huggingface
from deployments.protocols import predict as plain
from deployments.protocols.addressing import begin, chosen
from deployments.protocols.admin import AdminRpcs
from deployments.protocols.authentication import guarded, stand_at_the_edge
from deployments.protocols.door import open_door
from deployments.protocols.health import HealthRpcs
from deployments.protocols.http import asgi_app
from deployments.protocols.oip import rest as oip_rest
from deployments.protocols.oip.grpc import InferenceRpcs
from deployments.protocols.openapi import pages as openapi
from deployments.protocols.playground import live
from deployments.protocols.playground import pages as playground
from deployments.protocols.request_ids import made_safe
from deployments.protocols.tfserving import rest as tfserving_rest
from deployments.protocols.tfserving.grpc import ModelRpcs, PredictionRpcs
from deployments.protocols.traced import traced_call
from deployments.recent import MinuteOfRequests
from deployments.records import current, opened, write_to
from deployments.request_log import RequestLog, beside_the_log_of_serve
from deployments.settings import Limits, Settings, Traces, check_messages_fit
from deployments.settings.administration import check_administration
from deployments.settings.keys import check_exposure
from deployments.statistics import RequestStatistics

# Models that are warm say so at once; others are still loading, and clients are to hear that. Less than the
# health_check_timeout_s of graph.py.
FIRST_CHECK_S = 2.0
# What HTTP says of a request that is answered.
HANDLE_OK = 200


@serve.ingress()
class Ingress(HealthRpcs, InferenceRpcs, PredictionRpcs, ModelRpcs, AdminRpcs):
    # For `__del__` of one that has not started.
    _traces: Traces | None = None
    _request_log: RequestLog | None = None

    def __init__(self, settings: Settings, preprocessor: Handle, classifiers: dict[str, Handle]) -> None:
        self._traces = settings.telemetry.traces
        if RAY_SERVE_USE_GRPC_BY_DEFAULT:
            check_messages_fit(settings, RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH)
        check_exposure(settings.access, _listens_on())
        check_administration(settings.administration, settings.access, _listens_on())
        if self._traces is not None:
            tracing.start(self._traces, serve.get_replica_context())
        self._request_log = beside_the_log_of_serve() if settings.telemetry.request_log else None
        write_to(None if self._request_log is None else self._request_log.write)
        expect_in("Ingress")
        self.access = AccessControl(settings.access)
        self._pages = settings.pages
        self._is_new = True
        self.plane: ServeDataPlane = ServeDataPlane(
            settings,
            preprocessor,
            classifiers,
            _requests_of_all_replicas,
            _request_id,
            _comparisons_of_all_replicas,
            _is_first,
        )
        self.live = LiveView(GraphPoll(_replicas, preprocessor, classifiers))
        self.admin = ModelAdmin(
            self.plane.models,
            {model.name: model.path for model in settings.models},
            _told_to_all_replicas,
            enabled=settings.administration.enabled,
        )

    def __serve_build_asgi_app__(self) -> Starlette:
        self.plane.start()
        self.access.start()
        plane = self.plane
        open_door(plane.door)
        stand_at_the_edge(self.access)
        routes = [
            *plain.routes(plane),
            *oip_rest.routes(plane),
            *tfserving_rest.routes(plane),
            *huggingface.routes(plane),
            *comparison.routes(plane),
            *admin.routes(self.admin, self.access, plane.limits),
            *(openapi.routes(plane, asks_for_keys=self.access.asks_for_keys) if self._pages.docs else []),
            *explain.routes(plane, are_on=self._pages.heat_maps),
            *([*playground.routes(), *live.routes(self.live)] if self._pages.playground else []),
        ]
        return asgi_app(
            guarded(routes, self.access),
            plane.limits,
            _request_id,
            self._pages.cors_origins,
            plane.door,
        )

    def __del__(self) -> None:
        """Serve calls this when nothing is asked any more, before it ends the process."""
        if self._traces is not None:
            tracing.stop()
        if self._request_log is not None:
            self._request_log.close()

    async def check_health(self) -> None:
        """Serve calls this every health_check_period_s, and first before it sends requests to a new replica.

        One that joins others begins only once it knows the models: until then it would refuse what they answer.
        """
        if self._is_new:
            self._is_new = False
            await self.plane.await_models(FIRST_CHECK_S)

    # Python handles: serve.get_app_handle("aperture").predict.remote(image)

    async def predict(
        self,
        image: Any,
        top_k: int = plain.DEFAULT_TOP_K,
        model: str | None = None,
        version: int | str | None = None,
        label: str | None = None,
        traceparent: str | None = None,
    ) -> dict[str, Any]:
        """The body of POST /predict as a dict, for encoded bytes, uint8 (H, W, 3) pixels or an ObjectRef of either.

        `traceparent`: of the span that this call is part of, as W3C Trace Context has it. Raises ApertureError, the one
        that HTTP answers with.
        """
        with traced_call("predict", traceparent), opened("handle", "predict", _request_id()):
            _, (answer,) = await self._classify([image], top_k, model, version, label)
            if isinstance(answer, ApertureError):
                raise answer
            current().status = HANDLE_OK
            return plain.render_one(answer, top_k, _request_id())

    async def predict_many(
        self,
        images: Sequence[Any],
        top_k: int = plain.DEFAULT_TOP_K,
        model: str | None = None,
        version: int | str | None = None,
        label: str | None = None,
        traceparent: str | None = None,
    ) -> dict[str, Any]:
        """As `predict` for several images: "results" keeps their order, and a bad image has "error" and "code"."""
        with traced_call("predict_many", traceparent), opened("handle", "predict_many", _request_id()):
            info, answers = await self._classify(images, top_k, model, version, label)
            current().status = HANDLE_OK
            return plain.render_many(answers, info, top_k, _request_id())

    async def _classify(
        self, images: Sequence[Any], top_k: int, model: str | None, version: int | str | None, label: str | None
    ) -> tuple[ModelInfo, list[Answer | ApertureError]]:
        plain.checked_top_k(top_k)
        self.plane.check_count(len(images))
        limits = self.plane.limits
        async with within(limits.request_timeout_s):
            resolved = await asyncio.gather(*(_resolve(image, limits) for image in images))
        begin([], _request_id())
        info = chosen(self.plane, model, None if version is None else str(version), label)
        return info, await self.plane.classify(resolved, info)

    # For the other Ingress replicas

    async def requests_before(self, end: int) -> MinuteOfRequests:
        """What this replica has answered in the minute before `end`, seconds since 1970."""
        return self.plane.recent.minute_before(end)

    def request_statistics(self, model: str) -> Mapping[int, RequestStatistics]:
        return self.plane.requests_here(model)

    async def comparisons(self, model: str) -> Comparisons:
        return self.plane.comparisons_here(model)

    async def hear_of(self, model: str) -> None:
        """What the replicas of that model have now, and not a second later."""
        await self.plane.models[model].refresh()


def _listens_on() -> str | None:
    """The host of HTTP, which is not in the application's part of a config; that of gRPC is the same, or any."""
    client = _get_global_client()
    return None if client is None else client.http_config.host


async def _requests_of_all_replicas(model: str) -> Sequence[Mapping[int, RequestStatistics]]:
    statistics: Sequence[Mapping[int, RequestStatistics]] = (
        await _replicas().broadcast("request_statistics", model).results_async()
    )
    return statistics


async def _comparisons_of_all_replicas(model: str) -> Sequence[Comparisons]:
    counted: Sequence[Comparisons] = await _replicas().broadcast("comparisons", model).results_async()
    return counted


def _is_first() -> bool:
    """Of the Ingress replicas. While Serve is about to rank them anew, there may be none, or two that do the same."""
    rank = serve.get_replica_context().rank
    return rank is not None and rank.rank == 0


async def _told_to_all_replicas(model: str) -> None:
    await _replicas().broadcast("hear_of", model).results_async()


@functools.cache
def _replicas() -> Handle:
    # Serve gives out the same handle each time, and it can be initialised only once.
    replicas = serve.get_deployment_handle(serve.get_replica_context().deployment)
    replicas._init(_run_router_in_separate_loop=False)  # type: ignore[no-untyped-call]
    return replicas


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


def _request_id() -> str:
    return made_safe(serve.context._get_serve_request_context().request_id)
