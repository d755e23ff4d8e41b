"""What a version answered when it was exported, and that it does so still.

`record` writes it beside the weights: for each golden picture, the SHA-256 of its file, the SHA-256 of the pixels that
preprocessing made of it, and the logits of eager float32. At each load `check_recorded` reproduces all of it, so that a
model is not served with another preprocessing than it was trained with, nor with other weights than were exported.

At each load anew: the digest of the spec, the hash of every file, and the comparison of pixels and logits. The pixels
and the logits themselves are made once on a machine for each content, version of torch and version of Pillow
(Artefacts.golden_of).
"""

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deployments.engines.artefacts import Artefacts, Golden
from deployments.engines.golden import GOLDEN, MAX_GOLDEN_IMAGES, digests_of, pick_images, pixels_of
from deployments.engines.guard import compare
from deployments.errors import ConfigError
from deployments.settings import PreprocessingSpec, Tolerance
from deployments.weight_files import sha256_of

FILE: Final = "golden.npz"
# Logits of MAX_GOLDEN_IMAGES over the 21,843 classes of ImageNet-21k are 22 MB.
MAX_RECORDED_BYTES: Final = 2**26
# Over one or two threads, batches of 1 to 64, kernels for SSE4.1, AVX and AVX2, and with oneDNN or without, the bundled
# model and a ResNet-18 stay within 8e-7. As for engines (guard.FP32_TOLERANCE), a thousand times as much is more than
# rounding. Below that bound, the most probable class changes only where two were as probable as each other.
MAX_PROBABILITY_DIFFERENCE: Final = 1e-3
# The same of logits, as a share of the largest: they may be wrong where the probabilities are right.
MAX_LOGIT_DIFFERENCE: Final = 1e-3

Forward = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class Recorded:
    names: tuple[str, ...]  # of the files, from golden/ on
    files: NDArray[np.uint8]  # (N, 32): SHA-256
    pixels: NDArray[np.uint8]  # (N, 32): SHA-256
    logits: NDArray[np.float32]  # (N, classes)
    preprocessing: str  # PreprocessingSpec.digest
    made_with: str


def record(directory: Path, spec: PreprocessingSpec, forward: Forward) -> str:
    """Writes FILE for the golden pictures of the version in `directory`; returns its name.

    forward: the exported model in eager float32, uint8 (N, H, W, 3) to logits (N, classes).
    Raises ConfigError if golden/ has no picture, or has a file that is none.
    """
    pictures = pick_images(directory / GOLDEN, MAX_GOLDEN_IMAGES)
    pixels = pixels_of(pictures, spec)
    if len(pixels) != len(pictures):
        raise ConfigError(f"{directory / GOLDEN} has files that are no images; remove them.")
    np.savez(
        directory / FILE,
        names=np.array([picture.relative_to(directory / GOLDEN).as_posix() for picture in pictures]),
        files=_as_rows(digests_of(pictures)),
        pixels=_as_rows([_sha256(each) for each in pixels]),
        logits=forward(pixels),
        preprocessing=np.array(_digest(spec)),
        made_with=np.array(_made_with()),
    )
    return FILE


def check_recorded(artefacts: Artefacts) -> None:
    """Raises ConfigError if the version does not reproduce what was recorded of it. One without recordings passes."""
    found = artefacts.found
    if found is None:
        return
    who, manifest = f"Version {found.version} of model {artefacts.settings.name!r}", found.manifest
    check_trained_with(who, manifest.preprocessing_digest, manifest.preprocessing)
    if manifest.golden is None:
        return
    directory = found.weights_path.parent
    recorded = _read(who, directory / manifest.golden.file, manifest.golden.sha256)
    check_trained_with(who, recorded.preprocessing, manifest.preprocessing)
    golden = artefacts.golden_of([directory / GOLDEN / name for name in recorded.names])
    _check_files(who, recorded, golden)
    _check_pixels(who, recorded, golden)
    _check_logits(who, recorded, golden)


def check_trained_with(who: str, trained: str | None, spec: PreprocessingSpec) -> None:
    """Raises ConfigError if a version was trained under another spec than `spec`: one of the digest `trained`."""
    if trained is not None and trained != (asked_for := _digest(spec)):
        raise ConfigError(
            f"{who} was trained with the preprocessing {trained}, but its model.yaml asks for {asked_for}; put back "
            f"the preprocessing that it was trained with."
        )


