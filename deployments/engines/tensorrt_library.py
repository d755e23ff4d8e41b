"""What everything that runs on TensorRT needs of it: its version, a GPU and its logger."""

from typing import Final

import tensorrt
import torch

from deployments.engines.registry import Build
from deployments.errors import ConfigError

# Before 11, networks were typed weakly unless asked otherwise, and half precision was only a permission.
MIN_MAJOR_VERSION: Final = 11
LOGGER: Final = tensorrt.Logger(tensorrt.Logger.ERROR)


def check_can_run(build: Build) -> None:
    """Raises ConfigError if TensorRT is too old, or there is no GPU."""
    name, version = build.artefacts.settings.name, tensorrt.__version__
    if int(version.split(".")[0]) < MIN_MAJOR_VERSION:
        raise ConfigError(
            f"Model {name!r} needs TensorRT {MIN_MAJOR_VERSION} or later, not {version}; install the extra 'tensorrt' "
            f"of this project."
        )
    if not torch.cuda.is_available():
        raise ConfigError(f"Model {name!r} cannot run on TensorRT, because torch finds no CUDA device.")
