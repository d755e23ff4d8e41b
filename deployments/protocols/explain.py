"""POST /explain: what /predict answers for an image, and where in it the model found what it names.

    {"model", "version", "predictions", "request_id"}      as /predict
    "index", "label"    the class that is explained: ?index=, or the best one
    "heat"              {"height", "width", "values"}: rows of numbers in [0, 1], the more the more speaks for the class
                        there; 1 is the greatest, and all are 0 where nothing speaks for it (engines/heat_map.py)
    "area"              {"top", "left", "height", "width"}: which part of the upright image the rows and columns divide,
                        as shares of its height and width; null where the header of the file does not say its size

The body is the image, whatever its content type. `?model=`, `?version=` or `?label=`, and `?top_k=` go with it. Heat
maps are made one at a time by each replica of a model; meanwhile others are refused with 503 and when to come again.
"""

from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.errors import BadRequest, HeatMapsOff
from deployments.messages import DataPlane, Explanation
from deployments.protocols.addressing import answered
from deployments.protocols.encoding import read_body
from deployments.protocols.http import chosen_in_query
from deployments.protocols.json_bodies import quoted
from deployments.protocols.predict import render_one, top_k_in_query, whole_number
from deployments.seen_area import seen_area, upright_size
from deployments.settings import PreprocessingSpec

PATH = "/explain"
# Of a heat: a colour has no more levels.
DIGITS = 4


def routes(plane: DataPlane, *, are_on: bool = True) -> list[Route]:
    async def explain(request: Request) -> Response:
        if not are_on:
            raise HeatMapsOff("This service makes no heat maps; its operator can let it with pages.heat_maps.")
        top_k, index = top_k_in_query(request), _index_in_query(request)
        image = await read_body(request, plane.limits.max_body_bytes)
        if not image:
            raise BadRequest("The body is empty; send an image.")
        info = chosen_in_query(plane, request)
        explanation = await plane.explain(image, info, index, request.state.patience.left_s())
        answered([explanation.answer])
        answer = render_one(explanation.answer, top_k, request.state.request_id)
        return JSONResponse(answer | _heat(explanation) | {"area": _area(image, info.preprocessing)})

    return [Route(PATH, explain, methods=["POST"])]


def _index_in_query(request: Request) -> int | None:
    text = request.query_params.get("index")
    if text is None:
        return None
    if (index := whole_number(text)) is None:
        raise BadRequest(f"index must be the number of a class, from 0, not {quoted(text)}.")
    return index


def _heat(explanation: Explanation) -> dict[str, Any]:
    height, width = explanation.heat.shape
    values = [[round(value, DIGITS) for value in row] for row in explanation.heat.tolist()]
    return {
        "index": explanation.index,
        "label": explanation.answer.info.labels[explanation.index],
        "heat": {"height": height, "width": width, "values": values},
    }


def _area(image: bytes, spec: PreprocessingSpec) -> dict[str, float] | None:
    size = upright_size(image)
    if size is None:
        return None
    return asdict(seen_area(*size, spec))
