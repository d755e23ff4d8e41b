"""Requests that no client should send, by what is wrong with them, and what the sentence of the refusal must name."""

import base64
import gzip
import json
import zlib
from dataclasses import dataclass, field
from typing import Any

from tests.conformance.images import HEART
from tests.local_graph import Graph

IMAGE = HEART.read_bytes()
TEXT = base64.b64encode(IMAGE).decode()
INFER, TENSORFLOW, CLASSIFY = "/v2/models/shapes/infer", "/v1/models/shapes:predict", "/v1/models/shapes:classify"
LENGTH = "inference-header-content-length"
DEEP = b"[" * 100_000 + b"]" * 100_000


@dataclass(frozen=True)
class Bad:
    """`said` are parts of the sentence: what was expected and what came."""

    what: str
    path: str
    body: bytes
    said: tuple[str, ...] = ()
    statuses: tuple[int, ...] = (400,)
    headers: dict[str, str] = field(default_factory=dict)


def tensor(name: str = "IMAGE", datatype: str = "BYTES", shape: Any = (1,), **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **(more or {"data": [TEXT]})}


def inputs(*tensors: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": list(tensors), **more}).encode()


def binary(shape: list[int], size: Any, blob: bytes, name: str = "PIXELS", datatype: str = "UINT8") -> Bad:
    head = inputs(tensor(name, datatype, shape, parameters={"binary_data_size": size}))
    return Bad("", INFER, head + blob, headers={LENGTH: str(len(head))})


def wrong(what: str, bad: Bad, *said: str, statuses: tuple[int, ...] = (400,)) -> Bad:
    return Bad(what, bad.path, bad.body, said, statuses, bad.headers)


def header(value: str) -> Bad:
    return Bad(f"header length {value}", INFER, inputs(tensor()), (LENGTH,), headers={LENGTH: value})


HEADER_LENGTHS = [header(value) for value in ("-1", "99999999", "9" * 400, "12.5", "0x10", "", "twelve", "+5", "1e3")]

TRUNCATED = [
    wrong("binary data too short", binary([1, 4, 4, 3], 48, bytes(40)), "48", "40"),
    wrong("binary data too long", binary([1, 4, 4, 3], 48, bytes(50)), "48", "50"),
    wrong("binary size other than the shape's", binary([1, 4, 4, 3], 47, bytes(47)), "48", "47"),
    wrong("no binary size", binary([1, 4, 4, 3], None, bytes(48))),
    wrong("a negative binary size", binary([1, 4, 4, 3], -48, bytes(48))),
    wrong("a binary size that is a text", binary([1, 4, 4, 3], "48", bytes(48))),
    wrong("a string longer than what is left", binary([1], 8, b"\xff\xff\xff\x7fabcd", "IMAGE", "BYTES"), "IMAGE"),
    wrong("half a length of a string", binary([1], 2, b"\x04\x00", "IMAGE", "BYTES"), "IMAGE"),
    wrong("more strings than the shape has", binary([1], 16, b"\x04\0\0\0abcd" * 2, "IMAGE", "BYTES"), "IMAGE"),
    wrong("fewer strings than the shape has", binary([3], 8, b"\x04\0\0\0abcd", "IMAGE", "BYTES"), "IMAGE"),
    Bad("JSON cut by its header length", INFER, inputs(tensor()), ("JSON",), headers={LENGTH: "30"}),
]

SHAPES = [
    Bad(
        "a product beyond 64 bits",
        INFER,
        inputs(tensor("PIXELS", "UINT8", [2**31, 2**31, 2**31, 3], data=[1])),
        (),
        (400, 413),
    ),
    Bad("a huge number of images", INFER, inputs(tensor(shape=[2**62])), ("64",), (400, 413)),
    Bad("a number beyond 64 bits", INFER, inputs(tensor(shape=[10**400]))),
    Bad("a negative dimension", INFER, inputs(tensor("PIXELS", "UINT8", [-1, 4, 4, 3], data=[1])), ("-1", "4, 4, 3")),
    Bad("two negative dimensions", INFER, inputs(tensor("PIXELS", "UINT8", [1, -4, -4, 3], data=[1] * 48)), ("-4",)),
    Bad("a dimension of 0", INFER, inputs(tensor(shape=[0], data=[])), ("IMAGE", "[0]")),
    Bad("a dimension that is a fraction", INFER, inputs(tensor(shape=[1.0])), ("shape",)),
    Bad("a dimension that is true", INFER, inputs(tensor(shape=[True])), ("shape",)),
    Bad("a shape that is a number", INFER, inputs(tensor(shape=1)), ("shape",)),
    Bad("a thousand dimensions", INFER, inputs(tensor(shape=[1] * 1000)), ("shape",)),
    Bad("an empty shape", INFER, inputs(tensor(shape=[])), ("[-1]", "[]")),
]

STRUCTURES = [
    Bad("an empty body", INFER, b""),
    Bad("no JSON", INFER, b"\x00\x01\x02"),
    Bad("a list", INFER, b"[]", ("object",)),
    Bad("no inputs", INFER, b"{}", ("inputs",)),
    Bad("inputs that are an object", INFER, b'{"inputs": {}}', ("inputs",)),
    Bad("an input that is a number", INFER, b'{"inputs": [7]}', ("inputs",)),
    Bad("the same input twice", INFER, inputs(tensor(), tensor()), ("exactly one input",)),
    Bad("ten thousand inputs", INFER, inputs(*[tensor()] * 10_000)[: 9 * 2**20], ()),
    Bad("an output twice", INFER, inputs(tensor(), outputs=[{"name": "LOGITS"}] * 2), ("LOGITS", "twice")),
    Bad("an input without a datatype", INFER, inputs({"name": "IMAGE", "shape": [1], "data": [TEXT]}), ("datatype",)),
    Bad("an unknown datatype", INFER, inputs(tensor(datatype="FP8")), ("BYTES", "FP8")),
    Bad("data of the wrong kind", INFER, inputs(tensor(data=[1])), ("base64",)),
    Bad("data that is no base64", INFER, inputs(tensor(data=["*"])), ("base64",)),
    Bad("ragged data", INFER, inputs(tensor("PIXELS", "UINT8", [1, 2, 2, 3], data=[[1, 2], [3]])), ("rectangular",)),
    Bad("a level of 256", INFER, inputs(tensor("PIXELS", "UINT8", [1, 1, 1, 3], data=[1, 2, 256])), ("PIXELS",)),
    Bad("a fraction of a level", INFER, inputs(tensor("PIXELS", "UINT8", [1, 1, 1, 3], data=[1, 2, 0.5])), ("PIXELS",)),
    Bad("a timeout below 0", INFER, inputs(tensor(), parameters={"timeout": -1}), ("timeout", "-1")),
    Bad("an id that is a number", INFER, inputs(tensor(), id=7), ("id", "7")),
    Bad("classes below 0", INFER, inputs(tensor(), outputs=[{"name": "LOGITS", "parameters": {"classification": -3}}])),
    Bad("deep JSON", INFER, DEEP),
    Bad(
        "deep data",
        INFER,
        b'{"inputs": [{"name": "PIXELS", "datatype": "UINT8", "shape": [1], "data": ' + DEEP + b"}]}",
    ),
    Bad("half a surrogate pair", INFER, b'{"inputs": [{"name": "\\ud800", "datatype": "BYTES", "shape": [1]}]}'),
    Bad("text that is not UTF-8", INFER, b'{"inputs": "\xff\xfe"}'),
]

PREPARED = [1, 3, 128, 128]
VALUES = [
    wrong(f"INPUT of {name}", binary(PREPARED, 196608, element * 49152, "INPUT", "FP32"), "INPUT", "[0, 1]")
    for name, element in (
        ("NaN", b"\0\0\xc0\x7f"),
        ("infinity", b"\0\0\x80\x7f"),
        ("minus infinity", b"\0\0\x80\xff"),
        ("255", b"\0\0\x7f\x43"),
        ("the largest float", b"\xff\xff\x7f\x7f"),
    )
]

BOMB = gzip.compress(bytes(200 * 2**20), 9)
CODINGS = [
    Bad("a gzip bomb", INFER, BOMB, ("10485760",), (400, 413), {"content-encoding": "gzip"}),
    Bad(
        "a deflate bomb", TENSORFLOW, zlib.compress(bytes(50 * 2**20)), (), (400, 413), {"content-encoding": "deflate"}
    ),
    Bad("gzip that is none", INFER, b"not gzip at all", ("gzip",), headers={"content-encoding": "gzip"}),
    Bad("half a gzip", INFER, gzip.compress(inputs(tensor()))[:-9], ("gzip",), headers={"content-encoding": "gzip"}),
    Bad("an unknown coding", INFER, b"x", ("gzip", "br"), (415,), {"content-encoding": "br"}),
    Bad("codings in turn", INFER, b"x", ("gzip",), (415,), {"content-encoding": "gzip, gzip"}),
]

OTHERS = [
    Bad("instances and inputs", TENSORFLOW, b'{"instances": [1], "inputs": [1]}', ("instances and inputs",)),
    Bad("neither instances nor inputs", TENSORFLOW, b"{}", ("neither",)),
    Bad("no instance", TENSORFLOW, b'{"instances": []}', ("at least one",)),
    Bad("an instance that is a text", TENSORFLOW, b'{"instances": ["x"]}', ("b64",)),
    Bad(
        "another signature", TENSORFLOW, b'{"signature_name": "other", "instances": [1]}', ("serving_default", "other")
    ),
    Bad("NaN among the levels", TENSORFLOW, b'{"instances": [[[[NaN, 1, 2]]]]}', ()),
    Bad("deep instances", TENSORFLOW, b'{"instances": ' + DEEP + b"}"),
    Bad("an example without an image", CLASSIFY, b'{"examples": [{"size": 3}]}', ("b64",)),
    Bad("a regression", "/v1/models/shapes:regress", b'{"examples": [{}]}', ("regression",)),
    Bad("inputs of null", "/", b'{"inputs": null}', ("base64",), headers={"content-type": "application/json"}),
    Bad(
        "a function that is none",
        "/",
        json.dumps({"inputs": TEXT, "parameters": {"function_to_apply": "max"}}).encode(),
        ("softmax", "max"),
        headers={"content-type": "application/json"},
    ),
    Bad(
        "top_k of 0",
        "/",
        json.dumps({"inputs": TEXT, "parameters": {"top_k": 0}}).encode(),
        ("top_k", "0"),
        headers={"content-type": "application/json"},
    ),
    Bad("a version that is none", "/v2/models/shapes/versions/newest/infer", inputs(tensor()), ("newest",)),
    Bad("an unknown model", "/v1/models/cats:predict", b'{"instances": [1]}', ("cats",), (404,)),
    Bad("an unknown version", "/v2/models/shapes/versions/7/infer", inputs(tensor()), ("7",), (404,)),
    Bad("a long name", f"/v2/models/{'x' * 5000}/infer", inputs(tensor()), ("xxx",), (404, 414)),
    Bad("a version of many digits", f"/v1/models/shapes/versions/{'7' * 5000}:predict", b"{}", (), (404, 400, 414)),
]

EVERY = [*HEADER_LENGTHS, *TRUNCATED, *SHAPES, *STRUCTURES, *VALUES, *CODINGS, *OTHERS]


def url(graph: Graph, bad: Bad) -> str:
    return graph.url + bad.path
