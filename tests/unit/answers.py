"""Answers of versions that never ran."""

import numpy as np

from deployments.messages import Answer, ModelInfo, Stages
from deployments.settings import PreprocessingSpec

LABELS = ("cat", "dog", "fish")


def info_of(
    version: int, labels: tuple[str, ...] = LABELS, preprocessing: PreprocessingSpec | None = None
) -> ModelInfo:
    spec = PreprocessingSpec(resize_size=4, crop_size=4) if preprocessing is None else preprocessing
    return ModelInfo("pets", version, labels, spec, "resnet18", "dummy", "fp32", "cpu")


def answer_of(info: ModelInfo, *probabilities: float, seconds: float = 0.01) -> Answer:
    """`seconds`: on the engine, with nothing before."""
    values = np.array(probabilities, np.float32)
    return Answer(info, np.log(values + 1e-9), values, Stages(0.0, 0.0, seconds))
