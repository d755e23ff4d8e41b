"""What it costs to translate one request of each protocol and its answer, in CPU-milliseconds of the Ingress.

    python -m benchmarks.translation [--picture FILE] [--requests 200] [--rounds 5]

The ASGI application of the Ingress is called in this process, in front of a data plane that answers at once: no
sockets, no Ray, no decoding. A model of 1000 classes; a made-up picture of 500 x 375, or one's own. One thread. Each
round sends every form, in rotating order; a form's time is the median over the rounds of its mean over the requests.
The last forms are a preprocessed image, (3, 224, 224) floats, as JSON numbers, and sent a tenth as often.
"""

import argparse
import asyncio
import base64
import statistics
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from starlette.types import ASGIApp, Message
from tqdm import tqdm

from benchmarks.pictures import photographs
from benchmarks.report import document
from deployments.errors import ApertureError, BadRequest
from deployments.messages import Answer, ImageInput, ModelInfo, Stages, VersionStatus
from deployments.protocols import huggingface, predict
from deployments.protocols.http import asgi_app
from deployments.protocols.oip import rest as oip_rest
from deployments.protocols.tfserving import rest as tfserving_rest
from deployments.settings import Limits, PreprocessingSpec
from deployments.statistics import BatchStatistics, ModelStatistics, RequestStatistics

