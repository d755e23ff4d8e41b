"""An engine without weights, for measuring and testing everything around one.

Its logits follow the mean colour of the image, so that different images get different answers: class 0, 1 or 2 for a
picture that is mostly red, green or blue. With the environment variable APERTURE_DUMMY_SECONDS, "0.02 0.01" for
instance, a batch takes the first and each of its images the second, as on a device that leaves the CPU alone.
"""

import math
import os
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deployments.engines.base import Images
from deployments.errors import ConfigError
from deployments.messages import ModelInfo
from deployments.settings import ModelSettings, PreprocessingSpec, with_fidelity

LABELS = ("red", "green", "blue")
SECONDS = "APERTURE_DUMMY_SECONDS"


class DummyEngine:
    def __init__(self, settings: ModelSettings, version: int | None = None) -> None:
        self._max_batch_size = settings.max_batch_size
        self._batch_s, self._image_s = _seconds(os.environ.get(SECONDS, "0 0"))
        self._info = ModelInfo(
            name=settings.name,
            version=1 if version is None else version,
            labels=LABELS,
            preprocessing=with_fidelity(settings.preprocessing or PreprocessingSpec(), settings),
            architecture="dummy",
            engine="dummy",
            precision="fp32",
            device="cpu",
        )

    def info(self) -> ModelInfo:
        return self._info

    def batch_sizes(self) -> Sequence[int]:
        return range(1, self._max_batch_size + 1)

    def runners(self) -> int:
        return 1

    def infer(self, images: Images) -> NDArray[np.float32]:
        if run_s := self._batch_s + self._image_s * len(images):
            time.sleep(run_s)
        # Every 16th row and column: a fixed, small cost whatever the size of the batch's images.
        return np.stack([image[::16, ::16].mean(axis=(0, 1), dtype=np.float32) / 32 for image in images])


def _seconds(text: str) -> tuple[float, float]:
    try:
        batch_s, image_s = map(float, text.split())
    except ValueError:
        batch_s = image_s = math.nan
    if not (0 <= batch_s < math.inf and 0 <= image_s < math.inf):
        raise ConfigError(
            f"The variable {SECONDS} is {text!r}, but must be two numbers of seconds, such as '0.02 0.01'."
        )
    return batch_s, image_s
