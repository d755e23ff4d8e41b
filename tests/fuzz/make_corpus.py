"""Writes the inputs from which fuzzing starts, one small file for each way that a target has: tests/fuzz/corpus.

    python -m tests.fuzz.make_corpus

What fuzzing has found, once it is mended, stands in FOUND.
"""

import base64
import gzip
import json
import shutil
import zlib
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.hostile_files import SMALL, in_jpeg, segment
from benchmarks.image_files import PNG_GREY, encode, noise, png, png_chunk, tiff, webp_of_one_colour
from deployments.protocols.generated import inference_pb2 as oip
from deployments.protocols.generated import tensorflow_pb2 as tf
from tests.fuzz.__main__ import CORPUS

MOST_BYTES = 3000
MODES = ("RGB", "L", "P", "RGBA", "CMYK", "1")
TEXT = base64.b64encode(webp_of_one_colour(4, 4)).decode()
# By directory; none so far.
FOUND: dict[str, dict[str, bytes]] = {}


def main() -> None:
    shutil.rmtree(CORPUS, ignore_errors=True)
    made = corpora()
    for directory, files in made.items():
        (CORPUS / directory).mkdir(parents=True)
        for name, data in {**files, **FOUND.get(directory, {})}.items():
            (CORPUS / directory / name.replace(" ", "-").replace(",", "").replace("/", "-")).write_bytes(data)
    print(sum(len(data) for files in made.values() for data in files.values()), "bytes")


def corpora() -> dict[str, dict[str, bytes]]:
    images = {name: data for name, data in pictures().items() if len(data) <= MOST_BYTES}
    jsons = {f"json {number}": json.dumps(body).encode() for number, body in enumerate(json_bodies())}
    return {
        "pictures": images,
        "oip_binary": {
            "bytes": b"\0\2\3\0\0\0abc\1\0\0\0d",
            "pixels": b"\1\x0c" + bytes(12),
            "floats": b"\2\2" + np.ones(2, "<f4").tobytes(),
        },
        "oip_json": {name: b"\xff\xff" + body for name, body in jsons.items()} | binary_after_json(),
        "oip_proto": {f"proto {number}": proto for number, proto in enumerate(infer_requests())},
        "tensor_proto": {f"proto {number}": proto for number, proto in enumerate(tensor_protos())},
        "multipart": multipart_bodies(),
        "json": jsons | {"NaN": b"[NaN, -Infinity, 1e400]", "deep": b"[" * 200 + b"]" * 200},
        "codings": {
            "gzip": b"\0" + gzip.compress(b"abc" * 9, mtime=0),
            "deflate": b"\2" + zlib.compress(b"abc" * 9),
            "bare": b"\2" + zlib.compress(b"abc" * 9)[2:-4],
            "two members": b"\0" + gzip.compress(b"a", mtime=0) * 2,
        },
    }


