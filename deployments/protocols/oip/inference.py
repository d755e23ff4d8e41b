"""Open Inference Protocol v2: an inference request and its answer, whether they came as JSON, binary or protobuf."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from deployments.errors import BadRequest
from deployments.messages import Answer, DataPlane, ModelInfo
from deployments.protocols.json_bodies import quoted
from deployments.protocols.tensors import (
    answers_of,
    check_shape,
    classification,
    images_from,
    output_values,
)
from deployments.settings import InputName, OutputName

# Of the inputs of `tensors`.
DATATYPES: Final[dict[InputName, str]] = {"IMAGE": "BYTES", "PIXELS": "UINT8", "INPUT": "FP32"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """`values` has the shape of the tensor; those of BYTES are objects, each of them bytes."""

    name: str
    datatype: str
    values: NDArray[Any]


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """`classification`: how many of the best classes to answer in place of all values, or 0."""

    name: str
    classification: int = 0


@dataclass(frozen=True, slots=True)
class InferRequest:
    """No `outputs` means all. `timeout_s` is the parameter of that name, or None."""

    inputs: Sequence[Tensor]
    outputs: Sequence[RequestedOutput] = ()
    id: str = ""
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class InferResponse:
    info: ModelInfo
    id: str
    outputs: Sequence[Tensor]


async def infer(plane: DataPlane, info: ModelInfo, request: InferRequest, left_s: float) -> InferResponse:
    """Raises BadRequest for a request that does not fit the model, or the error of its first image that failed.

    `left_s`: seconds until the caller's deadline, with the request's own timeout.
    """
    outputs = _checked_outputs(request.outputs, info)
    tensor = _only_input(request.inputs, info)
    images = images_from(cast("InputName", tensor.name), tensor.values, info)
    answers = answers_of(await plane.classify(images, info, left_s))
    return InferResponse(info, request.id, [_render(output, answers, info) for output in outputs])


def check_names(names: Sequence[str], info: ModelInfo) -> None:
    """Raises BadRequest if those are not the inputs of one request."""
    if len(names) != 1 or names[0] not in info.inputs:
        raise BadRequest(
            f"The model {info.name!r} takes exactly one input, {' or '.join(info.inputs)}; the request has "
            f"{', '.join(map(quoted, names[:5])) or 'none'}{', ...' if len(names) > 5 else ''}."
        )


def check_input(name: str, datatype: str, shape: Sequence[int], info: ModelInfo) -> None:
    """Raises BadRequest unless the model has that input. For use before the elements are read: it costs nothing."""
    expected = DATATYPES[cast("InputName", name)]
    if datatype != expected:
        raise BadRequest(f"The input {name} has the datatype {expected}; the request's has {quoted(datatype)}.")
    check_shape(cast("InputName", name), shape, info)


def _only_input(inputs: Sequence[Tensor], info: ModelInfo) -> Tensor:
    check_names([tensor.name for tensor in inputs], info)
    (tensor,) = inputs
    check_input(tensor.name, tensor.datatype, tensor.values.shape, info)
    return tensor


def _checked_outputs(outputs: Sequence[RequestedOutput], info: ModelInfo) -> Sequence[RequestedOutput]:
    names = [output.name for output in outputs]
    for output in outputs:
        if output.name not in info.outputs:
            raise BadRequest(
                f"The model {info.name!r} has the outputs {', '.join(info.outputs)}, and no {quoted(output.name)}."
            )
        if names.count(output.name) > 1:
            raise BadRequest(f"The output {output.name} is asked for twice.")
        if output.classification < 0:
            raise BadRequest(f"classification must be a number of classes, not {output.classification}.")
    return outputs or [RequestedOutput(name) for name in info.outputs]


def _render(output: RequestedOutput, answers: Sequence[Answer], info: ModelInfo) -> Tensor:
    values = output_values(cast("OutputName", output.name), answers)
    if output.classification:
        classes = classification(values, output.classification, info.labels)
        return Tensor(output.name, "BYTES", np.array(classes, dtype=object))
    return Tensor(output.name, "FP32", values)
