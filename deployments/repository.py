"""Models on disk: models/NAME/VERSION/model.yaml and the weights beside it.

A version is a directory with an integer name. `write_manifest` describes the weights in such a directory,
`versions_on_disk` says which there are, and `find_version` reads one back, verified; of a directory that nobody has
described it makes what it can of the files. This module knows no model library: it ends at paths and checked facts.
"""

import logging
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import Field, model_validator

from deployments.errors import ConfigError
from deployments.settings import Frozen, PreprocessingSpec
from deployments.weight_files import SAVED_MODEL, Format, digest_of, format_of, sha256_of

logger = logging.getLogger("ray.serve")

MANIFEST: Final = "model.yaml"
# Beside weights without a description, one label a line.
LABELS: Final = "labels.txt"
MAX_LISTED_VERSIONS: Final = 10
# Graphs, which may call their inputs and outputs what they like.
GRAPHS: Final = ("onnx", "saved_model", "tensorrt")
# Those of them that are served without a description; a plan is native code, which nobody runs unvouched for.
DESCRIBE_THEMSELVES: Final = ("onnx", "saved_model")
# Versions are 64-bit integers in every protocol; a decimal number of more digits may be none.
MAX_VERSION_DIGITS: Final = 18
# ASCII digits without a leading zero, so that no two directories are the same version.
VERSION_NAME: Final = re.compile(rf"0|[1-9][0-9]{{0,{MAX_VERSION_DIGITS - 1}}}")


class RecordedFile(Frozen):
    """What a version's training saw and answered (engines/recorded.py), beside its weights."""

    # Its name in the directory of the version.
    file: Annotated[str, Field(pattern=r"^[^/\\]+$")]
    # Of the file's bytes.
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class GraphInput(Frozen):
    """Where a graph takes its images; what is not stated is found in the graph."""

    # Of the graph's input.
    name: str | None = None
    # Channels last, or before height and width.
    layout: Literal["nhwc", "nchw"] | None = None
    # float32: normalised by the spec's mean and deviation; uint8: the pixels as they are.
    dtype: Literal["float32", "uint8"] | None = None


class GraphOutput(Frozen):
    """Where a graph has its answers; what is not stated is found in the graph."""

    # Of the graph's output.
    name: str | None = None
    # Of probabilities the service takes the logarithm, so that their softmax is the graph's own numbers.
    kind: Literal["logits", "probabilities"] | None = None


class Manifest(Frozen):
    """The content of model.yaml. Only graphs that say of themselves what they take may lack labels and preprocessing:
    ONNX files and SavedModels, whose labels are then the numbers of their classes.
    """

    # Of torchvision, for a state_dict; otherwise a name for people, by default that of the format.
    architecture: str = ""
    # The name of the file in the directory of the version.
    weights: Annotated[str, Field(pattern=r"^[^/\\]+$")]
    # By default what the name of the weights says, or else state_dict.
    format: Format
    # As weight_files.digest_of has it.
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    # One for each class, in the order of the outputs.
    labels: Annotated[tuple[str, ...], Field(min_length=1)] = ()
    preprocessing: PreprocessingSpec = PreprocessingSpec()
    input: GraphInput = GraphInput()
    output: GraphOutput = GraphOutput()
    # Of the spec under which the version was trained; what is above is what it is served under.
    preprocessing_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None
    golden: RecordedFile | None = None

    @model_validator(mode="before")
    @classmethod
    def _format_by_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("format") is None and isinstance(data.get("weights"), str):
            return {**data, "format": format_of(data["weights"]) or "state_dict"}
        return data

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        needed = {"architecture"} if self.format == "state_dict" else set()
        if self.format not in DESCRIBE_THEMSELVES:
            needed |= {"labels", "preprocessing"}
        elif self.golden is not None or self.preprocessing_digest is not None:
            needed |= {"preprocessing"}
        for key in ("architecture", "labels", "preprocessing"):
            if key in needed - self.model_fields_set:
                raise ConfigError(f"Manifest needs the key {key!r}, which is missing.")
        if self.format not in GRAPHS and (self.input, self.output) != (GraphInput(), GraphOutput()):
            raise ConfigError(f"Manifest has a key 'input' or 'output', which weights of {self.format} do not take.")
        if (self.format == "saved_model") != (self.weights == SAVED_MODEL):
            raise ConfigError(
                f"Manifest has the weights {self.weights!r} and the format {self.format!r}, but a SavedModel is named "
                f"{SAVED_MODEL!r}, and nothing else is."
            )
        return self


class ModelVersion(Frozen):
    """A version found on disk whose weights are the ones that its manifest names."""

    version: int
    manifest: Manifest
    weights_path: Path


