"""The plain protocol: POST /predict.

    a raw image, any content type    {"model", "version", "predictions": [{"label", "index", "probability"}], ...}
    multipart/form-data, files       {"model", "version", "results": [{"filename", "predictions" or "error", "code"}]}
    {"image": base64}                as a raw image
    {"images": [base64, ...]}        as multipart, without file names
    {"image_url": URL}               as a raw image; fetched if the settings allow the host
    {"image_urls": [URL, ...]}       as multipart, without file names
    {"input_data": floats}           {"output": [[logit, ...], ...]}; (3, H, W) or (N, 3, H, W) in [0, 1]

`?model=`, `?version=` or `?label=`, and `?top_k=` go with each. With "Accept: application/x-ndjson" the answers for
images come one by one (ndjson.py). Python handles get the same answers as dicts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.errors import ApertureError, BadRequest
from deployments.messages import Answer, DataPlane, ImageInput, ModelInfo, Pixels
from deployments.protocols import ndjson
from deployments.protocols.encoding import read_body
from deployments.protocols.http import chosen_in_query, classified
from deployments.protocols.json_bodies import array_of, parse_object, quoted
from deployments.protocols.json_images import fetched, image_of, image_or_refusal
from deployments.protocols.multipart import files_in
from deployments.protocols.tensors import answers_of, best

DEFAULT_TOP_K: Final = 5
FORMS: Final = ("image", "images", "image_url", "image_urls", "input_data")
JSON_FORMS: Final = (
    "image (base64), images (a list of base64), image_url, image_urls (a list of URLs) or input_data (floats)"
)


@dataclass(frozen=True, slots=True)
class Sent:
    """The images of a request. `names` of files; `is_single` is answered by its predictions, others by results."""

    images: Sequence[ImageInput | ApertureError]
    names: Sequence[str | None] | None = None
    is_single: bool = False

    def rendered(self, index: int, answer: Answer | ApertureError, top_k: int) -> dict[str, Any]:
        named = {} if self.names is None else {"filename": self.names[index]}
        return named | _result(answer, top_k)


def routes(plane: DataPlane) -> list[Route]:
    async def predict(request: Request) -> Response:
        top_k = top_k_in_query(request)  # A bad parameter is refused before it costs anything.
        form = request.headers.get("content-type", "").split(";")[0].strip().lower()
        body = await read_body(request, plane.limits.max_body_bytes)
        info = chosen_in_query(plane, request)
        if form == "multipart/form-data":
            return await _answer(plane, request, await _multipart(plane, request, body), info, top_k)
        if form != "application/json":
            return await _answer(plane, request, _raw(body), info, top_k)
        fields = _checked_fields(body)
        if "input_data" in fields:
            return await _answer_arrays(plane, request, fields["input_data"], info)
        return await _answer(plane, request, await _json_images(plane, fields), info, top_k)

    return [Route("/predict", predict, methods=["POST"])]


def render_one(answer: Answer, top_k: int, request_id: str) -> dict[str, Any]:
    return {
        "model": answer.info.name,
        "version": answer.info.version,
        "predictions": predictions_of(answer, top_k),
        "request_id": request_id,
    }


def render_many(
    answers: Sequence[Answer | ApertureError], info: ModelInfo, top_k: int, request_id: str
) -> dict[str, Any]:
    results = [_result(answer, top_k) for answer in answers]
    return _render_results(results, info, request_id)


def predictions_of(answer: Answer, top_k: int) -> list[dict[str, Any]]:
    """The `top_k` best, the best first."""
    return [
        {"label": answer.info.labels[index], "index": int(index), "probability": float(answer.probabilities[index])}
        for index in best(answer.probabilities, top_k)
    ]


def checked_top_k(top_k: object) -> int:
    """`top_k` if it is a number of predictions. Raises BadRequest."""
    if isinstance(top_k, int) and not isinstance(top_k, bool) and top_k >= 1:
        return top_k
    raise BadRequest(f"top_k must be an integer of at least 1, not {quoted(top_k)}.")


def top_k_in_query(request: Request) -> int:
    """?top_k=, or the default. Raises BadRequest."""
    text = request.query_params.get("top_k", str(DEFAULT_TOP_K))
    number = whole_number(text)
    return checked_top_k(text if number is None else number)


def whole_number(text: str) -> int | None:
    """Of up to nine digits: more than any model has classes, and few enough to parse whatever a client sends."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


