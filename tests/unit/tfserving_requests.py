"""Requests of TensorFlow Serving's REST API, and what their answers must be."""

import dataclasses
import json
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from deployments.messages import ImageInput, Pixels
from deployments.settings import InputName
from tests.unit.bytes_plane import (
    BytesPlane,
    base64_of,
    info,
    logits_of,
    probabilities_of,
    send,
)

PREDICT = "/v1/models/shapes:predict"
CLASSIFY = "/v1/models/shapes:classify"
SIDE = 224


def b64(image: bytes) -> dict[str, str]:
    return {"b64": base64_of(image)}


def post(body: object, path: str = PREDICT, plane: BytesPlane | None = None) -> httpx.Response:
    return send("POST", path, plane, 10_000_000, content=body if isinstance(body, bytes) else json.dumps(body).encode())


def picture(height: int, width: int) -> Pixels:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def normalised(pixels: Pixels) -> NDArray[np.float32]:
    """As torchvision's weights want it, (3, H, W)."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    values: NDArray[np.float32] = ((pixels / 255 - mean) / std).transpose(2, 0, 1).astype(np.float32)
    return values


def assert_outputs(outputs: dict[str, Any], image: ImageInput) -> None:
    assert outputs.keys() == {"PROBABILITIES", "LOGITS"}
    np.testing.assert_array_equal(np.array(outputs["PROBABILITIES"], np.float32), probabilities_of(image))
    np.testing.assert_array_equal(np.array(outputs["LOGITS"], np.float32), logits_of(image))


def with_inputs(*names: InputName) -> BytesPlane:
    return BytesPlane(models={"shapes": dataclasses.replace(info("shapes", 3), inputs=names)})