def _read(who: str, path: Path, sha256: str) -> Recorded:
    if not path.is_file():
        raise ConfigError(f"The recorded outputs {str(path)!r} do not exist, but its model.yaml names them.")
    if (actual := sha256_of(path)) != sha256:
        raise ConfigError(
            f"The recorded outputs {str(path)!r} have SHA-256 {actual}, but its model.yaml says {sha256}."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_RECORDED_BYTES:
                raise ValueError("too large")
        with np.load(path, allow_pickle=False) as stored:
            names = tuple(str(name) for name in stored["names"])
            texts = (str(stored["preprocessing"]), str(stored["made_with"]))
            recorded = Recorded(names, stored["files"], stored["pixels"], stored["logits"], *texts)
    except Exception as err:
        raise _unreadable(who, path) from err
    if not _is_sound(recorded):
        raise _unreadable(who, path)
    return recorded


def _unreadable(who: str, path: Path) -> ConfigError:
    return ConfigError(f"{who} cannot be checked: its recorded outputs {str(path)!r} are not what an export writes.")


def _is_sound(recorded: Recorded) -> bool:
    count, logits = len(recorded.names), recorded.logits
    hashes_fit = all(each.shape == (count, 32) and each.dtype == np.uint8 for each in (recorded.files, recorded.pixels))
    logits_fit = logits.ndim == 2 and len(logits) == count and logits.dtype == np.float32 and np.isfinite(logits).all()
    inside = all(
        name and not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
        for name in recorded.names
    )
    return bool(0 < count <= MAX_GOLDEN_IMAGES and hashes_fit and logits_fit and inside)


def _check_files(who: str, recorded: Recorded, golden: Golden) -> None:
    if changed := _differing(recorded.names, recorded.files, _as_rows(golden.digests)):
        raise ConfigError(
            f"{who} cannot be checked, since {changed} have changed since its outputs were recorded; put them back, "
            f"or record again what it answers."
        )


def _check_pixels(who: str, recorded: Recorded, golden: Golden) -> None:
    if len(golden.pixels) != len(recorded.names):
        raise ConfigError(
            f"{who} was trained on pictures that this service refuses: of its {len(recorded.names)} golden pictures it "
            f"decodes {len(golden.pixels)}."
        )
    pixels = _as_rows([_sha256(each) for each in golden.pixels])
    if changed := _differing(recorded.names, recorded.pixels, pixels):
        raise ConfigError(
            f"{who} was trained with another preprocessing than this service has, which makes other pixels of "
            f"{changed} than were recorded (with {recorded.made_with}; here are {_made_with()})."
        )


def _check_logits(who: str, recorded: Recorded, golden: Golden) -> None:
    bounds = Tolerance(top1_agreement=0, max_probability_difference=MAX_PROBABILITY_DIFFERENCE)
    verdict = compare(recorded.logits, golden.logits, bounds)
    refusal = verdict.refusal
    if refusal is None:
        largest = float(np.abs(recorded.logits).max())
        difference = float(np.abs(recorded.logits - golden.logits).max())
        if difference > MAX_LOGIT_DIFFERENCE * largest:
            refusal = f"a logit differs by {difference:.3g}, where the largest is {largest:.3g}"
    if refusal is not None:
        raise ConfigError(
            f"{who} does not answer as when it was exported, so that its numbers are wrong: {refusal} ({verdict})."
        )


def _differing(names: Sequence[str], expected: NDArray[np.uint8], actual: NDArray[np.uint8]) -> str:
    """Which and how many of the golden pictures have other hashes, for a sentence; empty if none."""
    differ = np.flatnonzero((expected != actual).any(axis=1))
    if len(differ) == 0:
        return ""
    return f"{len(differ)} of its {len(names)} golden pictures ({names[differ[0]]!r} for one)"


def _sha256(pixels: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(pixels.tobytes()).digest()


def _as_rows(digests: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(len(digests), -1)


def _digest(spec: PreprocessingSpec) -> str:
    """Of exact pixels, as training has them: `fidelity` is how a version is served."""
    return spec.model_copy(update={"fidelity": "exact"}).digest


def _made_with() -> str:
    return f"Pillow {version_of('pillow')} and torch {version_of('torch')}"
