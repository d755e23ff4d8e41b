"""The model in the repository: small, complete, and able to name shapes that other drawing code made."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from deployments.engines import create_engine
from deployments.engines.base import Engine
from deployments.engines.golden import GOLDEN, MAX_GOLDEN_IMAGES, pick_images
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


@pytest.fixture(scope="module")
def engine() -> Engine:
    # To measure which is the fastest takes half a minute, and each agrees with this one or is not served.
    return create_engine(ModelSettings(name="shapes", path=str(MODEL_PATH), engine="torch", device="cpu"))


def accuracy(engine: Engine, pictures: Sequence[bytes], labels: Sequence[str]) -> float:
    info, size = engine.info(), engine.batch_sizes()[-1]
    pixels = np.stack([preprocess(picture, info.preprocessing, Limits()) for picture in pictures])
    batches = [engine.infer(pixels[start : start + size]) for start in range(0, len(pixels), size)]
    named = [info.labels[index] for index in np.concatenate(batches).argmax(axis=1)]
    return float(np.mean([name == label for name, label in zip(named, labels, strict=True)]))


def test_shapes_drawn_by_other_code_are_named(engine: Engine) -> None:
    assert set(engine.info().labels) == set(LABELS)
    drawn = [(label, seed) for label in LABELS for seed in range(PICTURES_PER_SHAPE)]
    pictures = [encode(draw(label, seed), "PNG") for label, seed in drawn]
    assert accuracy(engine, pictures, [label for label, _ in drawn]) >= PROMISED_ACCURACY


# Its golden images


def golden_files() -> list[Path]:
    return pick_images(find_version(str(MODEL_PATH)).weights_path.parent / GOLDEN, MAX_GOLDEN_IMAGES)


def test_the_golden_images_are_as_many_as_are_compared_and_as_many_of_each_shape() -> None:
    counts = Counter(path.stem.partition("-")[2] for path in golden_files())
    assert counts.total() == MAX_GOLDEN_IMAGES
    assert set(counts) == set(LABELS)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_what_it_answers_to_all_of_them_is_recorded() -> None:
    found = find_version(str(MODEL_PATH))
    assert found.manifest.golden is not None
    with np.load(found.weights_path.parent / found.manifest.golden.file) as recorded:
        assert recorded["names"].tolist() == [path.name for path in golden_files()]
        assert recorded["logits"].shape == (MAX_GOLDEN_IMAGES, len(LABELS))
    # By the test above and all others that load it, the service reproduces them.
    assert found.manifest.preprocessing_digest == found.manifest.preprocessing.digest


def test_the_golden_images_are_under_one_and_a_half_megabytes() -> None:
    assert sum(path.stat().st_size for path in golden_files()) < 1_500_000


def test_the_golden_images_are_shapes_that_the_model_names(engine: Engine) -> None:
    files = golden_files()
    labels = [path.stem.partition("-")[2] for path in files]
    assert accuracy(engine, [path.read_bytes() for path in files], labels) > 0.95
