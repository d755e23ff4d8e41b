"""What travels between the processes of the graph: plain data.

An image enters as encoded bytes, as decoded `Pixels`, or `Prepared` by the client; it leaves the Preprocessor as
`Pixels` of the model's own size and the Classifier as `Scores`.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deployments.errors import ApertureError
from deployments.settings import EngineName, InputName, Limits, OutputName, Precision, PreprocessingSpec
from deployments.statistics import ModelStatistics

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB, contiguous
Logits = NDArray[np.float32]  # (classes,)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Pixels that the client has preprocessed: (crop_size, crop_size, 3), which are not resized again."""

    pixels: Pixels


ImageInput = bytes | Pixels | Prepared


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
    # What the tensor protocols announce.
    inputs: tuple[InputName, ...] = ("IMAGE", "PIXELS", "INPUT")
    outputs: tuple[OutputName, ...] = ("PROBABILITIES", "LOGITS")


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

    def total_s(self) -> float:
        return self.preprocess_s + self.queue_s + self.inference_s


@dataclass(frozen=True, slots=True)
class Answer:
    """One classified image. `probabilities` is the softmax of `logits`."""

    info: ModelInfo
    logits: Logits
    probabilities: Logits
    stages: Stages


class DataPlane(Protocol):
    """What every protocol calls; deployments/dataplane.py implements it."""

    async def classify(
        self, images: Sequence[ImageInput | ApertureError], info: ModelInfo, timeout_s: float | None = None
    ) -> list[Answer | ApertureError]:
        """Answers in the order of `images`; each image gets its own answer or its own error.

        An image that a protocol could not even decode comes as its error, and keeps its place. `info` is what
        `info_of` returned. `timeout_s` is the caller's; request_timeout_s of the limits holds in any case.

        Raises TooManyImages or DeadlineExceeded for the request as a whole.
        """
        ...

    def classify_each(
        self, images: Sequence[ImageInput | ApertureError], info: ModelInfo, timeout_s: float | None = None
    ) -> AsyncGenerator[tuple[int, Answer | ApertureError], None]:
        """As `classify`, each answer with its index as soon as it is there, so not in the order of `images`.

        Closing the generator gives up what is not answered yet.
        """
        ...

    async def fetch(self, url: str) -> bytes | ApertureError:
        """The image at `url`, or why it is not fetched; nothing is, unless the settings allow the host."""
        ...

    def check_count(self, images: int) -> None:
        """Raises TooManyImages if a request may not have that many."""
        ...

    def info_of(self, model: str | None, version: str | None = None) -> ModelInfo:
        """The model of that name, or the first. Raises UnknownModel (also for its version) or ModelNotReady."""
        ...

    def ready_models(self) -> dict[str, ModelInfo | None]:
        """All models by name, in the order of the settings; None while one is not warm yet."""
        ...

    @property
    def limits(self) -> Limits: ...

    async def statistics(self, model: str) -> ModelStatistics:
        """Of all replicas together, since they started. Raises UnknownModel."""
        ...
