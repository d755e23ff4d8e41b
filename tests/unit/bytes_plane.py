"""A data plane whose answers derive from the bytes of the image, and requests to it: HTTP without a graph behind."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import httpx
import numpy as np

from deployments.catalogue import Catalogue
from deployments.comparison import Comparisons
from deployments.errors import ApertureError, BadRequest, CorruptImage, TooManyImages, UnknownModel
from deployments.messages import (
    Answer,
    Explanation,
    ImageInput,
    Logits,
    ModelInfo,
    Prepared,
    ReplicaStatus,
    Stages,
    VersionStatus,
    routing_key,
)
from deployments.promotion import Report
from deployments.protocols import explain, huggingface
from deployments.protocols.http import asgi_app
from deployments.protocols.oip import rest as oip_rest
from deployments.protocols.predict import DEFAULT_TOP_K, routes
from deployments.protocols.tfserving import rest as tfserving_rest
from deployments.records import current
from deployments.settings import InputName, Limits, LiveSettings, PreprocessingSpec
from deployments.statistics import BatchStatistics, ModelStatistics, RequestStatistics, Total

LABELS = ("circle", "square", "triangle", "star", "heart", "cross", "ring")
MAX_IMAGES = 16
MAX_BODY_BYTES = 1_000_000


def logits_of(image: ImageInput) -> Logits:
    """Logits that belong to these bytes, or these pixels of this shape, and to no others."""
    pixels = image.pixels if isinstance(image, Prepared) else image
    content = pixels if isinstance(pixels, bytes) else repr(pixels.shape).encode() + pixels.tobytes()
    digest = hashlib.sha256(content).digest()
    return np.array([byte / 64 for byte in digest[: len(LABELS)]], dtype=np.float32)


def probabilities_of(image: ImageInput) -> Logits:
    exponentials = np.exp(logits_of(image))
    return np.asarray(exponentials / exponentials.sum(), dtype=np.float32)


def expected_predictions(image: ImageInput, top_k: int = DEFAULT_TOP_K) -> list[dict[str, Any]]:
    probabilities = probabilities_of(image)
    best = sorted(range(len(LABELS)), key=lambda index: -probabilities[index])[:top_k]
    return [{"label": LABELS[i], "index": i, "probability": float(probabilities[i])} for i in best]


def info(name: str, version: int, inputs: tuple[InputName, ...] = ("IMAGE", "PIXELS", "INPUT")) -> ModelInfo:
    return ModelInfo(name, version, LABELS, PreprocessingSpec(), "dummy", "dummy", "fp32", "cpu", inputs)


def catalogue_of(known: ModelInfo | None, name: str) -> Catalogue:
    """Of a model with this one version, or of one that has not said anything yet."""
    catalogue = Catalogue(name)
    if known is not None:
        replica = ReplicaStatus((VersionStatus(known.version, "AVAILABLE"),), LiveSettings())
        catalogue.update([replica], {known.version: known})
    return catalogue


class BytesPlane:
    """Two models, or those given; one that is None is not warm yet.

    An image that begins with "bad" is corrupt, and `failure` fails the whole request.
    """

    def __init__(
        self, failure: Exception | None = None, models: Mapping[str, ModelInfo | Catalogue | None] | None = None
    ) -> None:
        self.images: list[ImageInput] = []
        self.timeouts_s: list[float | None] = []
        self.limits = Limits(max_body_bytes=MAX_BODY_BYTES, max_images=MAX_IMAGES)
        self._failure = failure
        models = models or {"shapes": info("shapes", 3), "others": info("others", 4)}
        self._catalogues = {
            name: model if isinstance(model, Catalogue) else catalogue_of(model, name) for name, model in models.items()
        }

    async def classify(
        self, images: Sequence[ImageInput | ApertureError], info: ModelInfo, timeout_s: float | None = None
    ) -> list[Answer | ApertureError]:
        self.check_count(len(images))
        self.images.extend(image for image in images if not isinstance(image, ApertureError))
        self.timeouts_s.append(timeout_s)
        current().admitted([len(image) if isinstance(image, bytes) else 0 for image in images], [0.0] * len(images))
        if self._failure is not None:
            raise self._failure
        answers = [self._answer(image, info, number) for number, image in enumerate(images)]
        current().answered(answers)
        return answers

    async def classify_each(
        self, images: Sequence[ImageInput | ApertureError], info: ModelInfo, timeout_s: float | None = None
    ) -> AsyncGenerator[tuple[int, Answer | ApertureError], None]:
        """The last image is the first to be ready."""
        answers = await self.classify(images, info, timeout_s)
        for index in reversed(range(len(answers))):
            yield index, answers[index]

    async def explain(
        self, image: bytes, info: ModelInfo, index: int | None, timeout_s: float | None = None
    ) -> Explanation:
        """Hot in the upper left corner of four by three places."""
        (answer,) = await self.classify([image], info, timeout_s)
        if isinstance(answer, ApertureError):
            raise answer
        heat = np.zeros((3, 4), np.float32)
        heat[0, 0] = 1
        return Explanation(answer, int(answer.logits.argmax()) if index is None else index, heat)

    async def fetch(self, url: str) -> bytes | ApertureError:
        return f"fetched from {url}".encode() if url.startswith("https://") else BadRequest("not https")

    async def statistics(self, model: str) -> Mapping[int, ModelStatistics]:
        """Each version has counted as much as every other."""
        requests = RequestStatistics(success=Total(2, 5000), queue=Total(2, 1000), last_ms=1700000000000)
        batches = BatchStatistics({1: Total(1, 900), 4: Total(2, 3000)})
        return {version: ModelStatistics(requests, batches) for version in self._catalogue(model).infos}

    async def comparison(self, model: str) -> Report:
        """Nothing is on trial."""
        return Report(self._catalogue(model).name, None, None, Comparisons())

    def _answer(self, image: ImageInput | ApertureError, answering: ModelInfo, number: int) -> Answer | ApertureError:
        if isinstance(image, ApertureError):
            return image
        if isinstance(image, bytes) and image.startswith(b"bad"):
            return CorruptImage("The image is corrupt.")
        stages = Stages(preprocess_s=0.01 * (number + 1), queue_s=0.002, inference_s=0.003)
        return Answer(answering, logits_of(image), probabilities_of(image), stages)

    def check_count(self, images: int) -> None:
        if images > MAX_IMAGES:
            raise TooManyImages(f"{images} images")

    def info_of(self, model: str | None, version: str | None = None, label: str | None = None) -> ModelInfo:
        return self._catalogue(model).choose(version, label, routing_key.get())

    def is_ready(self) -> bool:
        return all(catalogue.infos or catalogue.is_unloaded for catalogue in self._catalogues.values())

    def ready_models(self) -> dict[str, ModelInfo | None]:
        return {name: catalogue.default() for name, catalogue in self._catalogues.items()}

    def versions_of(self, model: str | None) -> tuple[VersionStatus, ...]:
        return self._catalogue(model).statuses()

    def labels_of(self, model: str | None) -> Mapping[str, int]:
        return self._catalogue(model).labels

    def _catalogue(self, model: str | None) -> Catalogue:
        if model not in (None, *self._catalogues):
            raise UnknownModel(f"There is no model {model!r}.")
        return self._catalogues[model or next(iter(self._catalogues))]


def send(
    method: str,
    path: str,
    plane: BytesPlane | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    limits: Limits | None = None,
    **request: Any,
) -> httpx.Response:
    plane = plane or BytesPlane()
    limits = limits or Limits(max_body_bytes=max_body_bytes)
    protocols = (routes, oip_rest.routes, tfserving_rest.routes, huggingface.routes, explain.routes)
    app = asgi_app([route for each in protocols for route in each(plane)], limits, request_id=lambda: "test-id")

    async def exchange() -> httpx.Response:
        # The transport raises whatever escapes the application.
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return await client.request(method, path, **request)

    return asyncio.run(exchange())


def predict(plane: BytesPlane | None = None, query: dict[str, str] | None = None, **request: Any) -> httpx.Response:
    return send("POST", "/predict", plane, params=query, **request)


def predict_json(body: object, plane: BytesPlane | None = None, query: dict[str, str] | None = None) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return predict(plane, query, content=content, headers={"content-type": "application/json"})


def predict_multipart(content: bytes, content_type: str = "multipart/form-data; boundary=edge") -> httpx.Response:
    return predict(content=content, headers={"content-type": content_type})


def part(name: str, data: bytes) -> bytes:
    head = f'--edge\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n"


def base64_of(image: bytes) -> str:
    return base64.b64encode(image).decode()


def refusal(response: httpx.Response, status: int, code: str) -> str:
    """The error text of a refusal, whose body must have the three keys of every error and no more."""
    body = response.json()
    assert (response.status_code, body["code"], body["request_id"]) == (status, code, "test-id")
    assert body.keys() == {"error", "code", "request_id"}
    assert isinstance(body["error"], str)
    return body["error"]
