"""Bodies of inference requests and answers over HTTP: JSON, and tensors as bytes after it.

    JSON ‖ bytes of the input      Inference-Header-Content-Length: length of the JSON
    JSON alone                     no such header; `data` is flat or nested, row-major
    an image, or the bytes of INPUT if the model announces no IMAGE      Inference-Header-Content-Length: 0

In JSON, an image is base64, for the bytes of an image are no text; `parameters` need not say so, as KServe's
content_type does. Parameters that mean nothing here are ignored, and null is as good as nothing.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, cast

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response

from deployments.errors import BadRequest
from deployments.messages import ModelInfo
from deployments.protocols.json_bodies import array_of, parse_object, quoted
from deployments.protocols.json_images import image_of
from deployments.protocols.oip.binary import DTYPES, bytes_of, tensor_from_bytes
from deployments.protocols.oip.inference import (
    DATATYPES,
    InferRequest,
    InferResponse,
    RequestedOutput,
    Tensor,
    check_input,
    check_names,
)
from deployments.protocols.tensors import OUTPUTS, input_shape

HEADER: Final = "inference-header-content-length"
# Of any number of bytes and any version, and few enough to parse whatever a client sends.
MAX_DIGITS: Final = 18
NONE: Final[Mapping[str, Any]] = {}
# Of gRPC's timeout parameter; in JSON nothing bounds a number.
MAX_TIMEOUT_US: Final = 2**63


@dataclass(frozen=True, slots=True)
class RestRequest:
    """`binary`: names of the outputs that are to be answered as bytes."""

    infer: InferRequest
    binary: frozenset[str]


def parse_request(body: bytes, header: str | None, info: ModelInfo, check_count: Callable[[int], None]) -> RestRequest:
    """`header` is Inference-Header-Content-Length. Raises BadRequest, or what `check_count` raises for the images."""
    size = len(body) if header is None else _json_size(header, len(body))
    if header is not None and size == 0:
        return RestRequest(InferRequest([_raw_input(body, info)]), frozenset(OUTPUTS))
    content = parse_object(body[:size], "inputs")
    parameters = _parameters(content, "the request")
    tensor = _input(content, memoryview(body)[size:], info, check_count)
    outputs, binary = _outputs(content, _flag(parameters, "binary_data_output", default=False))
    request = InferRequest([tensor], outputs, _id(content), _timeout_s(parameters))
    return RestRequest(request, binary)


def render_response(response: InferResponse, binary: frozenset[str]) -> Response:
    """The outputs named in `binary` as bytes after the JSON, in the order of the outputs."""
    outputs, blobs = [], []
    for tensor in response.outputs:
        output: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.values.shape),
        }
        if tensor.name in binary:
            blobs.append(bytes_of(tensor))
            output["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            output["data"] = _json_data(tensor)
        outputs.append(output)
    head = {"model_name": response.info.name, "model_version": str(response.info.version), "outputs": outputs}
    if response.id:
        head["id"] = response.id
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    if not blobs:
        return Response(text, media_type="application/json")
    return Response(b"".join((text, *blobs)), media_type="application/octet-stream", headers={HEADER: str(len(text))})


def _json_size(header: str, body_bytes: int) -> int:
    if header.isascii() and header.isdigit() and len(header) <= MAX_DIGITS and int(header) <= body_bytes:
        return int(header)
    raise BadRequest(
        f"Inference-Header-Content-Length must be a number from 0 to the {body_bytes} bytes of the body, "
        f"not {quoted(header)}."
    )


def _raw_input(body: bytes, info: ModelInfo) -> Tensor:
    if not body:
        raise BadRequest("The body is empty; send an image.")
    if "IMAGE" in info.inputs:
        return Tensor("IMAGE", DATATYPES["IMAGE"], np.array([body], object))
    if "INPUT" not in info.inputs:
        raise BadRequest(
            f"A body without JSON has no shape, which {' and '.join(info.inputs)} of model {info.name!r} need."
        )
    shape = [1, *input_shape("INPUT", info)[1:]]
    return tensor_from_bytes("INPUT", DATATYPES["INPUT"], shape, body)


def _input(content: dict[str, Any], blob: memoryview, info: ModelInfo, check_count: Callable[[int], None]) -> Tensor:
    inputs = _objects(content.get("inputs"), "inputs", most=len(DATATYPES))
    check_names([_text(each.get("name"), "The name of an input") for each in inputs], info)
    (each,) = inputs
    name, datatype, shape = each["name"], _text(each.get("datatype"), "The datatype of an input"), _shape(each)
    # Before any element is read, since that takes time for each.
    check_input(name, datatype, shape, info)
    check_count(shape[0])
    size = _parameters(each, name).get("binary_data_size")
    if (size is None) == (each.get("data") is None):
        raise BadRequest(f"The input {name} needs either data or the parameter binary_data_size, and not both.")
    if type(size) not in (int, type(None)) or (size or 0) != len(blob):
        raise BadRequest(
            f"After the JSON there are {len(blob)} bytes, but binary_data_size of the input {name} is {quoted(size)}."
        )
    if size is None:
        return Tensor(name, datatype, _from_json(each["data"], name, datatype, shape))
    return tensor_from_bytes(name, datatype, shape, blob)


def _shape(each: dict[str, Any]) -> list[int]:
    shape = each.get("shape")
    if isinstance(shape, list) and all(type(size) is int and abs(size) < 2**63 for size in shape):
        return shape
    raise BadRequest(f"The shape of the input {each['name']} must be a list of 64-bit integers.")


def _from_json(data: object, name: str, datatype: str, shape: list[int]) -> NDArray[Any]:
    if datatype == "BYTES":
        texts = _texts(data)
        _check_size(name, shape, len(texts))
        images = np.empty(len(texts), object)
        images[:] = [image_of(text) for text in texts]
        return images.reshape(shape)
    values = array_of(data, DTYPES[datatype].type, f"The data of {name}")
    _check_size(name, shape, values.size)
    return values.reshape(shape)


def _check_size(name: str, shape: list[int], elements: int) -> None:
    if elements != math.prod(shape):
        raise BadRequest(f"The input {name} of shape {shape} has {math.prod(shape)} elements, not {elements}.")


def _texts(data: object) -> list[object]:
    if not isinstance(data, list):
        raise BadRequest(f"The data of IMAGE must be a list of base64 strings, not {quoted(data)}.")
    rows = data if data and all(isinstance(row, list) for row in data) else [data]
    return list(chain.from_iterable(rows))


def _outputs(content: dict[str, Any], default: bool) -> tuple[list[RequestedOutput], frozenset[str]]:
    """What is asked for, and the names of what is asked for as bytes."""
    if not content.get("outputs"):
        return [], frozenset(OUTPUTS if default else ())
    outputs, binary = [], set()
    for each in _objects(content["outputs"], "outputs", most=len(OUTPUTS)):
        name, parameters = _text(each.get("name"), "The name of an output"), _parameters(each, "an output")
        classes = parameters.get("classification", 0)
        if type(classes) is not int:
            raise BadRequest(f"classification must be a number of classes, not {quoted(classes)}.")
        outputs.append(RequestedOutput(name, classes))
        if _flag(parameters, "binary_data", default=default):
            binary.add(name)
    return outputs, frozenset(binary)


def _json_data(tensor: Tensor) -> Any:
    if tensor.datatype == "BYTES":
        return [element.decode() for element in tensor.values.ravel()]
    return tensor.values.ravel()


def _id(content: dict[str, Any]) -> str:
    return "" if content.get("id") is None else _text(content["id"], "id")


def _timeout_s(parameters: Mapping[str, Any]) -> float | None:
    timeout_us = parameters.get("timeout", 0)
    if type(timeout_us) is not int or timeout_us < 0:
        raise BadRequest(f"timeout must be a number of microseconds, not {quoted(timeout_us)}.")
    return min(timeout_us, MAX_TIMEOUT_US) / 1e6 if timeout_us else None


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise BadRequest(f"{name} must be true or false, not {quoted(value)}.")
    return value


def _parameters(owner: dict[str, Any], name: str) -> Mapping[str, Any]:
    parameters = owner.get("parameters")
    return NONE if parameters is None else _object(parameters, f"parameters of {name}")


def _objects(value: object, name: str, most: int) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise BadRequest(f"{name} must be a list of objects, not {quoted(value)}.")
    if len(value) > most:
        raise BadRequest(f"There are {len(value)} {name}; a model has at most {most}.")
    return [_object(each, f"Each of {name}") for each in value]


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{name} must be an object, not {quoted(value)}.")
    return cast("dict[str, Any]", value)


def _text(value: object, name: str) -> str:
    # JSON can write halves of surrogate pairs, which are no text that could be sent back.
    if isinstance(value, str) and value.encode(errors="replace").decode() == value:
        return value
    raise BadRequest(f"{name} must be a text, not {quoted(value)}.")
