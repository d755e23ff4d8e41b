"""The seam between the graph and a model library."""

import threading
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from deployments.errors import ConfigError
from deployments.messages import ModelInfo, Pixels

Images = Sequence[Pixels] | NDArray[np.uint8]  # N of (H, W, 3), or (N, H, W, 3)


# Engines that run any size prepare most of their work at the first few; to run all up to 1024 would take minutes.
MAX_WARM_SIZES: Final = 16


class Engine(Protocol):
    """A loaded model. Built on one thread and called from `runners()` threads, which may not be that one."""

    def info(self) -> ModelInfo:
        """What the model is, what runs it and at which precision."""
        ...

    def batch_sizes(self) -> Sequence[int]:
        """The sizes that really run, ascending up to `max_batch_size`.

        `infer` takes any count up to the last: it pads to the next size, or runs in parts, whichever costs it less.
        """
        ...

    def runners(self) -> int:
        """How many threads may be inside `infer` at once."""
        ...

    def infer(self, images: Images) -> NDArray[np.float32]:
        """Logits, float32 (N, classes), of up to `max_batch_size` uint8 RGB images. Normalisation happens inside."""
        ...


def warm_up(engine: Engine) -> None:
    """Runs batch sizes twice, so that no request pays for a first time: all of them, or MAX_WARM_SIZES evenly picked.

    Raises ConfigError if the outputs do not match the labels.
    """
    info = engine.info()
    side = info.preprocessing.crop_size
    sizes = engine.batch_sizes()
    step = max(1, len(sizes) // MAX_WARM_SIZES)
    for batch_size in reversed(sizes[::-1][::step]):
        # Libraries that specialise code to a shape do so when they see it again.
        for _ in range(2):
            logits = engine.infer(np.zeros((batch_size, side, side, 3), dtype=np.uint8))
        if logits.shape != (batch_size, len(info.labels)):
            raise ConfigError(
                f"Model {info.name!r} has {len(info.labels)} labels, but {info.architecture} answers a batch of "
                f"{batch_size} with the shape {logits.shape}."
            )


def power_of_two_sizes(max_batch_size: int) -> tuple[int, ...]:
    """1, 2, 4, ... and `max_batch_size`: batch sizes for engines that prepare each one; padding at most doubles."""
    powers = [1 << exponent for exponent in range(max_batch_size.bit_length()) if 1 << exponent < max_batch_size]
    return (*powers, max_batch_size)


def next_size(count: int, sizes: Sequence[int]) -> int:
    """The smallest of the ascending `sizes` that holds `count` images."""
    return next(size for size in sizes if size >= count)


class _Padding(threading.local):
    images = 0


_padding = _Padding()


def note_padding(images: int) -> None:
    """An engine has computed so many images beside those that it was given; in the thread that it runs in."""
    _padding.images += images


def taken_padding() -> int:
    """What was noted in this thread since the last time."""
    images, _padding.images = _padding.images, 0
    return images


def stack(images: Images, size: int) -> NDArray[np.uint8]:
    """uint8 (size, H, W, 3), contiguous; what is left after the images is black."""
    if isinstance(images, np.ndarray) and len(images) == size:
        return np.ascontiguousarray(images)
    batch = np.zeros((size, *images[0].shape), dtype=np.uint8)
    np.stack(list(images), out=batch[: len(images)])
    return batch
