"""Open Inference Protocol v2 over HTTP, with the extensions of Triton that `contract.EXTENSIONS` lists.

The routes are those of the specification and docs/protocol of triton-inference-server/server, and where these have
/versions/NUMBER, there is /labels/LABEL beside, as in TensorFlow Serving. Names of models cannot hold a slash, so a
percent-encoded one is a model that is not there.
"""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.errors import BadRequest
from deployments.messages import DataPlane, ModelInfo
from deployments.protocols.addressing import chosen, described
from deployments.protocols.encoding import compress, read_body
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
        is_ready = plane.is_ready()
        # 503 as in KServe, so that load balancers need no configuration; clients only look for 200.
        return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)

    async def statistics(request: Request) -> Response:
        counted = await asyncio.gather(*(contract.statistics_of(plane, name) for name in plane.ready_models()))
        return JSONResponse({"model_stats": list(chain.from_iterable(counted))})

    async def index(request: Request) -> Response:
        ready_only = _is_ready_only(await read_body(request, plane.limits.max_body_bytes))
        return JSONResponse(contract.repository_index(plane, ready_only=ready_only))

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
        return JSONResponse(_metadata(plane, described(plane, *_asked(request))))

    async def ready(request: Request) -> Response:
        is_ready = contract.is_ready(plane, *_asked(request))
        body = {"name": request.path_params["model"], "ready": is_ready}
        return JSONResponse(body, status_code=200 if is_ready else 503)

    async def config(request: Request) -> Response:
        return JSONResponse(contract.model_config(described(plane, *_asked(request)), plane.limits))

    async def statistics(request: Request) -> Response:
        model, version, label = _asked(request)
        info = described(plane, model, version, label)
        only = info.version if version is not None or label is not None else None
        return JSONResponse({"model_stats": await contract.statistics_of(plane, model, only)})

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
    """With the version or the label that the client wants, and without."""
    paths = ("", "/versions/{version}", "/labels/{label}")
    return [Route(f"/v2/models/{{model}}{path}{suffix}", endpoint, methods=[method]) for path in paths]


async def _infer(plane: DataPlane, request: Request) -> Response:
    asked = _asked(request)
    body = await read_body(request, plane.limits.max_body_bytes)
    # Not before: a body takes its time, and versions go.
    info = chosen(plane, *asked)
    parsed = parse_request(body, request.headers.get(HEADER), info, plane.check_count)
    answer = await infer(plane, info, parsed.infer, request.state.patience.left_s(parsed.infer.timeout_s))
    return compress(render_response(answer, parsed.binary), request.headers.get("accept-encoding", ""))


def _asked(request: Request) -> tuple[str, str | None, str | None]:
    """The model, and the version or the label."""
    version: str | None = request.path_params.get("version")
    if version is not None:
        if not (version.isascii() and version.isdigit() and len(version) <= MAX_DIGITS):
            raise BadRequest(f"The version of a model is a number, not {quoted(version)}.")
        version = str(int(version))
    return request.path_params["model"], version, request.path_params.get("label")


def _is_ready_only(body: bytes) -> bool:
    wish = parse_json(body) if body else {}
    if not isinstance(wish, dict) or not isinstance(wish.get("ready", False), bool):
        raise BadRequest('The body may be {"ready": true}, for the models that are ready, or empty.')
    return bool(wish.get("ready", False))


def _metadata(plane: DataPlane, info: ModelInfo) -> dict[str, Any]:
    """What the protocol has of a version, and what else a caller may want to know."""
    statuses = plane.versions_of(info.name)
    return {
        **contract.model_metadata(info, statuses),
        "version": str(info.version),
        "device": info.device,
        "precision": info.precision,
        "labels": list(info.labels),
        "preprocessing": {**info.preprocessing.model_dump(mode="json"), "digest": info.preprocessing.digest},
        "version_labels": {label: str(version) for label, version in plane.labels_of(info.name).items()},
        "version_status": [
            {"version": str(each.version), "state": each.state, "reason": each.reason} for each in statuses
        ],
    }
