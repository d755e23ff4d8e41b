"""Golden images: what engines are compared on. A folder of the user's, or made-up pictures where there is none."""

import hashlib
import logging
import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.errors import ApertureError, ConfigError
from deployments.imaging import preprocess
from deployments.settings import Limits, PreprocessingSpec

logger = logging.getLogger("ray.serve")

# Beside the weights of a version, for a model whose settings name no other folder.
GOLDEN: Final = "golden"
# So many that one image is less than half a percent of them, which is as finely as the guard asks; more cost start-up.
MAX_GOLDEN_IMAGES: Final = 256
MADE_UP_IMAGES: Final = 32
# Cells along a side of each layer of the made-up pictures. The finer, the fainter: photographs, too, have most of their
# energy in coarse structure.
OCTAVES: Final = (2, 4, 8, 16, 32, 64)


def pick_images(folder: Path, at_most: int) -> list[Path]:
    """The files in `folder`, subfolders included, evenly picked if there are more. Raises ConfigError if none."""
    if not folder.is_dir():
        raise ConfigError(f"The folder of images {str(folder)!r} does not exist (looked from {Path.cwd()}).")
    files = sorted(path for path in folder.rglob("*") if _may_be_an_image(path, folder))
    if not files:
        raise ConfigError(f"The folder of images {str(folder)!r} has no image in it.")
    picked = np.linspace(0, len(files) - 1, min(at_most, len(files))).round().astype(int)
    return [files[index] for index in picked]


def digests_of(files: Sequence[Path]) -> list[bytes]:
    """The SHA-256 of each file, 32 bytes. Raises ConfigError if one cannot be read."""
    return [hashlib.sha256(_read(file)).digest() for file in files]


def identity_of(files: Sequence[Path]) -> str:
    """24 hex digits that change with the content of any of `files`. Raises ConfigError if one cannot be read."""
    return identity_of_digests(digests_of(files))


def identity_of_digests(digests: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()[:24]


def pixels_of(files: Sequence[Path], spec: PreprocessingSpec) -> NDArray[np.uint8]:
    """uint8 (N, H, W, 3), exact whatever the spec's fidelity. What is no image is left out; ConfigError if all are."""
    exact = spec.model_copy(update={"fidelity": "exact"})
    pixels = []
    for file in files:
        try:
            pixels.append(preprocess(_read(file), exact, Limits()))
        except ApertureError as refusal:
            logger.warning("%s is left out of the golden or calibration images: %s", file, refusal)
    if not pixels:
        raise ConfigError(f"None of the files beside {str(files[0])!r} is an image that this service decodes.")
    return np.stack(pixels)


def made_up_pixels(spec: PreprocessingSpec) -> NDArray[np.uint8]:
    """uint8 (MADE_UP_IMAGES, H, W, 3): coloured noise whose energy falls with frequency, as that of photographs does.

    The same pictures at every start.
    """
    random = np.random.default_rng(0)
    return np.stack([_made_up(random, spec.crop_size) for _ in range(MADE_UP_IMAGES)])


def _made_up(random: np.random.Generator, side: int) -> NDArray[np.uint8]:
    total = np.zeros((side, side, 3))
    for octave in OCTAVES:
        coarse = Image.fromarray(random.integers(0, 256, (octave, octave, 3), dtype=np.uint8))
        total += (np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=float) - 127.5) / octave
    # Of a contrast from faint to strong: the sum of the layers above spans about the middle half of a byte.
    return np.clip(127.5 + total * random.uniform(0.5, 1.5), 0, 255).astype(np.uint8)


def _may_be_an_image(path: Path, folder: Path) -> bool:
    """By its name: not hidden, and not something else, as the labels that data sets have beside their images."""
    kind, _ = mimetypes.guess_type(path.name)
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.is_file() and not hidden and (kind is None or kind.startswith("image/"))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as err:
        raise ConfigError(f"The image {str(file)!r} cannot be read: {err.strerror}.") from err
