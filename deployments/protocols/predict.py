"""The plain protocol: POST /predict.

    a raw image, any content type    {"model", "version", "predictions": [{"label", "index", "probability"}], ...}
    multipart/form-data, files       {"model", "version", "results": [{"filename", "predictions" or "error", "code"}]}
    {"image": base64}                as a raw image
    {"images": [base64, ...]}        as multipart, without file names
    {"input_data": floats}           {"output": [[logit, ...], ...]}; (3, H, W) or (N, 3, H, W) in [0, 1]

Python handles get the same answers as dicts.
"""

import base64
import binascii
import json
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import numpy as np
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.errors import ApertureError, BadRequest
from deployments.messages import Answer, DataPlane, ImageInput, ModelInfo, Pixels
from deployments.protocols.http import record_stages

DEFAULT_TOP_K = 5
JSON_FORMS = "image (base64), images (a list of base64) or input_data (floats)"


def routes(plane: DataPlane) -> list[Route]:
    async def predict(request: Request) -> Response:
        form = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if form == "multipart/form-data":
            return await _predict_multipart(plane, request)
        if form == "application/json":
            return await _predict_json(plane, request)
        return await _predict_one(plane, request, await request.body())

    return [Route("/predict", predict, methods=["POST"])]


def render_one(answer: Answer, top_k: int, request_id: str) -> dict[str, Any]:
    return {
        "model": answer.info.name,
        "version": answer.info.version,
        "predictions": _top(answer, top_k),
        "request_id": request_id,
    }


def render_many(
    answers: Sequence[Answer | ApertureError], info: ModelInfo, top_k: int, request_id: str
) -> dict[str, Any]:
    results = [
        {"error": answer.message, "code": answer.code}
        if isinstance(answer, ApertureError)
        else {"predictions": _top(answer, top_k)}
        for answer in answers
    ]
    return {"model": info.name, "version": info.version, "results": results, "request_id": request_id}


def checked_top_k(top_k: object) -> int:
    """`top_k` if it is a number of predictions. Raises BadRequest."""
    if isinstance(top_k, int) and top_k >= 1:
        return top_k
    raise BadRequest(f"top_k must be an integer of at least 1, not {top_k!r}.")


async def _predict_one(plane: DataPlane, request: Request, image: bytes) -> Response:
    if not image:
        raise BadRequest("The body is empty; send an image.")
    (answer,) = await _classify(plane, request, [image])
    if isinstance(answer, ApertureError):
        raise answer
    return JSONResponse(render_one(answer, _top_k(request), request.state.request_id))


async def _predict_multipart(plane: DataPlane, request: Request) -> Response:
    files = await _files_in(request.headers["content-type"], await request.body())
    if not files:
        raise BadRequest("The multipart body has no file.")
    plane.check_count(len(files))
    body = await _render_all(plane, request, [content for _, content in files])
    body["results"] = [{"filename": name, **result} for (name, _), result in zip(files, body["results"], strict=True)]
    return JSONResponse(body)


