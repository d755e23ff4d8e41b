"""Where a torchvision model comes from: a version on disk, pretrained weights, or a local file.

All three end in the same thing: an architecture with its weights, labels and preprocessing spec. Pickles never run:
files are safetensors, or checkpoints that torch loads with `weights_only=True`.
"""

import os
import re
import socket
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file

from deployments.engines.artefacts import ONLY_VERSION
from deployments.errors import ConfigError
from deployments.repository import ModelVersion, read_labels
from deployments.settings import ModelSettings, PreprocessingSpec

# torch.hub sets no timeout of its own, and a firewall that drops packets would hold the start for ever.
DOWNLOAD_TIMEOUT_S: Final = 30.0

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class ModelSource:
    module: torch.nn.Module
    architecture: str
    version: int
    labels: tuple[str, ...]
    preprocessing: PreprocessingSpec


def load_source(settings: ModelSettings, found: ModelVersion | None) -> ModelSource:
    """The model of `settings`; `found` is its version on disk, if it has a path.

    Raises ConfigError with one sentence if anything is missing, unreadable or does not fit together.
    """
    if found is not None:
        return _from_directory(found)
    if settings.architecture is None or settings.weights is None:
        raise ConfigError(f"Model {settings.name!r} has neither a path nor an architecture with weights.")
    if Path(settings.weights).suffix in (".safetensors", ".pth", ".pt"):
        return _from_file(settings, settings.architecture, settings.weights)
    return _from_torchvision(settings, settings.architecture, settings.weights)


def pretrained_state(architecture: str) -> State:
    """The best of torchvision's weights, under the names of its own module. Raises as `load_source`."""
    _require_classifier(architecture)
    return _pretrained(architecture, torchvision.models.get_model_weights(architecture)["DEFAULT"]).state_dict()


