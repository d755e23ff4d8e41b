"""Open Inference Protocol v2 over HTTP, with the extensions of Triton that `contract.EXTENSIONS` lists.

The routes are those of the specification and docs/protocol of triton-inference-server/server. Names of models cannot
hold a slash, so a percent-encoded one is a model that is not there.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.errors import BadRequest, ModelNotReady
from deployments.messages import DataPlane, ModelInfo
from deployments.protocols.encoding import compress, read_body
from deployments.protocols.http import record_stages
from deployments.protocols.json_bodies import parse_json, quoted
from deployments.protocols.oip import contract
from deployments.protocols.oip.inference import infer
from deployments.protocols.oip.rest_messages import HEADER, MAX_DIGITS, parse_request, render_response

Endpoint = Callable[[Request], Awaitable[Response]]


def routes(plane: DataPlane) -> list[Route]:
    return [*_server_routes(plane), *_model_routes(plane)]


def _server_routes(plane: DataPlane) -> list[Route]:
    async def server(request: Request) -> Response:
        return JSONResponse(contract.server_metadata())

    async def live(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        is_ready = all(info is not None for info in plane.ready_models().values())
        # 503 as in KServe, so that load balancers need no configuration; clients only look for 200.
        return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)

    async def statistics(request: Request) -> Response:
        return await _statistics(plane, [info for info in plane.ready_models().values() if info is not None])

    async def index(request: Request) -> Response:
        ready_only = _is_ready_only(await read_body(request, plane.limits.max_body_bytes))
        return JSONResponse(contract.repository_index(plane.ready_models(), ready_only=ready_only))

    return [
        Route("/v2", server),
        Route("/v2/", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2/models/stats", statistics),
        Route("/v2/repository/index", index, methods=["POST"]),
    ]


def _model_routes(plane: DataPlane) -> list[Route]:
    async def metadata(request: Request) -> Response:
        return JSONResponse(_metadata(_info(plane, request)))

    async def ready(request: Request) -> Response:
        name = request.path_params["model"]
        try:
            _info(plane, request)
        except ModelNotReady:
            return JSONResponse({"name": name, "ready": False}, status_code=503)
        return JSONResponse({"name": name, "ready": True})

    async def config(request: Request) -> Response:
        return JSONResponse(contract.model_config(_info(plane, request), plane.limits))

    async def statistics(request: Request) -> Response:
        return await _statistics(plane, [_info(plane, request)])

    async def infer(request: Request) -> Response:
        return await _infer(plane, request)

    return [
        *_routes("", metadata),
        *_routes("/ready", ready),
        *_routes("/config", config),
        *_routes("/stats", statistics),
        *_routes("/infer", infer, "POST"),
    ]


def _routes(suffix: str, endpoint: Endpoint, method: str = "GET") -> list[Route]:
    """With the version that the client wants, and without."""
    paths = (f"/v2/models/{{model}}{suffix}", f"/v2/models/{{model}}/versions/{{version}}{suffix}")
    return [Route(path, endpoint, methods=[method]) for path in paths]


async def _infer(plane: DataPlane, request: Request) -> Response:
    info = _info(plane, request)
    body = await read_body(request, plane.limits.max_body_bytes)
    parsed = parse_request(body, request.headers.get(HEADER), info, plane.check_count)
    admission_s = time.monotonic() - request.state.started
    answer = await infer(plane, info, parsed.infer, request.state.patience.left_s(parsed.infer.timeout_s))
    record_stages(request, admission_s, answer.outcomes)
    return compress(render_response(answer, parsed.binary), request.headers.get("accept-encoding", ""))


async def _statistics(plane: DataPlane, models: list[ModelInfo]) -> Response:
    counted = await asyncio.gather(*(plane.statistics(info.name) for info in models))
    stats = [contract.model_statistics(info, each) for info, each in zip(models, counted, strict=True)]
    return JSONResponse({"model_stats": stats})


def _info(plane: DataPlane, request: Request) -> ModelInfo:
    model, version = request.path_params["model"], request.path_params.get("version")
    if version is None:
        return plane.info_of(model)
    if not (version.isascii() and version.isdigit() and len(version) <= MAX_DIGITS):
        raise BadRequest(f"The version of a model is a number, not {quoted(version)}.")
    return plane.info_of(model, str(int(version)))


def _is_ready_only(body: bytes) -> bool:
    wish = parse_json(body) if body else {}
    if not isinstance(wish, dict) or not isinstance(wish.get("ready", False), bool):
        raise BadRequest('The body may be {"ready": true}, for the models that are ready, or empty.')
    return bool(wish.get("ready", False))


def _metadata(info: ModelInfo) -> dict[str, Any]:
    """What the protocol has, and what else a caller may want to know."""
    return {
        **contract.model_metadata(info),
        "device": info.device,
        "precision": info.precision,
        "labels": list(info.labels),
        "preprocessing": {**info.preprocessing.model_dump(mode="json"), "digest": info.preprocessing.digest},
    }
