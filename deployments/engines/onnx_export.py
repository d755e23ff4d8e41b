"""The network as ONNX, for the engines that read it: exported once for a model, a precision and a version of torch.

Imports torch: to be imported only while something is built.
"""

import copy
import warnings
from collections.abc import Mapping
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from typing import Final, cast

import torch

from deployments.engines.artefacts import Artefacts
from deployments.engines.foreign import binding_of
from deployments.engines.network import Normalized
from deployments.errors import ConfigError
from deployments.repository import ModelVersion
from deployments.settings import Precision

IMAGES: Final = "images"  # uint8 (batch, H, W, 3), of any batch size
LOGITS: Final = "logits"  # float32 (batch, classes)
FILE: Final = "model.onnx"  # its weights are beside it, in a file of their own
NEEDED: Final = ("onnx", "onnxscript")
TYPES: Final[Mapping[Precision, torch.dtype]] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# The first version in which convolutions take bfloat16 (ONNX changelog, Conv-22).
OPSET: Final = 22
# What torch.export sees; a batch of 1 would be taken for a constant (torch.export, "0/1 specialization").
EXAMPLE_BATCH: Final = 2


class _AtPrecision(torch.nn.Module):
    """uint8 (N, H, W, 3) to float32 logits, normalised in float32; the model itself computes in `dtype`."""

    def __init__(self, network: Normalized, dtype: torch.dtype) -> None:
        super().__init__()
        self.mean, self.std, self.dtype = network.mean, network.std, dtype
        self.model = copy.deepcopy(network.module).to(dtype)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        # Converted before anything else, since that is all that TensorRT does to uint8.
        scaled = pixels.float().permute(0, 3, 1, 2) / 255
        # Behind images that are channels last, torch restrides averages, and ONNX has only a detour for that.
        scaled = scaled.contiguous()
        logits: torch.Tensor = self.model(((scaled - self.mean) / self.std).to(self.dtype))
        return logits.float()


def onnx_path(artefacts: Artefacts, precision: Precision = "fp32") -> Path:
    """The ONNX file of the network, which computes in `precision` from behind the normalisation to the logits.

    For the precisions in TYPES; of a model that is an ONNX file already, which computes as it does, for fp32 alone.
    Raises ConfigError if the file is yet to be made and what it needs is not installed.
    """
    if artefacts.found is not None and artefacts.format == "onnx":
        return _with_pixels_in_front(artefacts, artefacts.found)
    name = f"onnx-{precision}-torch-{version_of('torch')}"
    return artefacts.directory(name, lambda directory: _export(artefacts, precision, directory / FILE)) / FILE


def _with_pixels_in_front(artefacts: Artefacts, found: ModelVersion) -> Path:
    def write(directory: Path) -> None:
        check_installed(artefacts)
        from deployments.engines.onnx_graph import write_with_pixels_in_front

        spec = artefacts.facts.preprocessing
        write_with_pixels_in_front(found.weights_path, binding_of(found), spec, directory)

    return artefacts.directory("onnx-as-it-came", write) / FILE


def check_installed(artefacts: Artefacts) -> None:
    """Raises ConfigError unless there is what makes ONNX files; to run them, it is not needed."""
    if missing := [package for package in NEEDED if find_spec(package) is None]:
        raise ConfigError(
            f"Model {artefacts.settings.name!r} has to be exported to ONNX, for which {' and '.join(missing)} must be "
            f"installed; install the extra 'onnxruntime' or 'tensorrt' of this project."
        )


def _export(artefacts: Artefacts, precision: Precision, path: Path) -> None:
    check_installed(artefacts)
    import onnx

    network = _AtPrecision(cast(Normalized, artefacts.network), TYPES[precision])
    side = artefacts.facts.preprocessing.crop_size
    example = torch.zeros(EXAMPLE_BATCH, side, side, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter warns of its own use of what torch has deprecated.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            path,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            input_names=[IMAGES],
            output_names=[LOGITS],
            verbose=False,
        )
    # By its path, so that the weights beside it are seen too.
    onnx.checker.check_model(path, full_check=True)
