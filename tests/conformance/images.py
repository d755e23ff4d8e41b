"""The photograph as the tensors of the protocols, and answers as probabilities by label."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

from tests.another_hand import LABELS
from tests.local_graph import ROOT

HEART: Path = ROOT / "examples/pictures/heart.jpg"
# Of models/shapes, as its metadata announces them.
SIDE = 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TO_TENSOR = Compose([Resize(SIDE), CenterCrop(SIDE), ToTensor(), Normalize(MEAN, STD)])


def encoded(*images: bytes) -> NDArray[np.object_]:
    """(N,) of bytes."""
    return np.array(images, np.object_)


def pixels(image: bytes) -> NDArray[np.uint8]:
    """uint8 (1, H, W, 3)"""
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))[None]


def prepared(*images: bytes) -> NDArray[np.float32]:
    """float32 (N, 3, SIDE, SIDE): what a client makes that preprocesses by torchvision itself."""
    tensors = [TO_TENSOR(Image.open(io.BytesIO(image)).convert("RGB")).numpy() for image in images]
    return np.stack(tensors)


def probabilities(answer: dict[str, Any]) -> dict[str, float]:
    """Of a body of POST /predict."""
    return {each["label"]: each["probability"] for each in answer["predictions"]}


def of_row(row: NDArray[np.float32]) -> dict[str, float]:
    """Of (classes,) values in the order of the labels."""
    return dict(zip(LABELS, map(float, row), strict=True))


def of_classes(elements: NDArray[np.object_]) -> dict[str, float]:
    """Of the "value:index:label" of Triton's classification extension."""
    parts = [element.decode().split(":") for element in elements]
    return {label: float(value) for value, _, label in parts}
