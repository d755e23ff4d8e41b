"""The torch engine: eager, channels last, normalisation on the device."""

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.engines.sources import ModelSource, load_source
from deployments.errors import ConfigError
from deployments.messages import ModelInfo
from deployments.settings import ModelSettings, PreprocessingSpec

logger = logging.getLogger("ray.serve")


class TorchEngine:
    def __init__(self, settings: ModelSettings) -> None:
        """Raises ConfigError if the model cannot be loaded or the device is not there."""
        self._device = _choose_device(settings)
        if self._device.type == "cpu":
            torch.set_num_threads(settings.threads)
        source = load_source(settings)
        self._info = _describe(settings, source, self._device)
        network = _Normalized(source.module, source.preprocessing).eval()
        self._network = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def info(self) -> ModelInfo:
        return self._info

    def warm_up(self, max_batch_size: int) -> None:
        side = self._info.preprocessing.crop_size
        for batch_size in range(1, max_batch_size + 1):
            logits = self.infer(np.zeros((batch_size, side, side, 3), dtype=np.uint8))
            if logits.shape != (batch_size, len(self._info.labels)):
                raise ConfigError(
                    f"Model {self._info.name!r} has {len(self._info.labels)} labels, but {self._info.architecture} "
                    f"answers a batch of {batch_size} with the shape {logits.shape}."
                )

    @torch.inference_mode()
    def infer(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = torch.from_numpy(pixels).to(self._device)  # (N, H, W, 3) uint8
        logits: NDArray[np.float32] = self._network(batch).float().cpu().numpy()  # (N, classes)
        return logits


class _Normalized(torch.nn.Module):
    """uint8 (N, H, W, 3) in; the arithmetic of torchvision's ToTensor and Normalize in front of the model."""

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


def _choose_device(settings: ModelSettings) -> torch.device:
    if settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available()):
        if settings.device == "auto":
            logger.info("Model %s runs on the CPU: no CUDA device is visible to its replica.", settings.name)
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"Model {settings.name!r} has device 'cuda', but no CUDA device is visible to its replica; set num_gpus in "
            f"its ray_actor_options, or device to 'auto' or 'cpu'."
        )
    return torch.device("cuda")


def _describe(settings: ModelSettings, source: ModelSource, device: torch.device) -> ModelInfo:
    return ModelInfo(
        name=settings.name,
        version=source.version,
        labels=source.labels,
        preprocessing=source.preprocessing,
        architecture=source.architecture,
        engine="torch",
        device=device.type,
    )