async def _files_in(content_type: str, body: bytes) -> list[tuple[str | None, bytes]]:
    """File names and contents, in the order sent. Raises BadRequest."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    # The parser drops a last file whose end is missing, and the answer would have a result too few.
    if boundary and b"--" + boundary + b"--" not in body:
        raise BadRequest("The multipart body ends before its closing boundary.")

    async def whole_body() -> AsyncGenerator[bytes, None]:
        yield body

    # The boundary alone: a charset, which HTML forms do not send, could name any of Python's codecs.
    headers = Headers(raw=[(b"content-type", b'multipart/form-data; boundary="%s"' % boundary if boundary else b"")])
    parser = MultiPartParser(headers, whole_body())
    parser.spool_max_size = len(body) + 1  # The body is in memory already; nothing is to go to a disk.
    try:
        form = await parser.parse()
    except MultiPartException as err:
        raise BadRequest(f"The multipart body is malformed: {err.message}") from err
    try:
        return [(part.filename, await part.read()) for _, part in form.multi_items() if isinstance(part, UploadFile)]
    finally:
        await form.close()


async def _predict_json(plane: DataPlane, request: Request) -> Response:
    # On the event loop: json holds the GIL, so a thread would free nothing. max_body_bytes bounds it.
    body = _parse_object(await request.body())
    forms = [key for key in ("image", "images", "input_data") if key in body]
    if len(forms) != 1:
        raise BadRequest(
            f"A JSON body needs exactly one of {JSON_FORMS}; it has {', '.join(map(repr, body)) or 'no key'}."
        )
    if forms == ["image"]:
        return await _predict_one(plane, request, _decode_base64(body["image"]))
    if forms == ["images"]:
        if not isinstance(body["images"], list) or not body["images"]:
            raise BadRequest("images must be a list with at least one base64 string.")
        plane.check_count(len(body["images"]))
        return JSONResponse(await _render_all(plane, request, [_decoded(item) for item in body["images"]]))
    return await _predict_arrays(plane, request, body["input_data"])


async def _predict_arrays(plane: DataPlane, request: Request, input_data: object) -> Response:
    images = _pixels_from_floats(input_data)
    answers = await _classify(plane, request, images)
    rows = []
    for answer in answers:
        if isinstance(answer, ApertureError):
            raise answer
        rows.append(answer.logits.tolist())
    return JSONResponse({"output": rows})


async def _render_all(
    plane: DataPlane, request: Request, images: Sequence[ImageInput | ApertureError]
) -> dict[str, Any]:
    answers = await _classify(plane, request, images)
    return render_many(answers, plane.info_of(_model(request)), _top_k(request), request.state.request_id)


async def _classify(
    plane: DataPlane, request: Request, images: Sequence[ImageInput | ApertureError]
) -> list[Answer | ApertureError]:
    _top_k(request)  # A bad parameter is refused before it costs a decode.
    admission_s = time.monotonic() - request.state.started
    answers = await plane.classify(images, plane.info_of(_model(request)))
    record_stages(request, admission_s, answers)
    return answers


def _top(answer: Answer, top_k: int) -> list[dict[str, Any]]:
    best = np.argsort(-answer.probabilities, kind="stable")[:top_k]
    return [
        {"label": answer.info.labels[index], "index": int(index), "probability": float(answer.probabilities[index])}
        for index in best
    ]


def _model(request: Request) -> str | None:
    return request.query_params.get("model")


def _top_k(request: Request) -> int:
    text = request.query_params.get("top_k", str(DEFAULT_TOP_K))
    # Nine digits are more than any model has classes, and few enough to parse whatever a client sends.
    return checked_top_k(int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text)


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as err:
        raise BadRequest("The body is not valid JSON.") from err
    if not isinstance(parsed, dict):
        raise BadRequest(f"A JSON body must be an object with one of {JSON_FORMS}.")
    return cast("dict[str, Any]", parsed)


def _decoded(text: object) -> bytes | BadRequest:
    """The image, or in its place among others the reason why it is none."""
    try:
        return _decode_base64(text)
    except BadRequest as refusal:
        return refusal


def _decode_base64(text: object) -> bytes:
    if not isinstance(text, str) or not text:
        raise BadRequest("An image in JSON must be a base64 string.")
    try:
        # Without the line breaks of `base64 FILE` and of MIME.
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as err:
        raise BadRequest("An image in JSON must be a base64 string; this one has other characters or padding.") from err


def _pixels_from_floats(input_data: object) -> list[Pixels]:
    """float (3, H, W) or (N, 3, H, W) in [0, 1] as a list of uint8 (H, W, 3), rounded to the nearest level."""
    try:
        with np.errstate(over="ignore"):  # What float32 cannot hold becomes infinite, and is refused below.
            values = np.asarray(input_data)
            if values.dtype.kind not in "fiu":  # Strings and booleans would be converted, too.
                raise TypeError(values.dtype)
            values = values.astype(np.float32)
    except (ValueError, TypeError, OverflowError) as err:
        raise BadRequest("input_data must be a rectangular list of numbers.") from err
    batch = values[None] if values.ndim == 3 else values
    if batch.ndim != 4 or batch.shape[1] != 3 or 0 in batch.shape:
        raise BadRequest(f"input_data must have the shape (3, H, W) or (N, 3, H, W), not {values.shape}.")
    if not (batch.min() >= 0 and batch.max() <= 1):  # Also false for NaN.
        raise BadRequest("input_data must be floats in [0, 1].")
    pixels = np.rint(batch.transpose(0, 2, 3, 1) * 255).astype(np.uint8)  # (N, H, W, 3)
    return [np.ascontiguousarray(image) for image in pixels]