REQUESTS, ROUNDS = 200, 5
CLASSES = 1000
PLAIN, BINARY = "POST /predict", "Open Inference Protocol, bytes"
# CPU-milliseconds that the bytes of the Open Inference Protocol may cost on top of the plain protocol.
BAR_MS = 0.5
NAME_WIDTH, CELL_WIDTH = 44, 14
INFER, PREDICT = "/v2/models/model/infer", "/v1/models/model:predict"
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Form:
    """A request. `share` of the usual number of requests is sent."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    share: float = 1.0


class InstantPlane:
    """A data plane with one answer for every image, given at once."""

    def __init__(self) -> None:
        labels = tuple(f"class {number}" for number in range(CLASSES))
        self.limits = Limits()
        self._info = ModelInfo("model", 1, labels, PreprocessingSpec(), "dummy", "dummy", "fp32", "cpu")
        logits = np.random.default_rng(1).normal(size=CLASSES).astype(np.float32)
        exponentials = np.exp(logits)
        self._answer = Answer(self._info, logits, exponentials / exponentials.sum(), Stages(0.001, 0.001, 0.001))

    async def classify(
        self, images: Sequence[ImageInput | ApertureError], info: ModelInfo, timeout_s: float | None = None
    ) -> list[Answer | ApertureError]:
        return [self._answer for _ in images]

    async def classify_each(
        self, images: Sequence[ImageInput | ApertureError], info: ModelInfo, timeout_s: float | None = None
    ) -> AsyncGenerator[tuple[int, Answer | ApertureError], None]:
        for index, _ in enumerate(images):
            yield index, self._answer

    async def fetch(self, url: str) -> bytes | ApertureError:
        return BadRequest("Nothing is fetched here.")

    def check_count(self, images: int) -> None:
        return

    def info_of(self, model: str | None, version: str | None = None, label: str | None = None) -> ModelInfo:
        return self._info

    def versions_of(self, model: str | None) -> tuple[VersionStatus, ...]:
        return (VersionStatus(self._info.version, "AVAILABLE"),)

    def labels_of(self, model: str | None) -> Mapping[str, int]:
        return {}

    def is_ready(self) -> bool:
        return True

    def ready_models(self) -> dict[str, ModelInfo | None]:
        return {self._info.name: self._info}

    async def statistics(self, model: str) -> Mapping[int, ModelStatistics]:
        return {self._info.version: ModelStatistics(RequestStatistics(), BatchStatistics())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="default: a made-up one")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="of each form and round")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="medians are over this many")
    args = parser.parse_args()
    picture = args.picture.read_bytes() if args.picture else photographs(None)[0]
    times_ms = asyncio.run(measure(application(), forms(picture), args.requests, args.rounds))
    results = {name: {"cpu_ms": statistics.median(times), "max_ms": max(times)} for name, times in times_ms.items()}
    extra_ms = results[BINARY]["cpu_ms"] - results[PLAIN]["cpu_ms"]
    print(f"\n{table(results)}\n\nBytes of the Open Inference Protocol: {extra_ms:+.3f} CPU-ms to {PLAIN}", end="")
    print(f", of the {BAR_MS} that they may cost." if extra_ms <= BAR_MS else f": more than {BAR_MS}.")
    settings = {"picture_bytes": len(picture), "classes": CLASSES, "requests": args.requests}
    print(document("translation", args.rounds, settings, results, bar={"extra_ms": extra_ms, "at_most_ms": BAR_MS}))


def application() -> ASGIApp:
    plane = InstantPlane()
    protocols = (predict, oip_rest, tfserving_rest, huggingface)
    return asgi_app([route for each in protocols for route in each.routes(plane)], plane.limits, lambda: "request")


def forms(picture: bytes) -> dict[str, Form]:
    text = base64.b64encode(picture).decode()
    image = {"name": "IMAGE", "datatype": "BYTES", "shape": [1]}
    blob = len(picture).to_bytes(4, "little") + picture
    head = _json({"parameters": {"binary_data_output": True}, "inputs": [image | _size(blob)]})
    floats = np.random.default_rng(1).normal(0, 0.5, (1, 3, 224, 224)).clip(-1.5, 2).astype(np.float32)
    tensor = {"name": "INPUT", "datatype": "FP32", "shape": list(floats.shape)}
    return {
        PLAIN: Form("/predict", picture),
        "POST /predict, base64 in JSON": Form("/predict", _json({"image": text}), JSON),
        BINARY: Form(INFER, head + blob, _header(len(head))),
        "Open Inference Protocol, the image alone": Form(INFER, picture, _header(0)),
        "Open Inference Protocol, base64 in JSON": Form(INFER, _json({"inputs": [image | {"data": [text]}]})),
        "TensorFlow Serving, base64 in JSON": Form(PREDICT, _json({"instances": [{"b64": text}]})),
        "Hugging Face, the image": Form("/", picture, {"content-type": "image/jpeg"}),
        "Hugging Face, base64 in JSON": Form("/", _json({"inputs": text}), JSON),
        "Open Inference Protocol, flat numbers": Form(
            INFER, _json({"inputs": [tensor | {"data": floats.ravel().tolist()}]}), share=0.1
        ),
        "Open Inference Protocol, nested numbers": Form(
            INFER, _json({"inputs": [tensor | {"data": floats.tolist()}]}), share=0.1
        ),
        "TensorFlow Serving, nested numbers": Form(PREDICT, _json({"inputs": {"INPUT": floats.tolist()}}), share=0.1),
    }


async def measure(app: ASGIApp, found: Mapping[str, Form], requests: int, rounds: int) -> dict[str, list[float]]:
    """CPU-milliseconds a request, by form and round. Raises RuntimeError for an answer that is none."""
    names = list(found)
    times_ms: dict[str, list[float]] = {name: [] for name in names}
    for form in found.values():
        await _send(app, form)  # The first of each imports, and fills caches.
    with tqdm(total=rounds * len(names), desc="translation", unit="form") as progress:
        for first in range(rounds):
            for name in [*names[first % len(names) :], *names[: first % len(names)]]:
                times_ms[name].append(await _mean_ms(app, found[name], requests))
                progress.update()
    return times_ms


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"{'':{NAME_WIDTH}}{'CPU-ms':>{CELL_WIDTH}}{'to /predict':>{CELL_WIDTH}}"]
    for name, row in results.items():
        extra_ms = row["cpu_ms"] - results[PLAIN]["cpu_ms"]
        lines.append(f"{name:{NAME_WIDTH}}{row['cpu_ms']:>{CELL_WIDTH}.3f}{extra_ms:>+{CELL_WIDTH}.3f}")
    return "\n".join(lines)


async def _mean_ms(app: ASGIApp, form: Form, requests: int) -> float:
    count = max(1, round(requests * form.share))
    before_s = time.process_time()
    for _ in range(count):
        await _send(app, form)
    return (time.process_time() - before_s) * 1000 / count


async def _send(app: ASGIApp, form: Form) -> None:
    headers = {"content-length": str(len(form.body)), **form.headers}
    scope = {
        "type": "http",
        "method": "POST",
        "path": form.path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": form.body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    if sent[0]["status"] != 200:
        raise RuntimeError(f"{form.path} was answered with {sent[0]['status']}: {sent[1]['body'][:500]!r}")


def _json(content: Any) -> bytes:
    return orjson.dumps(content)


def _size(blob: bytes) -> dict[str, Any]:
    return {"parameters": {"binary_data_size": len(blob)}}


def _header(length: int) -> dict[str, str]:
    return {"inference-header-content-length": str(length)}


if __name__ == "__main__":
    main()
