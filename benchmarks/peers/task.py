"""What every peer does to an image, and where it is told what to serve: the environment, as its workers inherit it."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.engines import create_engine
from deployments.engines.base import Engine
from deployments.imaging import preprocess
from deployments.messages import Pixels
from deployments.settings import Limits, ModelSettings, PreprocessingSpec

TOP = 5
LIMITS = Limits()


def port() -> int:
    return int(os.environ["PEER_PORT"])


def workers() -> int:
    """How many processes may run the model."""
    return int(os.environ["PEER_WORKERS"])


def settings() -> ModelSettings:
    return ModelSettings.model_validate_json(os.environ["PEER_MODEL"])


def load_engine() -> Engine:
    return create_engine(settings())


def load_spec() -> PreprocessingSpec:
    """How pixels are made, for a process that does not run the model."""
    return PreprocessingSpec.model_validate_json(os.environ["PEER_PREPROCESSING"])


def decode(image: bytes, spec: PreprocessingSpec) -> Pixels:
    return preprocess(image, spec, LIMITS)


def predictions(logits: NDArray[np.float32], labels: tuple[str, ...]) -> dict[str, Any]:
    """The five most probable classes of one image, highest first."""
    exponentials = np.exp(logits - logits.max())
    probabilities = exponentials / exponentials.sum()
    best = np.argsort(-probabilities, kind="stable")[:TOP]
    return {
        "predictions": [
            {"label": labels[index], "index": int(index), "probability": float(probabilities[index])} for index in best
        ]
    }
