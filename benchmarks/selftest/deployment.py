"""What there is to be tested: the model, two pictures, and what the service says of them before anything else."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageOps

from benchmarks.http_client import Response
from benchmarks.image_files import encode
from benchmarks.selftest.expectations import PICTURES, Expected, bundled
from benchmarks.selftest.service import Service, exchange
from benchmarks.soak.asking import WAYS
from benchmarks.soak.questions import MODEL, Question
from deployments.errors import ConfigError
from deployments.imaging import preprocess
from deployments.settings import Limits, PreprocessingSpec

# Small enough for an array in JSON (benchmarks.soak.questions.TINY_PIXELS).
SIDE: Final = 96
# Of a connection that breaks, or an answer that is something else.
NO_ANSWER: Final = (OSError, ValueError, KeyError, TypeError, TimeoutError, asyncio.IncompleteReadError)


class NotTestable(Exception):
    """Nobody answers, or not this caller, or there is no such model. The text says what to change."""


@dataclass(frozen=True)
class Model:
    """As the metadata has it."""

    name: str
    versions: Sequence[str]
    labels: Sequence[str]
    inputs: Sequence[str]
    outputs: Sequence[str]
    precision: str
    preprocessing: PreprocessingSpec


@dataclass(frozen=True)
class Deployment:
    """`questions`: with the answers that came first, or NaN where none came. `index`: of the repository."""

    service: Service
    model: Model
    questions: Sequence[Question]
    asks_for_keys: bool
    expected: Sequence[Expected]
    index: Any

    @property
    def question(self) -> Question:
        return self.questions[0]


async def look_at(
    service: Service, model: str | None, expected: Sequence[Expected] | None, patience_s: float
) -> Deployment:
    """Takes `patience_s` at most three times. Raises NotTestable."""
    try:
        async with asyncio.timeout(patience_s):
            asks_for_keys = await _asks_for_keys(service)
            index = await repository_index(service)
            found = await _model(service, model or _first(index))
    except (*NO_ANSWER, ConfigError) as err:
        raise NotTestable(f"{service.url} does not answer as Aperture does: {err or type(err).__name__}.") from err
    if expected is None:
        expected = bundled() if found.name == MODEL else []
    questions = [await _answered(service, each, patience_s) for each in _questions(found)]
    return Deployment(service, found, questions, asks_for_keys, expected, index)


async def repository_index(service: Service) -> Any:
    """All versions of all models, and their states."""
    return _content(await service.ask("/v2/repository/index"))


async def _asks_for_keys(service: Service) -> bool:
    """Whether it does of those who have none. Raises NotTestable if it refuses the key that there is."""
    without = await exchange(Service(service.url, None, None).target("/v2", method="GET"))
    if without.status != 401:
        return False
    if service.key is None:
        raise NotTestable("The service asks for an API key: give --api-key-env or --key-file.")
    response = await service.get("/v2")
    if response.status in (401, 403):
        raise NotTestable("The service does not accept this API key.")
    return True


def _first(index: Any) -> str:
    ready = [str(each["name"]) for each in index if each["state"] == "READY"]
    if not ready:
        raise NotTestable("The service has no model that is ready.")
    return ready[0]


async def _model(service: Service, name: str) -> Model:
    response = await service.get(f"/v2/models/{quote(name)}")
    if response.status == 404:
        raise NotTestable(f"The service has no model {name!r}.")
    content = _content(response)
    spec = {key: value for key, value in content["preprocessing"].items() if key != "digest"}
    return Model(
        name=content["name"],
        versions=content["versions"],
        labels=content["labels"],
        inputs=[each["name"] for each in content["inputs"]],
        outputs=[each["name"] for each in content["outputs"]],
        precision=content["precision"],
        preprocessing=PreprocessingSpec.model_validate(spec),
    )


def _content(response: Response) -> Any:
    if response.status == 403:
        raise NotTestable("The API key may not read; it needs the scope classify.")
    if response.status != 200:
        raise ValueError(f"{response.status} {response.body[:100]!r}")
    return json.loads(response.body)


def _questions(model: Model) -> Sequence[Question]:
    """Two small pictures that no model takes for the same."""
    picture = Image.open(PICTURES / "heart.jpg").convert("RGB").resize((SIDE, SIDE))
    red, green, blue = picture.rotate(90).split()
    other = ImageOps.invert(Image.merge("RGB", (blue, red, green)))
    return [_question(model, "a heart", picture), _question(model, "its negative", other)]


def _question(model: Model, name: str, picture: Image.Image) -> Question:
    image, spec = encode(picture, "PNG"), model.preprocessing
    view = preprocess(image, spec, Limits())  # uint8 (crop, crop, 3)
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    prepared = ((view / np.float32(255) - mean) / std).transpose(2, 0, 1).astype(np.float32)
    answer = dict.fromkeys(model.labels, float("nan"))
    return Question(name, image, np.asarray(picture), prepared, answer, model=model.name, classes=model.labels)


async def _answered(service: Service, question: Question, patience_s: float) -> Question:
    """With the answer of the plainest request; whether that is right, the checks say."""
    asked = WAYS["predict, raw"].ask([question])
    try:
        async with asyncio.timeout(patience_s):
            response = await service.ask(asked.path, asked.body, asked.headers)
            if response.status == 403:
                raise NotTestable("The API key may not classify; it needs the scope classify.")
        (found,) = asked.read(response)
    except NO_ANSWER:
        return question
    if isinstance(found, str) or found.keys() != question.answer.keys():
        return question
    return replace(question, answer=found)
