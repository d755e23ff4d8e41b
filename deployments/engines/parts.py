"""Graphs of one fixed batch size: whatever comes is run in parts of that size, the last one filled up."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deployments.engines.base import Images, note_padding, stack


def run_in_parts(
    run: Callable[[NDArray[np.uint8]], NDArray[np.float32]], images: Images, size: int
) -> NDArray[np.float32]:
    """Logits (N, classes) of N uint8 images (H, W, 3), out of a `run` that takes (size, H, W, 3)."""
    count = len(images)
    batch = stack(images, count + -count % size)
    note_padding(-count % size)
    # Copies, since a library may answer every time out of the same memory.
    parts = [np.array(run(batch[start : start + size])) for start in range(0, count, size)]
    return np.concatenate(parts)[:count]


def batches_of(pixels: NDArray[np.uint8], size: int, only_size: int | None) -> list[NDArray[np.uint8]]:
    """`pixels` in batches of `size`, or all of `only_size`, without the images that are left over."""
    if only_size is None:
        return [pixels[start : start + size] for start in range(0, len(pixels), size)]
    starts = range(0, len(pixels) - only_size + 1, only_size)
    return [pixels[start : start + only_size] for start in starts]
