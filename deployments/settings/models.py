"""One model: where it comes from, how its pixels are made, what runs it."""

import hashlib
from functools import lru_cache
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from deployments.errors import ConfigError
from deployments.settings.frozen import Finite, Frozen, Positive, PositiveFloat

# Names end up in URLs, in metric labels and as Serve deployment names, where '#' and '/' are separators.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]

RESERVED_NAMES = ("Ingress", "Preprocessor")
EngineName = Literal["torch", "torch-compile", "onnxruntime", "openvino", "tensorrt", "dummy"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
# How a tensor protocol may send an image: encoded, as uint8 RGB pixels, or preprocessed by the client.
InputName = Literal["IMAGE", "PIXELS", "INPUT"]
# What it answers: the softmax of the logits, or these.
OutputName = Literal["PROBABILITIES", "LOGITS"]


class PreprocessingSpec(Frozen):
    """From any image to what a model was trained on. The default is torchvision's ImageNet evaluation transform."""

    # Of the shorter side, before the crop; pixels.
    resize_size: Positive = 256
    # Both sides of what the model sees; pixels.
    crop_size: Positive = 224
    # Of the resize, as torchvision and Pillow name them.
    interpolation: Literal["bilinear", "bicubic", "lanczos", "box", "nearest"] = "bilinear"
    # Channel means and deviations of ImageNet's training set, as in torchvision.transforms._presets.
    mean: tuple[Finite, Finite, Finite] = (0.485, 0.456, 0.406)
    # Of the channels, likewise.
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)
    # "fast" decodes large JPEGs at a lower scale and resizes only what is kept: benchmarks.preprocess has the drift.
    fidelity: Literal["exact", "fast"] = "exact"

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 over the canonical JSON of the spec."""
        return _digest(self)


@lru_cache  # Every answer names it.
def _digest(spec: PreprocessingSpec) -> str:
    # Exact pixels keep the digest that they had before there was another fidelity.
    exclude = {"fidelity"} if spec.fidelity == "exact" else None
    return hashlib.sha256(spec.model_dump_json(exclude=exclude).encode()).hexdigest()[:16]


class Tolerance(Frozen):
    """How far an engine may be from eager float32 on the golden images, before the numeric guard refuses it."""

    # The share of images for which both name the same class.
    top1_agreement: Annotated[float, Field(ge=0, le=1)] = 0.995
    # Of one class, for any of the images.
    max_probability_difference: Annotated[float, Field(ge=0, le=1)] = 0.02


class ModelSettings(Frozen):
    """One model: where its weights are and what runs it.

    Either `path`, a directory models/NAME with integer versions in it, or `architecture` with `weights`: the name of
    torchvision's pretrained weights (downloaded once), or a local .safetensors or .pth file, then with `labels`.
    """

    # In URLs, in metrics, and of the deployment.
    name: Name
    # A directory with a version in each integer subdirectory.
    path: str | None = None
    # Of torchvision, for weights without a directory.
    architecture: str | None = None
    # Torchvision's name of them, or a local file.
    weights: str | None = None
    # A text file with one label a line, for weights from a file.
    labels: str | None = None
    # For weights without a directory; null: torchvision's own for them.
    preprocessing: PreprocessingSpec | None = None
    # In place of the one in the model's preprocessing spec: "fast" trades exactness of the pixels for a quicker decode.
    fidelity: Literal["exact", "fast"] | None = None
    # "auto": whichever of the installed ones is the fastest on this machine and passes the numeric guard.
    engine: Literal["auto", EngineName] = "auto"
    # "auto" may go below fp32, as far as `tolerance` lets it.
    precision: Literal["auto", Precision] = "fp32"
    # Applies below fp32; fp32 itself has to be within rounding of the reference, or closer if this is tighter.
    tolerance: Tolerance = Tolerance()
    # When the guard refuses what was asked for: take the next engine that passes, or fail the start.
    on_refusal: Literal["next", "fail"] = "next"
    # A folder of images on which engines are compared; by default golden/ beside the weights.
    golden: str | None = None
    # A folder of at least 200 images by which int8 finds its ranges; by default the golden ones.
    calibration: str | None = None
    # "auto": a GPU if the replica has one.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # What the metadata of the tensor protocols announces, and they accept. Clients that send whatever is announced,
    # like Triton's image_client.py, need a single one.
    inputs: Annotated[tuple[InputName, ...], Field(min_length=1)] = ("IMAGE", "PIXELS", "INPUT")
    # The same for what they answer.
    outputs: Annotated[tuple[OutputName, ...], Field(min_length=1)] = ("PROBABILITIES", "LOGITS")
    # Batches are warmed up to this size; `user_config` may lower it while the model serves.
    max_batch_size: Annotated[int, Field(ge=1, le=1024)] = 8
    # A batch that runs longer, and longer than ten full ones did when the replica started, has hung: its replica ends
    # itself, and another one takes its place.
    hang_timeout_s: PositiveFloat = 5.0
    # Intra-op threads of the engine on a CPU; by default the whole cores of the replica's num_cpus, at least one.
    # Serve's num_cpus itself reserves cores but limits nothing.
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    # The same for an image that is alone in its batch, whose caller waits while other cores may have nothing to do;
    # null: as many as above. More of them answer it sooner; but for torch, the compiled weights are twice in memory.
    lone_threads: Annotated[int, Field(ge=1, le=256)] | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        for key, names in (("inputs", self.inputs), ("outputs", self.outputs)):
            if len(set(names)) < len(names):
                raise ConfigError(f"The key {key!r} of model {self.name!r} names one of them twice.")
        if self.name in RESERVED_NAMES:
            raise ConfigError(f"models.name is {self.name!r}, which is the name of another deployment of the graph.")
        if self.engine == "dummy":
            return self  # Needs no weights; see deployments/engines/dummy.py.
        if (self.path is None) == (self.architecture is None):
            raise ConfigError(f"Model {self.name!r} must have either path or architecture with weights, and not both.")
        if self.path is not None:
            self._refuse_beside_path()
        elif self.weights is None:
            raise ConfigError(f"Model {self.name!r} has an architecture but no weights.")
        return self

    def _refuse_beside_path(self) -> None:
        for key in ("weights", "labels", "preprocessing"):
            if getattr(self, key) is not None:
                raise ConfigError(f"Model {self.name!r} has a path, whose model.yaml already states its {key}.")


def check_batch_can_fill(model: ModelSettings, max_ongoing_requests: int) -> None:
    """Raises ConfigError if Serve would never let a full batch and the next one onto a replica together."""
    needed = 2 * model.max_batch_size
    if max_ongoing_requests < needed:
        raise ConfigError(
            f"Deployment {model.name!r} has max_ongoing_requests {max_ongoing_requests}, with which batches of "
            f"max_batch_size {model.max_batch_size} can never fill while one runs; it must be at least {needed}."
        )


def with_fidelity(spec: PreprocessingSpec, model: ModelSettings) -> PreprocessingSpec:
    """The spec as the model is served with it."""
    return spec if model.fidelity is None else spec.model_copy(update={"fidelity": model.fidelity})


def with_threads(model: ModelSettings, num_cpus: float) -> ModelSettings:
    """The model with its threads stated: its own, or the whole cores of `num_cpus`, which a replica has reserved."""
    if model.threads is not None:
        return model
    return model.model_copy(update={"threads": max(1, int(num_cpus))})
