"""What is derived from a model's content: built on demand, once on a machine, and found again by its hash.

Facts, golden images with the reference's logits, exports and compiled models all live in a directory named after the
model's content, so that a second start needs neither torch nor the time to build them. Torch is imported only when
something has to be built.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from deployments.engines.cache import Cache
from deployments.engines.golden import GOLDEN, MAX_GOLDEN_IMAGES, identity_of, made_up_pixels, pick_images, pixels_of
from deployments.errors import ConfigError
from deployments.messages import ModelInfo
from deployments.repository import ModelVersion, find_version, read_labels, sha256_of
from deployments.settings import EngineName, ModelSettings, Precision, PreprocessingSpec, with_fidelity

if TYPE_CHECKING:
    import torch

    from deployments.engines.sources import ModelSource

Content = TypeVar("Content")

# Raised when what is written here changes its meaning, so that no older file is taken for it.
LAYOUT: Final = 1
# NNCF's own default is 300 (nncf.quantize, subset_size); below 200 the ranges of rare channels are chance.
CALIBRATION_IMAGES: Final = 300
MIN_CALIBRATION_IMAGES: Final = 200
REFERENCE_BATCH: Final = 8
WEIGHT_FILES: Final = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class Facts:
    """What there is to say of a model without loading it."""

    version: int
    architecture: str
    labels: tuple[str, ...]
    preprocessing: PreprocessingSpec


@dataclass(frozen=True)
class Golden:
    """Images to compare engines on, and what eager float32 makes of them."""

    identity: str  # of the images and the reference
    pixels: NDArray[np.uint8]  # (N, H, W, 3)
    logits: NDArray[np.float32]  # (N, classes)
    are_photographs: bool  # False: made up, good enough to tell a wrong engine but not to judge a lower precision


class Artefacts:
    """Everything about the model of `settings` that engines are built from. Its methods raise ConfigError."""

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self._found = find_version(settings.path) if settings.path is not None else None
        self.digest = _digest(settings, self._found)
        self._cache = Cache(settings.name, self.digest)

    @cached_property
    def facts(self) -> Facts:
        if self._found is not None:
            manifest = self._found.manifest
            return Facts(self._found.version, manifest.architecture, manifest.labels, manifest.preprocessing)
        return self.read("facts", self._write_facts, _read_facts)

    @cached_property
    def network(self) -> "torch.nn.Module":
        """Eager float32 on the CPU, uint8 (N, H, W, 3) to logits. Engines that change it change a copy."""
        from deployments.engines.network import Normalized

        if self._source.version != self.facts.version:
            raise ConfigError(
                f"Model {self.settings.name!r} got a new version on disk while it was loaded; start again."
            )
        return Normalized(self._source.module, self._source.preprocessing).eval()

    @cached_property
    def golden(self) -> Golden:
        images, spec = self._golden_images, self.facts.preprocessing
        identity = f"{identity_of(images) if images else 'made-up'}-torch-{version_of('torch')}"

        def build(directory: Path) -> None:
            pixels = pixels_of(images, spec) if images else made_up_pixels(spec)
            np.savez(directory / "golden.npz", pixels=pixels, logits=self._reference(pixels))

        def read(directory: Path) -> Golden:
            with (directory / "golden.npz").open("rb") as file, np.load(file) as stored:
                return Golden(identity, stored["pixels"], stored["logits"], bool(images))

        return self.read(f"golden-{identity}", build, read)

    @cached_property
    def calibration_identity(self) -> str:
        """Changes with the images of `calibration_pixels`, but costs no decoding: for the names of what they decide."""
        return identity_of(self._calibration_images)

    def calibration_pixels(self) -> NDArray[np.uint8]:
        """uint8 (N, H, W, 3) of at least MIN_CALIBRATION_IMAGES and at most CALIBRATION_IMAGES images."""
        images = self._calibration_images
        pixels = pixels_of(images, self.facts.preprocessing) if images else np.empty(0, dtype=np.uint8)
        if len(pixels) < MIN_CALIBRATION_IMAGES:
            raise ConfigError(
                f"int8 needs at least {MIN_CALIBRATION_IMAGES} images to find its ranges, and model "
                f"{self.settings.name!r} has {len(pixels)}; set calibration to a folder of images like those to come."
            )
        return pixels

    def directory(self, name: str, build: Callable[[Path], None]) -> Path:
        """The artefact `name`, which `build` writes into an empty directory if it is not there yet.

        A build that is interrupted leaves nothing behind, and two replicas do not build the same thing twice.
        """
        return self._cache.directory(name, build)

    def read(self, name: str, build: Callable[[Path], None], read: Callable[[Path], Content]) -> Content:
        """What `read` makes of the artefact `name`. One that cannot be read is built once more."""
        return self._cache.read(name, build, read)

    def holds(self, name: str) -> bool:
        return self._cache.holds(name)

    def alone(self) -> AbstractContextManager[None]:
        """Held by one process on this machine at a time, whatever model it loads. To be taken inside a build."""
        return self._cache.alone()

    def describe(self, engine: EngineName, precision: Precision, device: str) -> ModelInfo:
        facts = self.facts
        return ModelInfo(
            name=self.settings.name,
            version=facts.version,
            labels=facts.labels,
            preprocessing=with_fidelity(facts.preprocessing, self.settings),
            architecture=facts.architecture,
            engine=engine,
            precision=precision,
            device=device,
        )

    @cached_property
    def _source(self) -> "ModelSource":
        from deployments.engines.sources import load_source

        return load_source(self.settings)

    @cached_property
    def _golden_images(self) -> Sequence[Path]:
        """Those of the settings, or those beside the weights, or none."""
        if self.settings.golden is not None:
            return pick_images(Path(self.settings.golden), MAX_GOLDEN_IMAGES)
        if self._found is not None and (beside := self._found.weights_path.parent / GOLDEN).is_dir():
            return pick_images(beside, MAX_GOLDEN_IMAGES)
        return []

    @cached_property
    def _calibration_images(self) -> Sequence[Path]:
        if self.settings.calibration is not None:
            return pick_images(Path(self.settings.calibration), CALIBRATION_IMAGES)
        return self._golden_images

    def _reference(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        # Others may serve on this machine; torch by itself would take all of its cores.
        torch.set_num_threads(self.settings.threads or 1)
        with torch.inference_mode():
            batches = [
                self.network(torch.from_numpy(pixels[start : start + REFERENCE_BATCH])).numpy()
                for start in range(0, len(pixels), REFERENCE_BATCH)
            ]
        logits = np.concatenate(batches)  # (N, classes) float32
        if not np.isfinite(logits).all():
            raise ConfigError(
                f"The weights of model {self.settings.name!r} make values of golden images that are not finite; they "
                f"are broken."
            )
        return logits

    def _write_facts(self, directory: Path) -> None:
        source = self._source
        content = {
            "version": source.version,
            "architecture": source.architecture,
            "labels": source.labels,
            "preprocessing": source.preprocessing.model_dump(mode="json"),
        }
        (directory / "facts.json").write_text(json.dumps(content))


def _read_facts(directory: Path) -> Facts:
    content = json.loads((directory / "facts.json").read_text())
    spec = PreprocessingSpec.model_validate(content["preprocessing"])
    return Facts(content["version"], content["architecture"], tuple(content["labels"]), spec)


def _digest(settings: ModelSettings, found: ModelVersion | None) -> str:
    """Of everything that decides what the model computes. torchvision's names stand for the files that it published."""
    content: dict[str, object] = {"layout": LAYOUT, "torchvision": version_of("torchvision")}
    if found is not None:
        content |= {"version": found.version}
        content |= found.manifest.model_dump(mode="json", exclude={"preprocessing": {"fidelity"}})
    else:
        content |= settings.model_dump(
            mode="json", include={"architecture", "weights", "preprocessing"}, exclude={"preprocessing": {"fidelity"}}
        )
        content["labels"] = read_labels(settings.labels) if settings.labels else None
        weights = Path(settings.weights or "")
        if weights.suffix in WEIGHT_FILES and weights.is_file():
            content["weights"] = sha256_of(weights)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
