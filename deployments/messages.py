"""What travels between the processes of the graph: plain data.

An image enters as encoded bytes, as decoded `Pixels`, or `Prepared` by the client; it leaves the Preprocessor as
`Pixels` of the model's own size and the Classifier as `Scores`.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from deployments.errors import ApertureError
from deployments.settings import (
    EngineName,
    InputName,
    Limits,
    LiveSettings,
    OutputName,
    Precision,
    PreprocessingSpec,
    VersionPolicy,
)
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


# As TensorFlow Serving has them; versions.py tells what they mean here.
State = Literal["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """`reason`: why a version is not available although it is wanted, in a sentence; else empty."""

    version: int
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Override:
    """What is in force in place of `base`, a model's `user_config`, until that changes: by an administrator's request,
    or by a promotion. Of two, the one with the higher `sequence` holds. `unloaded`: no version is wanted at all.
    """

    base: LiveSettings
    sequence: int
    live: LiveSettings
    unloaded: bool = False


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """What one replica of a Classifier says of itself. `live`: what is in force there.

    `is_loading`: something that is wanted is not there yet. `fault`: why not all is there, when that was last seen to.
    """

    versions: tuple[VersionStatus, ...]
    live: LiveSettings
    override: Override | None = None
    is_loading: bool = False
    fault: str = ""

    @property
    def base(self) -> LiveSettings:
        """The `user_config` of that replica."""
        return self.live if self.override is None else self.override.base


# What decides where a request goes that asks for no version, when traffic is divided: the same key, the same version.
routing_key: ContextVar[str] = ContextVar("routing_key", default="")


@dataclass(frozen=True, slots=True)
class Scores:
    """One image's result. `inference_s`: how long its batch took on the engine; `batch_size`: how many were in it."""

    logits: Logits
    version: int
    inference_s: float
    batch_size: int = 1


@dataclass(frozen=True, slots=True)
class Stages:
    """Where the time of one image went, in seconds. Hops count with the stage that they lead to."""

    preprocess_s: float
    queue_s: float
    inference_s: float

    def total_s(self) -> float:
        return self.preprocess_s + self.queue_s + self.inference_s


# Where an answer came from: kept by an Ingress, shared with an identical image in flight, or computed for it.
Cached = Literal["hit", "joined", "miss"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One classified image. `probabilities` is the softmax of `logits`. `cached`: None for a model without a cache.

    `stages` of a "hit" are all zero; those of a "joined" one are the time that it waited. `batch_size`: of the batch
    that computed it; None where nobody knows.
    """

    info: ModelInfo
    logits: Logits
    probabilities: Logits
    stages: Stages
    cached: Cached | None = None
    batch_size: int | None = None

    @classmethod
    def of(cls, info: ModelInfo, logits: Logits, stages: Stages, batch_size: int | None = None) -> "Answer":
        exponentials = np.exp(logits - logits.max())
        return cls(info, logits, exponentials / exponentials.sum(), stages, batch_size=batch_size)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which class of an answer was explained, and where the network found what speaks for it.

    `heat`: float32 (h, w) in [0, 1], at the resolution of the feature map, over all that the model saw.
    """

    answer: Answer
    index: int
    heat: NDArray[np.float32]


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

    async def explain(
        self, image: bytes, info: ModelInfo, index: int | None, timeout_s: float | None = None
    ) -> Explanation:
        """Classifies one image as `classify`, and says where the class `index` was found, by default the best one.

        Raises what keeps it from being classified, BadRequest for an index that is no class, NotExplainable if no heat
        map can be made of the version, or Overloaded while another one is made.
        """
        ...

    async def fetch(self, url: str) -> bytes | ApertureError:
        """The image at `url`, or why it is not fetched; nothing is, unless the settings allow the host."""
        ...

    def check_count(self, images: int) -> None:
        """Raises TooManyImages if a request may not have that many."""
        ...

    def info_of(self, model: str | None, version: str | None = None, label: str | None = None) -> ModelInfo:
        """What is to answer: the model of that name, or the first; the version of that number, or under that label, or
        that to which `routing_key` leads.

        Raises UnknownModel (also for a version or a label), BadRequest for both at once, or ModelNotReady.
        """
        ...

    def is_ready(self) -> bool:
        """Whether every model answers, but for those that were unloaded by request."""
        ...

    def ready_models(self) -> dict[str, ModelInfo | None]:
        """All models by name, in the order of the settings, each with its default version; None while it has none."""
        ...

    def versions_of(self, model: str | None) -> tuple[VersionStatus, ...]:
        """Of the model of that name, or the first; ascending. Raises UnknownModel."""
        ...

    def labels_of(self, model: str | None) -> Mapping[str, int]:
        """Its labels, and the versions that they lead to now. Raises UnknownModel."""
        ...

    @property
    def limits(self) -> Limits: ...

    async def statistics(self, model: str) -> Mapping[int, ModelStatistics]:
        """By version, ascending; of all replicas together, since they started. Raises UnknownModel."""
        ...


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What an administrator's request says of one model. `base_path`: where it must be; empty: wherever it is."""

    versions: VersionPolicy
    labels: Mapping[str, int]
    base_path: str = ""


class Administrator(Protocol):
    """What changes models by request; deployments/administration.py implements it.

    `who` is for the log. Each raises AdministrationOff, UnknownModel, BadRequest, LoadFailed, ModelNotReady, or
    DeadlineExceeded after `timeout_s`; then what was begun goes on.
    """

    async def load(self, model: str, who: str, timeout_s: float) -> None:
        """Returns once what is wanted of the model, and is on disk now, is announced."""
        ...

    async def unload(self, model: str, who: str, timeout_s: float) -> None:
        """Returns once nobody is sent to any version of the model, until it is loaded again."""
        ...

    async def reload(self, wanted: Mapping[str, ModelConfig], who: str, timeout_s: float) -> None:
        """As TensorFlow Serving does: models that are not among those wanted are unloaded."""
        ...
