"""What examples/finetune.py records of a version, so that the service can tell whether it still answers so."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deployments.engines.artefacts import Artefacts
from deployments.engines.golden import GOLDEN, MAX_GOLDEN_IMAGES, pick_images
from deployments.engines.network import Normalized
from deployments.engines.recorded import Forward, check_trained_with, record
from deployments.errors import ConfigError
from deployments.repository import MANIFEST, VERSION_NAME, ModelVersion, find_version, write_manifest
from deployments.settings import ModelSettings, PreprocessingSpec
from examples.training_data import Split

# Whatever its size, the logits are the same within rounding; larger ones take more memory.
BATCH = 8


def record_version(directory: Path, held_out: Callable[[PreprocessingSpec], Split]) -> None:
    """Records what the version in `directory` answers now; its golden pictures are of `held_out` if it has none.

    Raises ConfigError if it is no version, or not what its model.yaml says.
    """
    directory = directory.resolve()
    found = _version_in(directory)
    manifest, spec = found.manifest, found.manifest.preprocessing
    if not (directory / GOLDEN).is_dir():
        held_out(spec).pictures.write_golden(directory / GOLDEN)
    artefacts = Artefacts(ModelSettings(name="recorded", path=str(directory.parent)), found.version)
    golden = artefacts.golden_of(pick_images(directory / GOLDEN, MAX_GOLDEN_IMAGES))
    write_manifest(
        directory,
        architecture=manifest.architecture,
        weights=manifest.weights,
        labels=manifest.labels,
        preprocessing=spec,
        recorded=record(directory, spec, lambda pixels: golden.logits),
        graph_input=manifest.input,
        graph_output=manifest.output,
    )


def _version_in(directory: Path) -> ModelVersion:
    if not (directory / MANIFEST).is_file() or not VERSION_NAME.fullmatch(directory.name):
        raise ConfigError(f"{directory} has no {MANIFEST} or no integer name; give the directory of a version.")
    found = find_version(str(directory.parent), int(directory.name))
    # Whatever it answers under another spec would become what it ought to answer.
    check_trained_with(f"Version {found.version}", found.manifest.preprocessing_digest, found.manifest.preprocessing)
    return found


def reference(model: nn.Module, spec: PreprocessingSpec) -> Forward:
    """A copy of `model` as the service compares engines with it: eager float32 on the CPU, in evaluation mode."""
    network = Normalized(copy.deepcopy(model).cpu().float(), spec).eval()

    @torch.inference_mode()
    def forward(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = torch.from_numpy(pixels)
        batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        logits: NDArray[np.float32] = torch.cat([network(batch) for batch in batches]).numpy()
        return logits

    return forward
