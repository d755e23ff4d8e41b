"""Models on disk: models/NAME/VERSION/model.yaml and the weights beside it.

A version is a directory with an integer name; the highest is served. `write_manifest` describes the weights in such a
directory and `find_version` reads it back, verified. This module knows no model library: it ends at paths and checked
facts.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Final

import yaml
from pydantic import Field

from deployments.errors import ConfigError
from deployments.settings import Frozen, PreprocessingSpec

MANIFEST: Final = "model.yaml"
HASH_CHUNK_BYTES: Final = 2**20


class Manifest(Frozen):
    """The content of model.yaml."""

    architecture: str
    weights: Annotated[str, Field(pattern=r"^[^/\\]+$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    preprocessing: PreprocessingSpec


class ModelVersion(Frozen):
    """A version found on disk whose weights are the ones that its manifest names."""

    version: int
    manifest: Manifest
    weights_path: Path


def find_version(model_path: str) -> ModelVersion:
    """The highest version under `model_path`. Raises ConfigError with what is missing or wrong."""
    root = Path(model_path)
    if not root.is_dir():
        raise ConfigError(f"The model directory {model_path!r} does not exist (looked from {Path.cwd()}).")
    versions = sorted((int(entry.name), entry) for entry in root.iterdir() if entry.is_dir() and entry.name.isdecimal())
    if not versions:
        raise ConfigError(f"The model directory {model_path!r} has no version: no subdirectory with an integer name.")
    version, directory = versions[-1]
    manifest = _read_manifest(directory / MANIFEST)
    weights_path = directory / manifest.weights
    _verify(weights_path, manifest.sha256)
    return ModelVersion(version=version, manifest=manifest, weights_path=weights_path)


def write_manifest(
    directory: Path, *, architecture: str, weights: str, labels: tuple[str, ...], preprocessing: PreprocessingSpec
) -> Manifest:
    """Writes model.yaml for the weights file that already lies in `directory`."""
    manifest = Manifest(
        architecture=architecture,
        weights=weights,
        sha256=sha256_of(directory / weights),
        labels=labels,
        preprocessing=preprocessing,
    )
    (directory / MANIFEST).write_text(yaml.safe_dump(manifest.model_dump(mode="json"), sort_keys=False))
    return manifest


def read_labels(labels_path: str) -> tuple[str, ...]:
    """One label a line. Raises ConfigError if the file cannot be read or is empty."""
    try:
        labels = tuple(Path(labels_path).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"The labels file {labels_path!r} cannot be read: {err}.") from err
    if not labels:
        raise ConfigError(f"The labels file {labels_path!r} is empty.")
    return labels


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _read_manifest(path: Path) -> Manifest:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise ConfigError(f"The model description {str(path)!r} cannot be read: {err.strerror}.") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ConfigError(f"The model description {str(path)!r} is not valid YAML.") from err
    try:
        return Manifest.model_validate(content)
    except ConfigError as err:
        raise ConfigError(f"In {str(path)!r}: {err}") from None


def _verify(weights_path: Path, expected_sha256: str) -> None:
    if not weights_path.is_file():
        raise ConfigError(f"The weights file {str(weights_path)!r} does not exist.")
    actual = sha256_of(weights_path)
    if actual != expected_sha256:
        raise ConfigError(
            f"The weights file {str(weights_path)!r} has SHA-256 {actual}, but its model.yaml says {expected_sha256}."
        )
