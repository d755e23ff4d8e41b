"""Pictures whose answers are known and unlike each other, so that an answer to the wrong question shows."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Far above what batches of another size change in the last bits, and as far below what pictures differ by.
TOLERANCE = 1e-3
APART = 0.02
COUNT = 24
# Encoded without compression: bodies below and above HAProxy's default buffer of 16 KB.
SIDES = (48, 200)


@dataclass(frozen=True)
class Question:
    picture: bytes
    # Probability by label.
    answer: Mapping[str, float]

    def is_answered_by(self, answer: Mapping[str, float], version: int) -> bool:
        """`version`: of the model, which says that it has answered. Here all are the same."""
        return distance(self.answer, answer) <= TOLERANCE


def candidates(count: int, formats: Sequence[str] = ("BMP",)) -> list[bytes]:
    """Smooth colours that nobody drew: models are undecided about them, each time in another way."""
    return [_candidate(seed, formats[seed // len(SIDES) % len(formats)]) for seed in range(count)]


def apart(questions: Sequence[Question], count: int = COUNT) -> list[Question]:
    """The first `count` questions whose answers differ from each other by APART. Raises ValueError without so many."""
    chosen: list[Question] = []
    for question in questions:
        if all(distance(question.answer, other.answer) >= APART for other in chosen):
            chosen.append(question)
    if len(chosen) < count:
        raise ValueError(f"Only {len(chosen)} pictures have answers that differ by {APART}; {count} are needed.")
    return chosen[:count]


def distance(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """The largest difference of a probability; infinite between answers with other labels."""
    if one.keys() != other.keys():
        return float("inf")
    return max(abs(one[label] - other[label]) for label in one)


def _candidate(seed: int, image_format: str) -> bytes:
    return _encode(_colours(np.random.default_rng(seed), SIDES[seed % len(SIDES)]), image_format)


def _colours(random: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """(side, side, 3)"""
    few = Image.fromarray(random.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    return np.asarray(few.resize((side, side), Image.Resampling.BICUBIC))


def _encode(pixels: NDArray[np.uint8], image_format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format)
    return file.getvalue()