def pictures() -> dict[str, bytes]:
    made = {}
    ways: list[tuple[str, dict[str, Any]]] = [
        ("JPEG", {"quality": 20}),
        ("JPEG", {"progressive": True, "quality": 20}),
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("TIFF", {}),
        *(("TIFF", {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits", "group4")),
    ]
    for image_format, options in ways:
        for mode in MODES:
            try:
                data = encode(noise(9, 7, mode), image_format, **options)
            except (OSError, KeyError, ValueError):  # Not every format has every mode.
                continue
            made[f"{image_format} {mode} {' '.join(map(str, options.values()))}"] = data
    exif = Image.Exif()
    exif[0x0112] = 6
    animated = {"save_all": True, "append_images": [noise(9, 7, seed=1)]}
    made |= {
        f"{each} animated": encode(noise(9, 7), each, **animated) for each in ("GIF", "PNG", "WEBP", "TIFF", "MPO")
    }
    made |= {f"{each} turned": encode(noise(9, 7), each, exif=exif) for each in ("JPEG", "PNG", "WEBP", "TIFF")}
    made["PNG 16"] = png(2, 2, 16, PNG_GREY, bytes(range(8)), png_chunk(b"tRNS", b"\0\1"))
    made["TIFF 16"] = tiff(2, 2, [16], 1, bytes(range(8)))
    made["JPEG restarts"] = in_jpeg(segment(0xDD, b"\0\1"))
    made["text"] = b"hello, world"
    return made | {name: hostile.data for name, hostile in SMALL.items()}


def json_bodies() -> list[Any]:
    tensor = {"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [TEXT]}
    pixels = [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [0, 0, 255]]]
    return [
        {"inputs": [tensor], "id": "a", "parameters": {"timeout": 5, "binary_data_output": True}},
        {"inputs": [tensor], "outputs": [{"name": "LOGITS", "parameters": {"classification": 2, "binary_data": True}}]},
        {"inputs": [{"name": "PIXELS", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": pixels}]},
        {"instances": [{"b64": TEXT}, pixels, {"IMAGE": {"b64": TEXT}}], "signature_name": "serving_default"},
        {"inputs": {"PIXELS": [pixels]}},
        {"inputs": [{"b64": TEXT}]},
        {"examples": [{"image/encoded": {"b64": TEXT}, "other": 3}], "context": {"a": [1.5]}},
        [[1, 2], [3, 4.5], [], [None, True, "a"], {}],
    ]


def binary_after_json() -> dict[str, bytes]:
    parameters = {"binary_data_size": 12}
    tensor = {"name": "PIXELS", "datatype": "UINT8", "shape": [1, 2, 2, 3], "parameters": parameters}
    text = json.dumps({"inputs": [tensor]}).encode()
    return {"binary": len(text).to_bytes(2, "big") + text + bytes(12), "raw": b"\0\0" + webp_of_one_colour(3, 3)}


def infer_requests() -> list[bytes]:
    request = oip.ModelInferRequest(model_name="shapes", id="a")
    typed = request.inputs.add(name="IMAGE", datatype="BYTES", shape=[1])
    typed.contents.bytes_contents.append(webp_of_one_colour(3, 3))
    raw = oip.ModelInferRequest(model_name="shapes", raw_input_contents=[bytes(12)])
    raw.inputs.add(name="PIXELS", datatype="UINT8", shape=[1, 2, 2, 3])
    raw.outputs.add(name="LOGITS").parameters["classification"].int64_param = 2
    pixels = oip.ModelInferRequest(model_name="shapes")
    pixels.inputs.add(name="PIXELS", datatype="UINT8", shape=[1, 1, 1, 3]).contents.uint_contents.extend([1, 2, 3])
    return [each.SerializeToString(deterministic=True) for each in (request, raw, pixels)]


def tensor_protos() -> list[bytes]:
    def shape(*sizes: int) -> tf.TensorShapeProto:
        return tf.TensorShapeProto(dim=[tf.TensorShapeProto.Dim(size=size) for size in sizes])

    protos = [
        tf.TensorProto(dtype=tf.DT_STRING, tensor_shape=shape(1), string_val=[webp_of_one_colour(3, 3)]),
        tf.TensorProto(dtype=tf.DT_UINT8, tensor_shape=shape(1, 2, 2, 3), tensor_content=bytes(12)),
        tf.TensorProto(dtype=tf.DT_UINT8, tensor_shape=shape(1, 1, 1, 3), int_val=[1, 2, 255]),
        tf.TensorProto(dtype=tf.DT_FLOAT, tensor_shape=shape(1, 3, 224, 224), float_val=[0.5]),
    ]
    return [bytes([number % 4]) + each.SerializeToString(deterministic=True) for number, each in enumerate(protos)]


def multipart_bodies() -> dict[str, bytes]:
    head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n'
    return {
        "one file": b"\0" + head + b"Content-Type: image/png\r\n\r\nabc\r\n--edge--\r\n",
        "a field": b'\0--edge\r\nContent-Disposition: form-data; name="a"\r\n\r\nabc\r\n--edge--',
        "encoded name": b"\0" + head.replace(b"filename=", b"filename*=UTF-8''") + b"\r\n--edge--\r\n",
        "open": b"\0" + head,
        "no boundary": b"\1" + head + b"\r\nabc\r\n--edge--\r\n",
    }


if __name__ == "__main__":
    main()
