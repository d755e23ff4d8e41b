"""The model in the repository: small, complete, and able to name shapes that other drawing code made."""

from pathlib import Path

import numpy as np

from deployments.engines import create_engine
from deployments.imaging import preprocess
from deployments.repository import find_version
from deployments.settings import Limits, ModelSettings
from tests.another_hand import LABELS, draw
from tests.reference import encode

MODEL_PATH = Path(__file__).resolve().parents[2] / "models/shapes"
PICTURES_PER_SHAPE = 40
# What the README promises of plain shapes from another hand.
PROMISED_ACCURACY = 0.9


def test_the_weights_are_under_six_megabytes() -> None:
    assert find_version(str(MODEL_PATH)).weights_path.stat().st_size < 6_000_000


def test_shapes_drawn_by_other_code_are_named() -> None:
    engine = create_engine(ModelSettings(name="shapes", path=str(MODEL_PATH)))
    info = engine.info()
    assert set(info.labels) == set(LABELS)
    hits = []
    for label in LABELS:
        encoded = [encode(draw(label, seed), "PNG") for seed in range(PICTURES_PER_SHAPE)]
        batch = np.stack([preprocess(picture, info.preprocessing, Limits()) for picture in encoded])
        hits += [info.labels[index] == label for index in engine.infer(batch).argmax(axis=1)]
    assert np.mean(hits) >= PROMISED_ACCURACY
