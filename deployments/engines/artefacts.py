"""What is derived from a model's content: built on demand, once on a machine, and found again by its hash.

Facts, golden images with the reference's logits, exports and compiled models all live in a directory named after the
model's content, so that a second start needs neither torch nor the time to build them. Torch is imported only when
something has to be built.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from deployments.engines import reference
from deployments.engines.cache import Cache
from deployments.engines.content import content_digest
from deployments.engines.facts import Facts, facts_of_graph, facts_of_source, read_facts, stated_facts, write_facts
from deployments.engines.golden import (
    GOLDEN,
    MAX_GOLDEN_IMAGES,
    digests_of,
    identity_of,
    identity_of_digests,
    made_up_pixels,
    pick_images,
    pixels_of,
)
from deployments.errors import ConfigError
from deployments.messages import ModelInfo
from deployments.repository import ModelVersion, find_version
from deployments.settings import EngineName, ModelSettings, Precision, with_fidelity
from deployments.weight_files import Format

if TYPE_CHECKING:
    import torch

    from deployments.engines.sources import ModelSource

Content = TypeVar("Content")

# NNCF's own default is 300 (nncf.quantize, subset_size); below 200 the ranges of rare channels are chance.
CALIBRATION_IMAGES: Final = 300
MIN_CALIBRATION_IMAGES: Final = 200
# Of a model whose weights are torchvision's or a local file.
ONLY_VERSION: Final = 1


@dataclass(frozen=True)
class Golden:
    """Images to compare engines on, and what the reference makes of them."""

    identity: str  # of the images and the reference
    pixels: NDArray[np.uint8]  # (N, H, W, 3)
    logits: NDArray[np.float32]  # (N, classes)
    digests: tuple[bytes, ...]  # the SHA-256 of each file that the pixels may be of

    @property
    def are_photographs(self) -> bool:
        """False: made up, good enough to tell a wrong engine but not to judge a lower precision."""
        return bool(self.digests)


class Artefacts:
    """Everything about the model of `settings` that engines are built from. Its methods raise ConfigError."""

    def __init__(self, settings: ModelSettings, version: int | None = None) -> None:
        """Of `version`, or of the highest there is. What lies on disk is looked for and hashed here, and only here."""
        self.settings = settings
        self.found = _find(settings, version)
        self.digest = content_digest(settings, self.found)
        self._cache = Cache(settings.name, self.digest)
        self._golden: dict[tuple[Path, ...], Golden] = {}

    @cached_property
    def facts(self) -> Facts:
        if self.found is None:
            return self.read(
                "facts", lambda directory: write_facts(facts_of_source(self._source), directory), read_facts
            )
        if (stated := stated_facts(self.found)) is not None:
            return stated
        return self._facts_of_graph(self.found)

    @property
    def format(self) -> Format:
        return "state_dict" if self.found is None else self.found.manifest.format

    @cached_property
    def network(self) -> "torch.nn.Module":
        """Eager float32 on the CPU, uint8 (N, H, W, 3) to logits. Engines that change it change a copy."""
        from deployments.engines.network import Normalized

        return Normalized(self._source.module, self._source.preprocessing).eval()

    @cached_property
    def golden(self) -> Golden:
        return self.golden_of(self._golden_images)

    def golden_of(self, images: Sequence[Path]) -> Golden:
        """What the reference makes of `images`, kept as long as they are the same; of made-up pictures if none."""
        if (known := self._golden.get(tuple(images))) is not None:
            return known
        digests, spec = digests_of(images), self.facts.preprocessing
        which = identity_of_digests(digests) if images else "made-up"
        identity = f"{which}-{reference.name_of(self)}-pillow-{version_of('pillow')}"

        def build(directory: Path) -> None:
            pixels = pixels_of(images, spec) if images else made_up_pixels(spec)
            np.savez(directory / "golden.npz", pixels=pixels, logits=self._reference(pixels))

        def read(directory: Path) -> Golden:
            with (directory / "golden.npz").open("rb") as file, np.load(file) as stored:
                return Golden(identity, stored["pixels"], stored["logits"], tuple(digests))

        golden = self._golden[tuple(images)] = self.read(f"golden-{identity}", build, read)
        return golden

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

        return load_source(self.settings, self.found)

    @cached_property
    def _golden_images(self) -> Sequence[Path]:
        """Those of the settings, or those beside the weights, or none."""
        if self.settings.golden is not None:
            return pick_images(Path(self.settings.golden), MAX_GOLDEN_IMAGES)
        if self.found is not None and (beside := self.found.weights_path.parent / GOLDEN).is_dir():
            return pick_images(beside, MAX_GOLDEN_IMAGES)
        return []

    @cached_property
    def _calibration_images(self) -> Sequence[Path]:
        if self.settings.calibration is not None:
            return pick_images(Path(self.settings.calibration), CALIBRATION_IMAGES)
        return self._golden_images

    def _reference(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = reference.logits_of(self, pixels)  # (N, classes)
        if not np.isfinite(logits).all():
            raise ConfigError(
                f"The weights of model {self.settings.name!r} make values of golden images that are not finite; they "
                f"are broken."
            )
        return logits

    def _write_facts(self, directory: Path) -> None:
        write_facts(facts_of_source(self._source), directory)

    def _facts_of_graph(self, found: ModelVersion) -> Facts:
        from deployments.engines.foreign import log_defaults

        def read(directory: Path) -> Facts:
            return read_facts(directory, found)

        facts = self.read("facts", lambda directory: write_facts(facts_of_graph(found), directory), read)
        log_defaults(found, facts.labels, facts.preprocessing)
        return facts


def _find(settings: ModelSettings, version: int | None) -> ModelVersion | None:
    """None for a model without a directory, which has one version alone."""
    if settings.path is not None:
        return find_version(settings.path, version)
    if version not in (None, ONLY_VERSION):
        raise ConfigError(
            f"Model {settings.name!r} has no path and so the one version {ONLY_VERSION}, not version {version}."
        )
    return None
