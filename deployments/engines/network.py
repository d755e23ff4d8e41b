"""The network: as the reference computes it, and as the torch engines run it.

Whatever an engine derives from the reference is a copy; the reference itself is what every engine is compared with.
"""

import copy
import logging
from collections.abc import Mapping
from typing import Final

import torch
from torch.fx.experimental.optimization import fuse

from deployments.engines.exported_program import ExportedModule
from deployments.settings import Precision, PreprocessingSpec

logger = logging.getLogger("ray.serve")

DTYPES: Final[Mapping[Precision, torch.dtype]] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class Normalized(torch.nn.Module):
    """The reference: torchvision's ToTensor and Normalize, in their arithmetic, in front of the model.

    uint8 (N, H, W, 3) to logits (N, classes).
    """

    def __init__(self, module: torch.nn.Module, spec: PreprocessingSpec) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("mean", torch.tensor(spec.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(spec.std)[:, None, None], persistent=False)
        self.mean: torch.Tensor
        self.std: torch.Tensor

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        # A permuted NHWC batch is channels_last already: no copy.
        scaled = pixels.permute(0, 3, 1, 2).float() / 255  # (N, 3, H, W) float32
        logits: torch.Tensor = self.module((scaled - self.mean) / self.std)
        return logits


class Folded(torch.nn.Module):
    """What the torch engines run: batch norm folded into convolutions, normalisation in one pass, channels last.

    uint8 (N, H, W, 3) to float32 logits (N, classes), whatever `precision` the layers in between compute in. Made of
    copies: `reference` stays as it is.
    """

    def __init__(self, reference: Normalized, precision: Precision) -> None:
        super().__init__()
        self._dtype = DTYPES[precision]
        folded = fold_batch_norm(reference.module).to(dtype=self._dtype)
        # Exported programs have views of tensors in them that need not fit another layout.
        if not isinstance(reference.module, ExportedModule):
            folded = folded.to(memory_format=torch.channels_last)
        self.module = folded
        self.register_buffer("scale", 1 / (255 * reference.std))
        self.register_buffer("shift", -reference.mean / reference.std)
        self.scale: torch.Tensor
        self.shift: torch.Tensor

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        # Pixels are normalised in float32: bf16 has too few bits for 256 levels of them.
        normalized = torch.addcmul(self.shift, pixels.permute(0, 3, 1, 2).float(), self.scale)  # (N, 3, H, W)
        logits: torch.Tensor = self.module(normalized.to(self._dtype))
        return logits.float()


def fold_batch_norm(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of `module`, in evaluation mode, without the batch norm layers that directly follow a convolution."""
    if any(isinstance(layer, torch.nn.BatchNorm2d) for layer in module.modules()):
        try:
            return fuse(module).eval()
        except Exception as err:  # torch.fx follows no branch that depends on the data, and says so in many ways.
            logger.info("Batch norm is not folded into the convolutions, since torch.fx cannot trace them: %s", err)
    return copy.deepcopy(module)
