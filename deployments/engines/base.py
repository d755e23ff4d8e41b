"""The seam between the graph and a model library."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deployments.messages import ModelInfo


class Engine(Protocol):
    """A loaded model. Built on one thread and called from one thread at a time."""

    def info(self) -> ModelInfo:
        """What the model is and where it runs."""
        ...

    def warm_up(self, max_batch_size: int) -> None:
        """Runs every batch size up to `max_batch_size` once, so that no request pays for a first time.

        Raises ConfigError if the model's outputs do not match its labels.
        """
        ...

    def infer(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """pixels: uint8 (N, H, W, 3), RGB. Returns logits, float32 (N, classes). Normalisation happens inside."""
        ...
