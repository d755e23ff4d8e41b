"""The numeric guard: nothing runs below the tolerance that its operator stated, and nothing numeric is silent."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deployments.settings import Precision, Tolerance

# Float32 summed in another order: ResNet-18 on OpenVINO stays within 4e-6 of eager torch; 250 times as much is more
# than rounding.
FP32_TOLERANCE: Final = Tolerance(top1_agreement=0.995, max_probability_difference=1e-3)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One engine against eager float32 on the same pixels."""

    images: int
    top1_agreement: float  # share of the images whose most probable class is the same
    max_probability_difference: float  # over all images and classes
    min_cosine: float  # of the logits of one image, the least over all images
    refusal: str | None  # what is outside the tolerance, or None

    def __str__(self) -> str:
        return (
            f"top-1 agreement {self.top1_agreement:.2%}, largest probability difference "
            f"{self.max_probability_difference:.3g}, smallest cosine {self.min_cosine:.6f} on {self.images} images"
        )


def judge(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], precision: Precision, tolerance: Tolerance
) -> Verdict:
    """Compares logits (N, classes) of an engine with those of the reference, which are finite, N > 0."""
    return compare(reference, candidate, _bounds(precision, tolerance))


def compare(reference: NDArray[np.float32], candidate: NDArray[np.float32], bounds: Tolerance) -> Verdict:
    """As `judge`, with the bounds that hold."""
    if candidate.shape != reference.shape:
        return _incomparable(reference, f"its logits have the shape {candidate.shape} instead of {reference.shape}")
    if not np.isfinite(candidate).all():
        return _incomparable(reference, "its logits are not finite")
    agreement = float(np.mean(reference.argmax(axis=1) == candidate.argmax(axis=1)))
    difference = float(np.abs(_softmax(reference) - _softmax(candidate)).max())
    cosine = float(_cosines(reference, candidate).min())
    refusal = _refusal(agreement, difference, bounds)
    return Verdict(len(reference), agreement, difference, cosine, refusal)


def _incomparable(reference: NDArray[np.float32], refusal: str) -> Verdict:
    return Verdict(len(reference), 0.0, 1.0, -1.0, refusal)


def _bounds(precision: Precision, stated: Tolerance) -> Tolerance:
    """What is stated is for lower precisions; float32 has to be within rounding, or closer where that is stated."""
    if precision != "fp32":
        return stated
    return Tolerance(
        top1_agreement=max(stated.top1_agreement, FP32_TOLERANCE.top1_agreement),
        max_probability_difference=min(stated.max_probability_difference, FP32_TOLERANCE.max_probability_difference),
    )


def _refusal(agreement: float, difference: float, bounds: Tolerance) -> str | None:
    if agreement < bounds.top1_agreement:
        return f"top-1 agreement {agreement:.2%} is below {bounds.top1_agreement:.2%}"
    if difference > bounds.max_probability_difference:
        return f"a probability differs by {difference:.3g}, more than {bounds.max_probability_difference:g}"
    return None


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def _cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # Logits that are all zero point nowhere: the same as each other, and unlike anything else.
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    cosines: NDArray[np.float64] = np.where(both_zero, 1.0, (a * b).sum(axis=1) / np.maximum(norms, 1e-300))
    return cosines
