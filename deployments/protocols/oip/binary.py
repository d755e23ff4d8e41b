"""The binary tensor extension: the elements of a tensor as bytes, little-endian and row-major.

An element of BYTES is its length in 4 bytes, then itself. HTTP has these bytes after the JSON, gRPC has them in
raw_input_contents and raw_output_contents.
Source: docs/protocol/extension_binary_data.md of triton-inference-server/server.
"""

import math
import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from deployments.errors import BadRequest
from deployments.protocols.oip.inference import Tensor

DTYPES: Final[dict[str, np.dtype[Any]]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}
LENGTH: Final = struct.Struct("<I")


def tensor_from_bytes(name: str, datatype: str, shape: Sequence[int], content: bytes | memoryview) -> Tensor:
    """The tensor, whose name, datatype and shape must have been checked. Its numbers are a view of `content`.

    Raises BadRequest unless `content` is exactly that many elements.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        elements = _elements(name, count, memoryview(content))
        values = np.empty(count, object)
        values[:] = elements
        return Tensor(name, datatype, values.reshape(shape))
    dtype = DTYPES[datatype]
    if len(content) != count * dtype.itemsize:
        raise BadRequest(
            f"The input {name} of shape {list(shape)} and datatype {datatype} has {count * dtype.itemsize} bytes; "
            f"the request has {len(content)}."
        )
    return Tensor(name, datatype, np.frombuffer(content, dtype).reshape(shape))


def bytes_of(tensor: Tensor) -> bytes:
    if tensor.datatype == "BYTES":
        return b"".join(LENGTH.pack(len(element)) + element for element in tensor.values.ravel())
    return tensor.values.astype(DTYPES[tensor.datatype], copy=False).tobytes()


def _elements(name: str, count: int, content: memoryview) -> list[bytes]:
    elements, start = [], 0
    for number in range(1, count + 1):
        end = start + LENGTH.size
        if end <= len(content):
            end += LENGTH.unpack_from(content, start)[0]
        if end > len(content):
            raise BadRequest(f"The bytes of the input {name} end before its element {number} of {count} does.")
        elements.append(bytes(content[start + LENGTH.size : end]))
        start = end
    if start < len(content):
        raise BadRequest(f"The input {name} has {len(content) - start} bytes after its {count} elements.")
    return elements