def versions_on_disk(model_path: str) -> tuple[int, ...]:
    """The versions under `model_path`, ascending; nothing of them is read. Raises ConfigError if it is no directory.

    A version is a directory whose name is its number: decimal digits, at most MAX_VERSION_DIGITS, no leading zero.
    """
    root = Path(model_path)
    try:
        entries = [entry for entry in root.iterdir() if VERSION_NAME.fullmatch(entry.name) and entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"The model directory {model_path!r} does not exist (looked from {Path.cwd()}).") from None
    except OSError as err:
        raise ConfigError(f"The model directory {model_path!r} cannot be read: {err.strerror}.") from err
    return tuple(sorted(int(entry.name) for entry in entries))


def find_version(model_path: str, version: int | None = None) -> ModelVersion:
    """That version under `model_path`, or the highest. Raises ConfigError with what is missing or wrong."""
    versions = versions_on_disk(model_path)
    if not versions:
        raise ConfigError(f"The model directory {model_path!r} has no version: no subdirectory with an integer name.")
    version = versions[-1] if version is None else version
    if version not in versions:
        raise ConfigError(f"The model directory {model_path!r} has no version {version}; it has {_listed(versions)}.")
    directory = Path(model_path) / str(version)
    is_described = (directory / MANIFEST).exists()
    manifest = _read_manifest(directory / MANIFEST) if is_described else _described_by_its_files(directory)
    weights_path = directory / manifest.weights
    if is_described:
        _verify(directory, manifest)
    return ModelVersion(version=version, manifest=manifest, weights_path=weights_path)


def write_manifest(
    directory: Path,
    *,
    architecture: str,
    weights: str,
    labels: tuple[str, ...],
    preprocessing: PreprocessingSpec,
    recorded: str | None = None,
    graph_input: GraphInput | None = None,
    graph_output: GraphOutput | None = None,
) -> Manifest:
    """Writes model.yaml for the weights that already lie in `directory`, and the `recorded` file if there is one.

    `preprocessing` is the spec under which the weights were trained. The format is what the name of the weights says.
    """
    kind = format_of(weights) or "state_dict"
    manifest = Manifest(
        architecture=architecture,
        weights=weights,
        format=kind,
        # A name that leads elsewhere is refused as a whole, before anything is read.
        sha256=digest_of(directory, weights, kind) if Path(weights).name == weights else "0" * 64,
        labels=labels,
        preprocessing=preprocessing,
        # Of exact pixels, as training sees them.
        preprocessing_digest=preprocessing.model_copy(update={"fidelity": "exact"}).digest,
        golden=None if recorded is None else RecordedFile(file=recorded, sha256=sha256_of(directory / recorded)),
        input=graph_input or GraphInput(),
        output=graph_output or GraphOutput(),
    )
    # What is empty is not stated.
    content = {key: value for key, value in manifest.model_dump(mode="json", exclude_none=True).items() if value}
    (directory / MANIFEST).write_text(yaml.safe_dump(content, sort_keys=False))
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


def _listed(versions: tuple[int, ...]) -> str:
    """The highest of them, as many as fit in a sentence."""
    shown = ", ".join(str(version) for version in versions[-MAX_LISTED_VERSIONS:])
    return shown if len(versions) <= MAX_LISTED_VERSIONS else f"{len(versions)} of them, the highest {shown}"


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


def _verify(directory: Path, manifest: Manifest) -> None:
    actual = digest_of(directory, manifest.weights, manifest.format)
    if actual != manifest.sha256:
        raise ConfigError(
            f"The weights file {str(directory / manifest.weights)!r} has SHA-256 {actual}, but its model.yaml says "
            f"{manifest.sha256}."
        )


def _described_by_its_files(directory: Path) -> Manifest:
    """For weights that need no description, where they are the only ones. Raises ConfigError with what is missing."""
    missing = f"{str(directory / MANIFEST)!r} does not exist, and {str(directory)!r}"
    found = sorted(path.name for path in directory.iterdir() if path.is_file() and format_of(path.name) is not None)
    if len(found) != 1:
        has = f"has several weights: {', '.join(found)}" if found else "has no weights of a known format either"
        raise ConfigError(f"{missing} {has}.")
    (weights,) = found
    kind = format_of(weights)
    if kind not in DESCRIBE_THEMSELVES:
        needs = "states the architecture" if kind == "state_dict" else "vouches for them by their sha256"
        raise ConfigError(
            f"{missing} has the weights {weights!r}, which are served only with a description that {needs} and has "
            f"labels and preprocessing."
        )
    labels = read_labels(str(directory / LABELS)) if (directory / LABELS).exists() else None
    logger.warning(
        "%s has no %s: %s is served with defaults, and its files are not verified.", directory, MANIFEST, weights
    )
    content = {"weights": weights, "sha256": digest_of(directory, weights, kind)}
    return Manifest.model_validate(content if labels is None else {**content, "labels": labels})