async def _answer(plane: DataPlane, request: Request, sent: Sent, info: ModelInfo, top_k: int) -> Response:
    if ndjson.is_accepted(request):
        return await ndjson.streamed(
            plane, request, sent.images, info, lambda index, answer: sent.rendered(index, answer, top_k)
        )
    answers = await classified(plane, request, sent.images, info)
    if sent.is_single:
        (answer,) = answers_of(answers)
        return JSONResponse(render_one(answer, top_k, request.state.request_id))
    results = [sent.rendered(index, answer, top_k) for index, answer in enumerate(answers)]
    return JSONResponse(_render_results(results, info, request.state.request_id))


async def _answer_arrays(plane: DataPlane, request: Request, input_data: object, info: ModelInfo) -> Response:
    images = _pixels_from_floats(input_data)
    answers = answers_of(await classified(plane, request, images, info))
    return JSONResponse({"output": [answer.logits.tolist() for answer in answers]})


def _raw(image: bytes) -> Sent:
    if not image:
        raise BadRequest("The body is empty; send an image.")
    return Sent([image], is_single=True)


async def _multipart(plane: DataPlane, request: Request, body: bytes) -> Sent:
    files = await files_in(request.headers["content-type"], body)
    if not files:
        raise BadRequest("The multipart body has no file.")
    plane.check_count(len(files))
    return Sent([content for _, content in files], names=[name for name, _ in files])


def _checked_fields(body: bytes) -> dict[str, Any]:
    fields = parse_object(body, f"one of {JSON_FORMS}")
    if len([form for form in FORMS if form in fields]) != 1:
        keys = ", ".join(quoted(key) for key in list(fields)[:5])
        raise BadRequest(f"A JSON body needs exactly one of {JSON_FORMS}; it has {keys or 'no key'}.")
    return fields


async def _json_images(plane: DataPlane, fields: dict[str, Any]) -> Sent:
    if "image" in fields:
        return Sent([image_of(fields["image"])], is_single=True)
    if "image_url" in fields:
        return Sent(await fetched(plane, [fields["image_url"]]), is_single=True)
    form = "images" if "images" in fields else "image_urls"
    items = fields[form]
    if not isinstance(items, list) or not items:
        raise BadRequest(f"{form} must be a list with at least one {'base64 string' if form == 'images' else 'URL'}.")
    plane.check_count(len(items))
    return Sent(await fetched(plane, items) if form == "image_urls" else [image_or_refusal(item) for item in items])


def _result(answer: Answer | ApertureError, top_k: int) -> dict[str, Any]:
    if isinstance(answer, ApertureError):
        return {"error": answer.message, "code": answer.code}
    return {"predictions": predictions_of(answer, top_k)}


def _render_results(results: Sequence[dict[str, Any]], info: ModelInfo, request_id: str) -> dict[str, Any]:
    return {"model": info.name, "version": info.version, "results": results, "request_id": request_id}


def _pixels_from_floats(input_data: object) -> list[Pixels]:
    """float (3, H, W) or (N, 3, H, W) in [0, 1] as a list of uint8 (H, W, 3), rounded to the nearest level."""
    values = array_of(input_data, np.float32, "input_data")
    batch = values[None] if values.ndim == 3 else values
    if batch.ndim != 4 or batch.shape[1] != 3 or 0 in batch.shape:
        raise BadRequest(f"input_data must have the shape (3, H, W) or (N, 3, H, W), not {values.shape}.")
    if not (batch.min() >= 0 and batch.max() <= 1):  # Also false for NaN.
        raise BadRequest("input_data must be floats in [0, 1].")
    pixels = np.rint(batch.transpose(0, 2, 3, 1) * 255).astype(np.uint8)  # (N, H, W, 3)
    return [np.ascontiguousarray(image) for image in pixels]
