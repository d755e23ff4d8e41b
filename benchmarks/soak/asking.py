"""Requests over HTTP with pictures whose answers are known, and what to make of what comes back.

Each of WAYS makes a request of some questions and says how to read the answer: what each image was found to be, as
probabilities by label, or why it was refused, as a code.
"""

import base64
import gzip
import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.http_client import Response
from benchmarks.soak.questions import SMALL_PIXELS, TINY_PIXELS, Question

Found = Mapping[str, float] | str  # probability by label, or the code of a refusal
Read = Callable[[Response], Sequence[Found]]

JSON, LENGTH = {"content-type": "application/json"}, "inference-header-content-length"
CLASSES = 10


@dataclass(frozen=True)
class Asked:
    """A request, and how to read an answer with status 200."""

    path: str
    body: bytes
    read: Read
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    ask: Callable[[Sequence[Question]], Asked]
    images: int = 1
    # Of each image, at most; None for all that there are.
    pixels: int | None = None
    # A broken image among the others is refused alone, and not with the whole request.
    one_by_one: bool = False
    # How many labels an answer has at least.
    labels: int = CLASSES


def _raw(questions: Sequence[Question]) -> Asked:
    return Asked(_predict(questions), questions[0].image, _only, {"content-type": "image/any"})


def _json_image(questions: Sequence[Question]) -> Asked:
    return Asked(_predict(questions), _dumped({"image": _b64(questions[0])}), _only, JSON)


def _json_images(questions: Sequence[Question]) -> Asked:
    return Asked(_predict(questions), _dumped({"images": [*map(_b64, questions)]}), _results, JSON)


def _ndjson(questions: Sequence[Question]) -> Asked:
    headers = {**JSON, "accept": "application/x-ndjson"}
    return Asked(_predict(questions), _dumped({"images": [*map(_b64, questions)]}), _lines, headers)


def _multipart(questions: Sequence[Question]) -> Asked:
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{number}"\r\n\r\n'.encode()
        + each.image
        + b"\r\n"
        for number, each in enumerate(questions)
    ]
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    return Asked(_predict(questions), b"".join([*parts, f"--{boundary}--\r\n".encode()]), _results, headers)


def _arrays(questions: Sequence[Question]) -> Asked:
    values = (questions[0].pixels.transpose(2, 0, 1) / 255).round(6).tolist()
    labels = questions[0].labels

    def read(response: Response) -> Sequence[Found]:
        return [_of_logits(labels, np.array(row)) for row in json.loads(response.body)["output"]]

    return Asked(_predict(questions), _dumped({"input_data": values}), read, JSON)


def _oip_json(questions: Sequence[Question]) -> Asked:
    tensor = {"name": "IMAGE", "datatype": "BYTES", "shape": [len(questions)], "data": [*map(_b64, questions)]}
    body = _dumped({"inputs": [tensor], "outputs": [{"name": "PROBABILITIES"}]})
    return Asked(
        infer_path(questions[0].model),
        gzip.compress(body, 1),
        _outputs(questions),
        {**JSON, "content-encoding": "gzip"},
    )


def _oip_binary(questions: Sequence[Question]) -> Asked:
    blob = b"".join(len(each.image).to_bytes(4, "little") + each.image for each in questions)
    return _oip_tensor("IMAGE", "BYTES", [len(questions)], blob, questions)


def _oip_pixels(questions: Sequence[Question]) -> Asked:
    pixels = questions[0].pixels
    return _oip_tensor("PIXELS", "UINT8", [1, *pixels.shape], pixels.tobytes(), questions)


def _oip_prepared(questions: Sequence[Question]) -> Asked:
    values = np.stack([each.prepared for each in questions])
    return _oip_tensor("INPUT", "FP32", list(values.shape), values.tobytes(), questions)


def _oip_tensor(name: str, datatype: str, shape: list[int], blob: bytes, questions: Sequence[Question]) -> Asked:
    tensor = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(blob)}}
    output = {"name": "PROBABILITIES", "parameters": {"binary_data": True}}
    head = _dumped({"inputs": [tensor], "outputs": [output]})
    return Asked(infer_path(questions[0].model), head + blob, _outputs(questions), {LENGTH: str(len(head))})


def _tensorflow_rows(questions: Sequence[Question]) -> Asked:
    body = _dumped({"instances": [{"b64": _b64(each)} for each in questions]})
    return Asked(f"/v1/models/{questions[0].model}:predict", body, _predictions_of_rows(questions), JSON)


def _tensorflow_columns(questions: Sequence[Question]) -> Asked:
    body = _dumped({"inputs": {"IMAGE": [{"b64": _b64(each)} for each in questions]}})

    def read(response: Response) -> Sequence[Found]:
        return _rows_by_label(questions, json.loads(response.body)["outputs"]["PROBABILITIES"])

    return Asked(f"/v1/models/{questions[0].model}:predict", body, read, JSON)


