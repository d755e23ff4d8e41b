"""Pictures of one colour, and of a few given pixels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def flat(mode: str, value: Any) -> Image.Image:
    """One colour, in the size of a JPEG block, so that quality 100 keeps it exactly."""
    return Image.new(mode, (16, 16), value)


def rgb(*rows: Sequence[tuple[int, int, int]]) -> NDArray[np.uint8]:
    return np.array(rows, np.uint8)
