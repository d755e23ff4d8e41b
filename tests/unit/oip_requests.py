"""Inference requests of the Open Inference Protocol over HTTP as a client writes them, and answers as it reads them.

Written after the specification and not with the code under test.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from tests.unit.bytes_plane import BytesPlane, base64_of, refusal, send

HEADER = "Inference-Header-Content-Length"
INFER = "/v2/models/shapes/infer"
DTYPES = {"FP32": "<f4", "UINT8": "u1"}


def post(
    content: bytes, plane: BytesPlane | None = None, path: str = INFER, headers: Mapping[str, str | bytes] | None = None
) -> httpx.Response:
    return send("POST", path, plane, content=content, headers=headers or {})


def post_json(body: object, plane: BytesPlane | None = None, path: str = INFER) -> httpx.Response:
    return post(json.dumps(body).encode(), plane, path)


def post_binary(
    body: object, blob: bytes, plane: BytesPlane | None = None, json_bytes: int | str | None = None
) -> httpx.Response:
    """The JSON and the bytes after it; `json_bytes` is what the header says, by default the truth."""
    text = json.dumps(body).encode()
    return post(text + blob, plane, headers={HEADER: str(len(text) if json_bytes is None else json_bytes)})


def encoded(*elements: bytes) -> bytes:
    """Elements of BYTES, as they follow the JSON."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def image_input(*images: bytes) -> dict[str, Any]:
    return {
        "name": "IMAGE",
        "datatype": "BYTES",
        "shape": [len(images)],
        "data": [base64_of(image) for image in images],
    }


def array_input(name: str, values: NDArray[Any], data: object = None) -> dict[str, Any]:
    datatype = {"PIXELS": "UINT8", "INPUT": "FP32"}[name]
    return {
        "name": name,
        "datatype": datatype,
        "shape": list(values.shape),
        "data": values.tolist() if data is None else data,
    }


def sized(tensor: dict[str, Any], size_bytes: object) -> dict[str, Any]:
    """The input with its elements after the JSON."""
    parameters = {"binary_data_size": size_bytes}
    return {**{key: value for key, value in tensor.items() if key != "data"}, "parameters": parameters}


# One of each: an image, a picture of two pixels, and a preprocessed one.
IMAGE = image_input(b"photo")
PIXELS = array_input("PIXELS", np.zeros((1, 1, 2, 3), np.uint8))
INPUT = array_input("INPUT", np.zeros((1, 3, 224, 224), np.float32), [0.5] * 3 * 224 * 224)


def infer_images(
    images: Sequence[bytes], plane: BytesPlane | None = None, path: str = INFER, **more: Any
) -> dict[str, Any]:
    response = post_json({"inputs": [image_input(*images)], **more}, plane, path)
    assert response.status_code == 200, response.text
    return head_of(response)


def refused(body: object, status: int = 400, code: str = "bad_request", plane: BytesPlane | None = None) -> str:
    """The sentence, after a check that nothing of the request went further."""
    plane = plane or BytesPlane()
    response = post(body, plane) if isinstance(body, bytes) else post_json(body, plane)
    sentence = refusal(response, status, code)
    assert plane.images == []
    assert len(sentence) < 400
    return sentence


def refused_binary(body: object, blob: bytes, json_bytes: int | str | None = None) -> str:
    return refusal(post_binary(body, blob, json_bytes=json_bytes), 400, "bad_request")


def head_of(response: httpx.Response) -> dict[str, Any]:
    """The JSON of an answer."""
    size = response.headers.get(HEADER)
    content: dict[str, Any] = json.loads(response.content if size is None else response.content[: int(size)])
    return content


def outputs_of(response: httpx.Response) -> dict[str, Any]:
    """By name: arrays of the announced shape, and lists of bytes for BYTES. All bytes must be accounted for."""
    assert response.status_code == 200, response.text
    head, values, start = head_of(response), {}, int(response.headers.get(HEADER, len(response.content)))
    for output in head["outputs"]:
        if "data" in output:
            values[output["name"]] = _array(output, output["data"])
            continue
        end = start + output["parameters"]["binary_data_size"]
        values[output["name"]] = _array(output, response.content[start:end])
        start = end
    assert start == len(response.content)
    return values


def _array(output: dict[str, Any], data: Any) -> Any:
    if output["datatype"] == "BYTES":
        elements = _elements(data) if isinstance(data, bytes) else [element.encode() for element in data]
        return np.array(elements, object).reshape(output["shape"]).tolist()
    dtype = DTYPES[output["datatype"]]
    flat = np.frombuffer(data, dtype) if isinstance(data, bytes) else np.array(data, dtype)
    return flat.reshape(output["shape"])


def _elements(blob: bytes) -> list[bytes]:
    elements = []
    while blob:
        (size,) = struct.unpack("<I", blob[:4])
        elements.append(blob[4 : 4 + size])
        blob = blob[4 + size :]
    return elements