def read_state(path: Path) -> State:
    """The tensors in a file; of a checkpoint, whatever else it holds under their names. Raises as `load_source`."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError) as err:
        raise ConfigError(f"The weights file {str(path)!r} cannot be read: {_first_sentence(err)}.") from err
    except Exception as err:  # UnpicklingError, whose text recommends weights_only=False, or a broken archive
        raise _not_plain(path) from err
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise _not_plain(path)
    return state


def _from_directory(found: ModelVersion) -> ModelSource:
    manifest = found.manifest
    if manifest.format == "torch_export":
        from deployments.engines.exported_program import load_exported_program

        exported = load_exported_program(found.weights_path, manifest.preprocessing.crop_size)
        architecture = manifest.architecture or manifest.format
        return ModelSource(exported, architecture, found.version, manifest.labels, manifest.preprocessing)
    module = _build(
        manifest.architecture, len(manifest.labels), read_state(found.weights_path), str(found.weights_path)
    )
    return ModelSource(module, manifest.architecture, found.version, manifest.labels, manifest.preprocessing)


def _from_file(settings: ModelSettings, architecture: str, weights: str) -> ModelSource:
    if settings.labels is None:
        raise ConfigError(f"Model {settings.name!r} takes its weights from a file and so needs labels, a text file.")
    labels = read_labels(settings.labels)
    if not Path(weights).is_file():
        raise ConfigError(f"The weights file {weights!r} of model {settings.name!r} does not exist.")
    module = _build(architecture, len(labels), read_state(Path(weights)), weights)
    return ModelSource(module, architecture, ONLY_VERSION, labels, settings.preprocessing or PreprocessingSpec())


def _from_torchvision(settings: ModelSettings, architecture: str, weights: str) -> ModelSource:
    _require_classifier(architecture)
    known = torchvision.models.get_model_weights(architecture)
    if weights not in known.__members__:
        names = ", ".join(known.__members__)
        raise ConfigError(
            f"Weights {weights!r} of model {settings.name!r} are neither a .safetensors, .pth or .pt file nor one of "
            f"torchvision's for {architecture}: {names}."
        )
    chosen: Any = known[weights]
    categories = chosen.meta["categories"]
    if categories is None:  # VGG16's IMAGENET1K_FEATURES
        raise ConfigError(f"Weights {weights!r} of model {settings.name!r} have no classes; they classify nothing.")
    labels = read_labels(settings.labels) if settings.labels else tuple(categories)
    if len(labels) != len(categories):
        raise ConfigError(
            f"The labels file {settings.labels!r} has {len(labels)} labels, but torchvision's {architecture} {weights} "
            f"has {len(categories)} classes."
        )
    spec = settings.preprocessing or _spec_of(chosen.transforms())
    return ModelSource(_pretrained(architecture, chosen), architecture, ONLY_VERSION, labels, spec)


def _pretrained(architecture: str, weights: Any) -> torch.nn.Module:
    """Downloaded unless it is in torch's cache, and built by torchvision, which builds some architectures differently
    around its own weights: it rescales the input of GoogLeNet and Inception, and renames the layers of DenseNet.
    """
    try:
        with _socket_timeout(DOWNLOAD_TIMEOUT_S), _plain_checkpoints_only():
            module: torch.nn.Module = torchvision.models.get_model(architecture, weights=weights)
    except (OSError, RuntimeError, UnpicklingError, EOFError) as err:  # RuntimeError: the hash of the file is wrong.
        raise ConfigError(
            f"The weights cannot be downloaded from {weights.url}, nor read from torch's cache "
            f"({_first_sentence(err)}); fetch that file elsewhere and put it into {torch.hub.get_dir()}/checkpoints, "
            f"or set weights to its path and labels to a file with the class names."
        ) from err
    return module.eval()


@contextmanager
def _socket_timeout(timeout_s: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout_s)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _plain_checkpoints_only() -> Iterator[None]:
    """torchvision's builders call torch.load with `weights_only=False`, which this switch of torch's overrules."""
    switch = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[switch]
        else:
            os.environ[switch] = before


def _spec_of(transforms: Any) -> PreprocessingSpec:
    """The spec of torchvision's `ImageClassification` preset."""
    return PreprocessingSpec(
        resize_size=transforms.resize_size[0],
        crop_size=transforms.crop_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _not_plain(path: Path) -> ConfigError:
    return ConfigError(f"The weights file {str(path)!r} is not a plain checkpoint; save the model's state_dict().")


def _build(architecture: str, classes: int, state: State, origin: str) -> torch.nn.Module:
    _require_classifier(architecture)
    module: torch.nn.Module = torchvision.models.get_model(architecture, weights=None, num_classes=classes)
    expected = module.state_dict()
    for key, tensor in state.items():
        if key in expected and not isinstance(tensor, torch.Tensor):
            raise ConfigError(f"{origin} is not a checkpoint of {architecture}: its {key} is no tensor.")
        if key in expected and expected[key].shape != tensor.shape:
            raise ConfigError(
                f"{origin} does not fit {architecture} with {classes} labels: {key} has shape {tuple(tensor.shape)} "
                f"where {tuple(expected[key].shape)} is needed."
            )
    if not hasattr(state, "_metadata"):
        # The versions of a module's layout, which safetensors files do not have and MNASNet does not do without.
        state = OrderedDict(state)
        state._metadata = expected._metadata  # type: ignore[attr-defined]
    missing, unexpected = module.load_state_dict(state, strict=False)
    if missing or unexpected:
        odd = f"it lacks {missing[0]}" if missing else f"it has an unknown {unexpected[0]}"
        raise ConfigError(f"{origin} is not a checkpoint of {architecture}: {odd}.")
    return module.eval()


def _require_classifier(architecture: str) -> None:
    # Builders of torchvision's other tasks would download a backbone, whatever weights they are given.
    if architecture.lower() not in torchvision.models.list_models(module=torchvision.models):
        raise ConfigError(f"torchvision has no architecture {architecture!r} for classifying images.")


def _first_sentence(err: Exception) -> str:
    return re.split(r"\n|\. ", str(err).strip())[0].rstrip(".:") or type(err).__name__
