"""How far two answers to one image are from each other, by label.

Versions may have different labels, or the same in another order: each label's probabilities are compared, and one that
only one of the two knows has the probability 0 with the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from deployments.messages import Answer, Logits


@dataclass(frozen=True, slots=True)
class Difference:
    """Of two answers to one image: the first label of each, and the greatest difference of any label's probability."""

    stable_label: str
    candidate_label: str
    greatest: float

    @property
    def agrees(self) -> bool:
        return self.stable_label == self.candidate_label


def difference_of(stable: Answer, candidate: Answer) -> Difference:
    alignment = _aligned(stable.info.labels, candidate.info.labels)
    differences = alignment.of_stable(stable.probabilities) - alignment.of_candidate(candidate.probabilities)
    return Difference(
        stable.info.labels[int(stable.probabilities.argmax())],
        candidate.info.labels[int(candidate.probabilities.argmax())],
        min(1.0, float(np.abs(differences).max())),
    )


def unshared_labels(stable: tuple[str, ...], candidate: tuple[str, ...]) -> int:
    """How many labels only one of the two versions knows."""
    return _aligned(stable, candidate).unshared


@dataclass(frozen=True, slots=True)
class _Alignment:
    """Where each label of either version is among the labels of both; None: they have the same in the same order."""

    labels: int
    stable: NDArray[np.intp] | None
    candidate: NDArray[np.intp] | None
    unshared: int

    def of_stable(self, probabilities: Logits) -> Logits:
        return self._spread(probabilities, self.stable)

    def of_candidate(self, probabilities: Logits) -> Logits:
        return self._spread(probabilities, self.candidate)

    def _spread(self, probabilities: Logits, places: NDArray[np.intp] | None) -> Logits:
        if places is None:
            return probabilities
        # Adds up where a label is there twice, as "crane" and "maillot" are in ImageNet's.
        return np.bincount(places, probabilities, self.labels).astype(np.float32)


# More pairs than are ever compared at once; equal tuples compare in microseconds, identical ones at once.
@lru_cache(16)
def _aligned(stable: tuple[str, ...], candidate: tuple[str, ...]) -> _Alignment:
    if stable == candidate:
        return _Alignment(len(stable), None, None, 0)
    places: Mapping[str, int] = {label: place for place, label in enumerate(dict.fromkeys((*stable, *candidate)))}
    return _Alignment(
        len(places),
        np.array([places[label] for label in stable], np.intp),
        np.array([places[label] for label in candidate], np.intp),
        len(set(stable) ^ set(candidate)),
    )
