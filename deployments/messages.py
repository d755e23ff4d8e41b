"""What travels between the processes of the graph: plain data, no behaviour.

An image enters as encoded bytes or as decoded `Pixels`; it leaves the Preprocessor as `Pixels` of the model's own size
and the Classifier as `Scores`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deployments.errors import ApertureError
from deployments.settings import EngineName, Precision, PreprocessingSpec

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB, contiguous
Logits = NDArray[np.float32]  # (classes,)
ImageInput = bytes | Pixels


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model's deployment says of itself once it is warm."""

    name: str
    version: int
    labels: tuple[str, ...]
    preprocessing: PreprocessingSpec
    architecture: str
    engine: EngineName
    precision: Precision
    device: str


@dataclass(frozen=True, slots=True)
class Scores:
    """One image's result. `inference_s`: how long its batch took on the engine."""

    logits: Logits
    version: int
    inference_s: float


@dataclass(frozen=True, slots=True)
class Stages:
    """Where the time of one image went, in seconds. Hops count with the stage that they lead to."""

    preprocess_s: float
    queue_s: float
    inference_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """One classified image. `probabilities` is the softmax of `logits`."""

    info: ModelInfo
    logits: Logits
    probabilities: Logits
    stages: Stages


class DataPlane(Protocol):
    """What every protocol calls; the Ingress implements it."""

    async def classify(
        self, images: Sequence[ImageInput | ApertureError], model: str | None
    ) -> list[Answer | ApertureError]:
        """Answers in the order of `images`; each image gets its own answer or its own error.

        An image that a protocol could not even decode comes as its error, and keeps its place.

        Raises UnknownModel, ModelNotReady, TooManyImages or DeadlineExceeded for the request as a whole.
        """
        ...

    def check_count(self, images: int) -> None:
        """Raises TooManyImages if a request may not have that many."""
        ...

    def info_of(self, model: str | None) -> ModelInfo:
        """The model of that name, or the first. Raises UnknownModel or ModelNotReady."""
        ...

    def ready_models(self) -> dict[str, ModelInfo | None]:
        """All models by name, in the order of the settings; None while one is not warm yet."""
        ...
