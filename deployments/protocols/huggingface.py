"""The convention of Hugging Face's inference API for image classification: POST /.

    the image, of any content type but JSON                    [{"label", "score"}, ...], the best first
    {"inputs": image, "parameters": {...}}                     likewise
    {"inputs": [image, ...], "parameters": {...}}              a list of these, in the order sent

An image in JSON is base64, a data URL, or an http(s) URL, which is fetched if the settings allow its host. Parameters
are top_k (default 5) and function_to_apply: softmax (the default), sigmoid, or none for the logits. `?model=` and
`?version=` or `?label=` choose the model. If an image fails, so does the request. See
huggingface.co/docs/inference-providers, task image classification.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.errors import ApertureError, BadRequest
from deployments.messages import Answer, DataPlane, ImageInput, Logits
from deployments.protocols.encoding import read_body
from deployments.protocols.http import chosen_in_query, classified
from deployments.protocols.json_bodies import parse_object, quoted
from deployments.protocols.json_images import fetched, image_of, image_of_data_url
from deployments.protocols.predict import DEFAULT_TOP_K, checked_top_k
from deployments.protocols.tensors import answers_of, best

Score = Callable[[Answer], Logits]


def _sigmoid(answer: Answer) -> Logits:
    # By tanh, which overflows for no logit.
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * answer.logits), np.float32)


SCORES: Final[dict[str, Score]] = {
    "softmax": lambda answer: answer.probabilities,
    "sigmoid": _sigmoid,
    "none": lambda answer: answer.logits,
}


@dataclass(frozen=True, slots=True)
class Parameters:
    top_k: int = DEFAULT_TOP_K
    score: Score = SCORES["softmax"]


def routes(plane: DataPlane) -> list[Route]:
    async def classify(request: Request) -> Response:
        body = await read_body(request, plane.limits.max_body_bytes)
        info = chosen_in_query(plane, request)
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            (answer,) = answers_of(await classified(plane, request, [_raw(body)], info))
            return JSONResponse(_render(answer, Parameters()))
        fields = parse_object(body, "inputs, an image in base64")
        parameters = _parameters(fields.get("parameters"))
        images, is_list = await _images(fields.get("inputs"), plane)
        rendered = [
            _render(answer, parameters) for answer in answers_of(await classified(plane, request, images, info))
        ]
        return JSONResponse(rendered if is_list else rendered[0])

    return [Route("/", classify, methods=["POST"])]


def _raw(body: bytes) -> bytes:
    if not body:
        raise BadRequest("The body is empty; send an image.")
    return body


async def _images(inputs: object, plane: DataPlane) -> tuple[Sequence[ImageInput | ApertureError], bool]:
    """The images, and whether they came in a list. Raises BadRequest or TooManyImages."""
    is_list = isinstance(inputs, list)
    texts = inputs if isinstance(inputs, list) else [inputs]
    if not texts:
        raise BadRequest("inputs must be an image in base64, or a list with at least one.")
    plane.check_count(len(texts))
    images: list[ImageInput | ApertureError | None] = [None if _is_url(text) else _decoded(text) for text in texts]
    urls = iter(await fetched(plane, [text for text in texts if _is_url(text)]))
    return [next(urls) if image is None else image for image in images], is_list


def _is_url(text: object) -> bool:
    return isinstance(text, str) and text[:8].lower().startswith(("http://", "https://"))


def _decoded(text: object) -> bytes:
    if isinstance(text, str) and text[:5].lower() == "data:":
        return image_of_data_url(text)
    return image_of(text, "An image in inputs")


def _parameters(parameters: object) -> Parameters:
    """Unknown ones are ignored, as there, and null is as good as none."""
    given: Any = {} if parameters is None else parameters
    if not isinstance(given, dict):
        raise BadRequest(f"parameters must be an object, not {quoted(given)}.")
    top_k, function = given.get("top_k"), given.get("function_to_apply")
    if function is not None and (not isinstance(function, str) or function not in SCORES):
        raise BadRequest(f"function_to_apply must be {', '.join(SCORES)}, not {quoted(function)}.")
    return Parameters(
        DEFAULT_TOP_K if top_k is None else checked_top_k(top_k),
        SCORES["softmax" if function is None else function],
    )


def _render(answer: Answer, parameters: Parameters) -> list[dict[str, Any]]:
    scores, labels = parameters.score(answer), answer.info.labels
    # By logits: sigmoids of large ones are equal.
    return [{"label": labels[index], "score": float(scores[index])} for index in best(answer.logits, parameters.top_k)]
