"""Requests that must be refused, one of each kind, and the statuses that are right for them."""

import base64
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from benchmarks.soak.asking import JSON, LENGTH, infer_path
from benchmarks.soak.calling import Stubs, request_of
from benchmarks.soak.questions import Question
from deployments.protocols.generated import inference_pb2, tensorflow_serving_pb2

MULTIPART = {"content-type": "multipart/form-data; boundary=b"}
DEEP = b"[" * 100_000 + b"]" * 100_000
# One more than limits.max_images is by default.
TOO_MANY, TOO_MANY_FILES = 65, "too many files"


@dataclass(frozen=True)
class Misuse:
    what: str
    path: str
    body: bytes
    statuses: tuple[int, ...] = (400,)
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"


def misuses(image: bytes, model: str) -> Sequence[Misuse]:
    """`image`: what is a picture, as the model `model` takes it."""
    infer, tensorflow = infer_path(model), f"/v1/models/{model}"
    text = base64.b64encode(image).decode()
    tensor = {"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [text]}
    part = b'--b\r\ncontent-disposition: form-data; name="f"; filename="f"\r\n\r\nGIF89a\r\n'
    return [
        Misuse("nothing", "/predict", b""),
        Misuse("a PDF", "/predict", b"%PDF-1.7 no image", (415,)),
        Misuse("half an image", "/predict", image[: len(image) // 2], (422,)),
        Misuse("a bomb by its header", "/predict", _png_header(20_000, 20_000), (422,)),
        Misuse("no number of predictions", "/predict?top_k=many", image),
        Misuse("an unknown model", "/predict?model=no-such-model", image, (404,)),
        Misuse("an unknown route", "/nothing", image, (404,)),
        Misuse("another method", "/predict", b"", (405,), method="GET"),
        Misuse("JSON that is none", "/predict", b"{", headers=JSON),
        Misuse("deep JSON", "/predict", b'{"images": ' + DEEP + b"}", headers=JSON),
        Misuse("base64 that is none", "/predict", b'{"image": "*"}', headers=JSON),
        Misuse("a URL of nobody", "/predict", b'{"image_url": "http://127.0.0.1:1/x.png"}', headers=JSON),
        Misuse("a form without a file", "/predict", b"--b--\r\n", headers=MULTIPART),
        Misuse(TOO_MANY_FILES, "/predict", part * TOO_MANY + b"--b--\r\n", (413,), MULTIPART),
        Misuse("a shape that is none", infer, _inputs({**tensor, "shape": [-1]}), headers=JSON),
        Misuse("an unknown tensor", infer, _inputs({**tensor, "name": "CATS"}), headers=JSON),
        Misuse("a header beyond its body", infer, _inputs(tensor), headers={LENGTH: "99999999"}),
        Misuse("gzip that is none", infer, b"no gzip", headers={"content-encoding": "gzip"}),
        Misuse("an unknown coding", infer, b"x", (415,), {"content-encoding": "br"}),
        Misuse("no instances", f"{tensorflow}:predict", b'{"instances": []}', headers=JSON),
        Misuse("an unknown version", f"{tensorflow}/versions/999999:predict", b'{"instances": [1]}', (404,), JSON),
        Misuse("inputs of null", "/", b'{"inputs": null}', headers=JSON),
    ]


async def wrong_calls(stubs: Stubs, question: Question, timeout_s: float) -> Mapping[str, tuple[Any, grpc.StatusCode]]:
    """By what is wrong: the call, to be awaited, and the status that it must end in."""
    unknown = request_of([question])
    unknown.model_name = "no-such-model"
    short = request_of([question])
    short.inputs[0].shape[0] = 2
    empty = tensorflow_serving_pb2.PredictRequest(model_spec={"name": question.model})
    infer, load = stubs.inference.ModelInfer, stubs.inference.RepositoryModelLoad
    status = grpc.StatusCode
    return {
        "an unknown model": (infer(unknown, timeout=timeout_s), status.NOT_FOUND),
        "too few images": (infer(short, timeout=timeout_s), status.INVALID_ARGUMENT),
        "no inputs": (stubs.prediction.Predict(empty, timeout=timeout_s), status.INVALID_ARGUMENT),
        "an RPC that is not served": (
            load(inference_pb2.RepositoryModelLoadRequest(), timeout=timeout_s),
            status.UNIMPLEMENTED,
        ),
    }


def _inputs(tensor: Mapping[str, Any]) -> bytes:
    return json.dumps({"inputs": [tensor]}).encode()


def _png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and breaks off where its pixels begin (PNG, 3rd edition, 5.3 and 11.2.1)."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + head + struct.pack(">I", 100) + b"IDAT" + bytes(104)
