"""Open Inference Protocol v2 over HTTP: health and model metadata."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.messages import DataPlane, ModelInfo


def routes(plane: DataPlane) -> list[Route]:
    async def live(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        is_ready = all(info is not None for info in plane.ready_models().values())
        # 503 as in KServe, so that load balancers need no configuration; clients only look for 200.
        return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)

    async def model_metadata(request: Request) -> Response:
        return JSONResponse(_metadata(plane.info_of(request.path_params["model"])))

    return [
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2/models/{model}", model_metadata),
    ]


def _metadata(info: ModelInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "versions": [str(info.version)],
        "platform": f"{info.engine}_{info.architecture}",
        "device": info.device,
        "precision": info.precision,
        "labels": list(info.labels),
        "preprocessing": {**info.preprocessing.model_dump(mode="json"), "digest": info.preprocessing.digest},
    }
