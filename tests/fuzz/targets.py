"""What is fuzzed: each target takes any bytes, and nothing may escape it but what is a client's answer.

The first byte or bytes choose among settings where there are some, so that a fuzzer finds them, too.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable
from typing import Final

import numpy as np
from google.protobuf.message import DecodeError

from deployments.decode_cost import is_short
from deployments.errors import ApertureError
from deployments.imaging import open_checked, preprocess, warm_up
from deployments.protocols.encoding import decompressed
from deployments.protocols.generated import inference_pb2 as oip
from deployments.protocols.generated import tensorflow_pb2 as tf
from deployments.protocols.json_bodies import array_of, parse_json, quoted
from deployments.protocols.multipart import files_in
from deployments.protocols.oip import grpc_messages as oip_grpc
from deployments.protocols.oip import rest_messages as oip_rest
from deployments.protocols.oip.binary import tensor_from_bytes
from deployments.protocols.tensors import images_from
from deployments.protocols.tfserving import rest_messages as tf_rest
from deployments.protocols.tfserving.tensor_proto import input_from
from deployments.settings import Limits, PreprocessingSpec
from tests.unit.bytes_plane import BytesPlane

Target = Callable[[bytes], None]

# Small enough that no input takes long, and that what asks for more is refused.
LIMITS: Final = (Limits(max_pixels=300_000), Limits(max_pixels=300_000, animated="refuse"))
SPECS: Final = tuple(PreprocessingSpec(resize_size=24, crop_size=20, fidelity=it) for it in ("exact", "fast"))
PLANE: Final = BytesPlane()
INFO: Final = PLANE.info_of("shapes")
DATATYPES: Final = ("BYTES", "UINT8", "FP32")
CONTENT_TYPES: Final = ("multipart/form-data; boundary=edge", "multipart/form-data", "multipart/form-data; boundary=")
CODINGS: Final = ("gzip", "x-gzip", "deflate")


def header(data: bytes) -> None:
    """The header check, and the estimate of what decoding costs."""
    is_short(data, SPECS[0])
    for limits in LIMITS:
        with contextlib.suppress(ApertureError):
            picture = open_checked(data, limits)
            assert picture.width * picture.height <= limits.max_pixels


def decoder(data: bytes) -> None:
    """All of preprocessing."""
    for limits, spec in zip(LIMITS, SPECS, strict=True):
        with contextlib.suppress(ApertureError):
            pixels = preprocess(data, spec, limits)
            assert pixels.shape == (20, 20, 3)


def oip_binary(data: bytes) -> None:
    """The binary tensor extension: a datatype, a number of elements, their bytes."""
    if len(data) < 2:
        return
    datatype, count = DATATYPES[data[0] % 3], data[1]
    with contextlib.suppress(ApertureError):
        tensor = tensor_from_bytes("IMAGE", datatype, [count], memoryview(data)[2:])
        assert tensor.values.shape == (count,)


def oip_json(data: bytes) -> None:
    """A body of POST /v2/models/NAME/infer; the first two bytes are the header with the length of its JSON."""
    size, body = int.from_bytes(data[:2], "big"), data[2:]
    with contextlib.suppress(ApertureError):
        request = oip_rest.parse_request(body, str(size) if size < 2**15 else None, INFO, PLANE.check_count)
        for tensor in request.infer.inputs:
            images_from(tensor.name, tensor.values, INFO)  # type: ignore[arg-type]


def oip_proto(data: bytes) -> None:
    """A ModelInferRequest of gRPC."""
    with contextlib.suppress(ApertureError, DecodeError):
        tensor = oip_grpc.input_of(oip.ModelInferRequest.FromString(data), INFO, PLANE.check_count)
        images_from(tensor.name, tensor.values, INFO)  # type: ignore[arg-type]


def tensor_proto(data: bytes) -> None:
    """A TensorProto of TensorFlow Serving; the first byte is the name of the input."""
    key = ("IMAGE", "PIXELS", "INPUT", "inputs")[data[0] % 4] if data else ""
    with contextlib.suppress(ApertureError, DecodeError):
        name, values = input_from(key, tf.TensorProto.FromString(data[1:]), INFO, PLANE)
        images_from(name, values, INFO)


def tf_json(data: bytes) -> None:
    """Bodies of TensorFlow Serving's REST API."""
    with contextlib.suppress(ApertureError):
        _loop().run_until_complete(tf_rest.parse_predict(data, PLANE, INFO))
    with contextlib.suppress(ApertureError):
        tf_rest.parse_classify(data, PLANE, INFO)


def multipart(data: bytes) -> None:
    """A body of multipart/form-data; the first byte is the content type."""
    content_type = CONTENT_TYPES[data[0] % 3] if data else ""
    with contextlib.suppress(ApertureError):
        _loop().run_until_complete(files_in(content_type, data[1:]))


def json_bodies(data: bytes) -> None:
    """JSON, what errors repeat of it, and nested lists of numbers."""
    with contextlib.suppress(ApertureError):
        value = parse_json(data)
        assert len(quoted(value)) <= 100
        for dtype in (np.uint8, np.float32):
            with contextlib.suppress(ApertureError):
                array_of(value, dtype, "data")


def codings(data: bytes) -> None:
    """Compressed bodies; the first byte is the coding."""
    if data:
        with contextlib.suppress(ApertureError):
            assert len(decompressed(data[1:], CODINGS[data[0] % 3], 100_000)) <= 100_000


TARGETS: Final[dict[str, Target]] = {
    each.__name__: each
    for each in (
        *(header, decoder, oip_binary, oip_json, oip_proto, tensor_proto, tf_json, multipart, json_bodies, codings),
    )
}


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for all inputs, since making one takes longer than most of them."""
    return asyncio.new_event_loop()


def prepare() -> None:
    """What the service does before it decodes."""
    warm_up(LIMITS[0])
