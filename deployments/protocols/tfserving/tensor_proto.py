"""TensorProto, TensorFlow's tensor, from and to arrays.

Its elements are in tensor_content, little-endian and row-major, or in the list of their type, where a single one stands
for all. Source: tensorflow/core/framework/tensor.proto.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deployments.errors import BadRequest, BodyTooLarge
from deployments.messages import DataPlane, ModelInfo
from deployments.protocols.generated import tensorflow_pb2 as tf
from deployments.protocols.tensors import check_shape
from deployments.protocols.tfserving.signature import input_of
from deployments.settings import InputName

LISTS: Final[dict[InputName, str]] = {"IMAGE": "string_val", "PIXELS": "int_val", "INPUT": "float_val"}
# What tensor_content holds; of texts it would be TensorFlow's own format, which its clients do not write.
CONTENT_DTYPES: Final[dict[InputName, np.dtype[Any]]] = {"PIXELS": np.dtype("u1"), "INPUT": np.dtype("<f4")}
# More than any input has; what is beyond is not even looked at.
MAX_DIMENSIONS: Final = 8


def input_from(key: str, proto: tf.TensorProto, info: ModelInfo, plane: DataPlane) -> tuple[InputName, NDArray[Any]]:
    """The input that is meant and its values, as `tensors.images_from` takes them. Raises BadRequest."""
    name = input_of(key, _dtype_name(proto.dtype), info)
    shape = _shape(proto.tensor_shape)
    # Before any element is touched, since a few bytes can claim any shape.
    check_shape(name, shape, info)
    plane.check_count(shape[0])
    if proto.tensor_content:
        return name, _from_content(name, proto, shape)
    return name, _from_list(name, proto, shape, plane.limits.max_body_bytes)


def proto_of(values: NDArray[np.float32]) -> tf.TensorProto:
    """DT_FLOAT with float_val, which clients without TensorFlow can read."""
    dims = [tf.TensorShapeProto.Dim(size=size) for size in values.shape]
    return tf.TensorProto(
        dtype=tf.DT_FLOAT, tensor_shape=tf.TensorShapeProto(dim=dims), float_val=values.ravel().tolist()
    )


def _dtype_name(dtype: int) -> str:
    return tf.DataType.Name(dtype) if dtype in tf.DataType.values() else f"DataType {dtype}"


def _shape(proto: tf.TensorShapeProto) -> list[int]:
    if proto.unknown_rank or len(proto.dim) > MAX_DIMENSIONS:
        raise BadRequest(f"The shape of an input must be known, and have at most {MAX_DIMENSIONS} dimensions.")
    return [dim.size for dim in proto.dim]


def _from_content(name: InputName, proto: tf.TensorProto, shape: Sequence[int]) -> NDArray[Any]:
    if len(getattr(proto, LISTS[name])):
        raise BadRequest(f"The elements of {name} are in tensor_content or in {LISTS[name]}, and not in both.")
    if name == "IMAGE":
        raise BadRequest("The elements of IMAGE must be in string_val, not in tensor_content.")
    dtype = CONTENT_DTYPES[name]
    size = math.prod(shape) * dtype.itemsize
    if len(proto.tensor_content) != size:
        raise BadRequest(
            f"The input {name} of shape {shape} has {size} bytes; its tensor_content has {len(proto.tensor_content)}."
        )
    return np.frombuffer(proto.tensor_content, dtype).reshape(shape)


def _from_list(name: InputName, proto: tf.TensorProto, shape: Sequence[int], max_bytes: int) -> NDArray[Any]:
    elements, count = getattr(proto, LISTS[name]), math.prod(shape)
    if len(elements) not in (1, count):
        raise BadRequest(
            f"The input {name} of shape {shape} has {count} elements; its {LISTS[name]} has {len(elements)}."
        )
    if name == "IMAGE":
        images = np.empty(count, object)
        images[:] = list(elements) * (count // len(elements))
        return images.reshape(shape)
    dtype = CONTENT_DTYPES[name]
    if count * dtype.itemsize > max_bytes:
        raise BodyTooLarge(f"The input {name} of shape {shape} is larger than {max_bytes} bytes.")
    values = np.array(elements)  # int32 or float32
    if name == "PIXELS" and not (values.min() >= 0 and values.max() <= 255):
        raise BadRequest(f"The elements of PIXELS must be from 0 to 255, not {values.min()} to {values.max()}.")
    return np.broadcast_to(values.astype(dtype), count).reshape(shape)