def _tensorflow_classes(questions: Sequence[Question]) -> Asked:
    body = _dumped({"examples": [{"image": {"b64": _b64(each)}} for each in questions]})

    def read(response: Response) -> Sequence[Found]:
        return [by_label(pairs) for pairs in json.loads(response.body)["results"]]

    return Asked(f"/v1/models/{questions[0].model}:classify", body, read, JSON)


def _hugging_face_raw(questions: Sequence[Question]) -> Asked:
    return Asked(f"/?model={questions[0].model}", questions[0].image, _scores, {"content-type": "image/any"})


def _hugging_face_json(questions: Sequence[Question]) -> Asked:
    body = _dumped({"inputs": _b64(questions[0]), "parameters": {"top_k": len(questions[0].labels)}})
    return Asked(f"/?model={questions[0].model}", body, _scores, JSON)


WAYS: Mapping[str, Way] = {
    "predict, raw": Way(_raw),
    "predict, multipart": Way(_multipart, images=4, one_by_one=True),
    "predict, JSON": Way(_json_image),
    "predict, JSON list": Way(_json_images, images=3, one_by_one=True),
    "predict, NDJSON": Way(_ndjson, images=4, one_by_one=True),
    "predict, arrays": Way(_arrays, pixels=TINY_PIXELS),
    "OIP, JSON in gzip": Way(_oip_json, images=2),
    "OIP, binary images": Way(_oip_binary, images=3),
    "OIP, binary pixels": Way(_oip_pixels, pixels=SMALL_PIXELS),
    "OIP, binary tensors": Way(_oip_prepared, images=2),
    "TF Serving, rows": Way(_tensorflow_rows, images=2),
    "TF Serving, columns": Way(_tensorflow_columns, images=2),
    "TF Serving, classify": Way(_tensorflow_classes),
    "Hugging Face, raw": Way(_hugging_face_raw, labels=5),
    "Hugging Face, JSON": Way(_hugging_face_json),
}


def infer_path(model: str) -> str:
    return f"/v2/models/{model}/infer"


def _predict(questions: Sequence[Question]) -> str:
    return f"/predict?model={questions[0].model}&top_k={len(questions[0].labels)}"


def by_label(pairs: Iterable[tuple[str, float]]) -> Mapping[str, float]:
    """Of classes with the same label (ImageNet has two cranes), the higher probability."""
    found: dict[str, float] = {}
    for label, probability in pairs:
        found[label] = max(probability, found.get(label, probability))
    return found


def _dumped(content: object) -> bytes:
    return json.dumps(content).encode()


def _b64(question: Question) -> str:
    return base64.b64encode(question.image).decode()


def _only(response: Response) -> Sequence[Found]:
    return [_of_result(json.loads(response.body))]


def _results(response: Response) -> Sequence[Found]:
    return [_of_result(result) for result in json.loads(response.body)["results"]]


def _lines(response: Response) -> Sequence[Found]:
    *lines, done = map(json.loads, response.body.splitlines())
    if done.get("done") is not True or done["count"] != len(lines):
        # Broken off: with an error, of which the code is told of each image that has no answer.
        return [str(done["code"])]
    return [_of_result(line) for line in sorted(lines, key=lambda line: int(line["index"]))]


def _of_result(result: Mapping[str, Any]) -> Found:
    if "predictions" not in result:
        return str(result["code"])
    return by_label((each["label"], each["probability"]) for each in result["predictions"])


def _scores(response: Response) -> Sequence[Found]:
    return [by_label((each["label"], each["score"]) for each in json.loads(response.body))]


def _predictions_of_rows(questions: Sequence[Question]) -> Read:
    def read(response: Response) -> Sequence[Found]:
        rows = json.loads(response.body)["predictions"]
        # A model with one output has it without its name.
        return _rows_by_label(questions, [row["PROBABILITIES"] if isinstance(row, dict) else row for row in rows])

    return read


def _outputs(questions: Sequence[Question]) -> Read:
    """PROBABILITIES, as JSON or behind it."""

    def read(response: Response) -> Sequence[Found]:
        length = response.header(LENGTH)
        head = json.loads(response.body if length is None else response.body[: int(length)])
        (output,) = head["outputs"]
        values = np.array(output["data"]) if length is None else np.frombuffer(response.body[int(length) :], "<f4")
        return _rows_by_label(questions, values.reshape(output["shape"]))

    return read


def _rows_by_label(questions: Sequence[Question], rows: Any) -> Sequence[Found]:
    return [by_label(zip(questions[0].labels, map(float, row), strict=True)) for row in rows]


def _of_logits(labels: Sequence[str], logits: NDArray[np.float64]) -> Found:
    exponentials = np.exp(logits - logits.max())
    return by_label(zip(labels, map(float, exponentials / exponentials.sum()), strict=True))
