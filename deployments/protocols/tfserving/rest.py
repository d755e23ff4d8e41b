"""TensorFlow Serving's REST API, specified in its document api_rest.md; the bodies are those of rest_messages.py.

    POST /v1/models/NAME[/versions/NUMBER or /labels/LABEL]:predict, :classify
    GET  /v1/models/NAME[/versions/NUMBER or /labels/LABEL][/metadata]

Paths are matched regardless of case, as there, but for names and labels. Errors are those of every route, whose "error"
is the one that its clients read.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.convertors import StringConvertor
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.errors import BadRequest
from deployments.messages import DataPlane, ModelInfo
from deployments.protocols.addressing import chosen, described
from deployments.protocols.encoding import read_body
from deployments.protocols.http import classified
from deployments.protocols.json_bodies import ArrayResponse
from deployments.protocols.tensors import answers_of
from deployments.protocols.tfserving.rest_messages import (
    parse_classify,
    parse_predict,
    render_classify,
    render_predict,
)
from deployments.protocols.tfserving.signature import signature_def_map
from deployments.protocols.tfserving.status import model_status

MODEL = r"/v1/models/(?P<model>[^/:]+)(?:/(?:versions/(?P<version>[0-9]+)|labels/(?P<label>[^/:]+)))?"


def routes(plane: DataPlane) -> list[Route]:
    async def predict(request: Request) -> Response:
        body = await read_body(request, plane.limits.max_body_bytes)
        # Not before: a body takes its time, and versions go.
        info = chosen(plane, *_asked(request))
        form, images = await parse_predict(body, plane, info)
        return ArrayResponse(render_predict(form, answers_of(await classified(plane, request, images, info))))

    async def classify(request: Request) -> Response:
        body = await read_body(request, plane.limits.max_body_bytes)
        info = chosen(plane, *_asked(request))
        images = parse_classify(body, plane, info)
        return ArrayResponse(render_classify(answers_of(await classified(plane, request, images, info))))

    async def regress(request: Request) -> Response:
        raise BadRequest(f"The model {chosen(plane, *_asked(request)).name!r} classifies; it has no regression.")

    async def status(request: Request) -> Response:
        return JSONResponse(model_status(plane, *_asked(request)))

    async def metadata(request: Request) -> Response:
        return JSONResponse(_metadata(described(plane, *_asked(request))))

    return [
        _ModelRoute(":predict", predict, "POST"),
        _ModelRoute(":classify", classify, "POST"),
        _ModelRoute(":regress", regress, "POST"),
        _ModelRoute("", status, "GET"),
        _ModelRoute("/metadata", metadata, "GET"),
    ]


class _ModelRoute(Route):
    """A path that Starlette's own patterns cannot say: in any case, and with a version, a label or neither."""

    def __init__(self, action: str, endpoint: Callable[[Request], Awaitable[Response]], method: str) -> None:
        super().__init__("/v1/models/{model}" + action, endpoint, methods=[method])
        self.path_regex = re.compile(MODEL + action + r"\Z", re.IGNORECASE)
        self.param_convertors = dict.fromkeys(self.path_regex.groupindex, StringConvertor())


def _asked(request: Request) -> tuple[str, str | None, str | None]:
    """The model, and the version or the label."""
    model, version, label = (request.path_params[key] for key in ("model", "version", "label"))
    # As text, since Python refuses to convert very many digits.
    return model, None if version is None else version.lstrip("0") or "0", label


def _metadata(info: ModelInfo) -> dict[str, Any]:
    return {
        "model_spec": {"name": info.name, "signature_name": "", "version": str(info.version)},
        "metadata": {"signature_def": signature_def_map(info)},
    }
