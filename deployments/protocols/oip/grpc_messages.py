"""Bodies of inference requests and answers over gRPC.

Elements of the input are in raw_input_contents, as stock clients send them, or in the list of their type.
"""

import math
from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np

from deployments.errors import BadRequest
from deployments.messages import ModelInfo
from deployments.protocols.generated import inference_pb2 as pb
from deployments.protocols.json_bodies import quoted
from deployments.protocols.oip.binary import bytes_of, tensor_from_bytes
from deployments.protocols.oip.inference import (
    InferRequest,
    InferResponse,
    RequestedOutput,
    Tensor,
    check_input,
    check_names,
)
from deployments.protocols.tensors import OUTPUTS

# Where the elements of a datatype are, unless they are in raw_input_contents.
CONTENTS: Final = {"BYTES": "bytes_contents", "UINT8": "uint_contents", "FP32": "fp32_contents"}


def parse_request(request: pb.ModelInferRequest, info: ModelInfo, check_count: Callable[[int], None]) -> InferRequest:
    """Raises BadRequest, or what `check_count` raises for the images."""
    timeout_us = _number(request.parameters, "timeout")
    # One more than there are is refused, whatever the others are.
    outputs = request.outputs[: len(OUTPUTS) + 1]
    return InferRequest(
        inputs=[input_of(request, info, check_count)],
        outputs=[RequestedOutput(output.name, _number(output.parameters, "classification")) for output in outputs],
        id=request.id,
        timeout_s=timeout_us / 1e6 if timeout_us else None,
    )


def render_response(response: InferResponse) -> pb.ModelInferResponse:
    return pb.ModelInferResponse(
        model_name=response.info.name,
        model_version=str(response.info.version),
        id=response.id,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name=tensor.name, datatype=tensor.datatype, shape=tensor.values.shape
            )
            for tensor in response.outputs
        ],
        # Where stock clients look for them, and nowhere else.
        raw_output_contents=[bytes_of(tensor) for tensor in response.outputs],
    )


def input_of(request: pb.ModelInferRequest, info: ModelInfo, check_count: Callable[[int], None]) -> Tensor:
    """The one input of the request. What is said of it is checked before its elements are touched."""
    check_names([tensor.name for tensor in request.inputs[:6]], info)
    (tensor,) = request.inputs
    check_input(tensor.name, tensor.datatype, tensor.shape, info)
    check_count(tensor.shape[0])
    if "shared_memory_region" in tensor.parameters:
        raise BadRequest("Inputs in shared memory are not supported; send them in raw_input_contents.")
    if not request.raw_input_contents:
        return _typed(tensor)
    if tensor.HasField("contents"):
        raise BadRequest("An input's elements are in raw_input_contents or in contents, and not in both.")
    if len(request.raw_input_contents) != 1:
        raise BadRequest(f"The request has 1 input, but {len(request.raw_input_contents)} raw_input_contents.")
    return tensor_from_bytes(tensor.name, tensor.datatype, tensor.shape, request.raw_input_contents[0])


def _typed(tensor: pb.ModelInferRequest.InferInputTensor) -> Tensor:
    field = CONTENTS[tensor.datatype]
    elements, size = getattr(tensor.contents, field), math.prod(tensor.shape)
    if len(elements) != size:
        raise BadRequest(f"The input {tensor.name} has {len(elements)} {field}; its shape needs {size}.")
    if tensor.datatype == "BYTES":
        values = np.empty(size, object)
        values[:] = list(elements)
    else:
        values = np.array(elements)  # uint32 or float32
    if tensor.datatype == "UINT8":
        if values.max() > 255:
            raise BadRequest(f"The input {tensor.name} has the element {values.max()}, which is no UINT8.")
        values = values.astype(np.uint8)
    return Tensor(tensor.name, tensor.datatype, values.reshape(tensor.shape))


def _number(parameters: Any, key: str) -> int:
    """A parameter that is an integer and not negative, or 0 if it is not there."""
    if key not in parameters:
        return 0
    kind = parameters[key].WhichOneof("parameter_choice")
    value = getattr(parameters[key], kind) if kind else None
    if kind not in ("int64_param", "uint64_param") or cast("int", value) < 0:
        raise BadRequest(f"The parameter {key} must be an int64_param of 0 or more, not {quoted(value)}.")
    return cast("int", value)
