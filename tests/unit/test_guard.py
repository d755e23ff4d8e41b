"""The numeric guard's figures, worked out by hand, and each of its refusals."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.engines.guard import Verdict, judge
from deployments.settings import Precision, Tolerance

DEFAULT = Tolerance()
Logits = NDArray[np.float32]


def logits(*rows: list[float]) -> Logits:
    return np.array(rows, dtype=np.float32)


def of_probability(*probabilities: float) -> Logits:
    """Logits of two classes, of which the first has the given probability."""
    return logits(*([math.log(p / (1 - p)), 0.0] for p in probabilities))


def verdict_on(candidate: Logits, reference: Logits, precision: Precision = "bf16") -> Verdict:
    return judge(reference, candidate, precision, DEFAULT)


# The figures


def test_equal_logits_pass_with_perfect_figures() -> None:
    same = logits([3, 1, -2], [0, 0.5, 0])
    verdict = verdict_on(same, same)
    assert (verdict.top1_agreement, verdict.max_probability_difference, verdict.refusal) == (1.0, 0.0, None)
    assert verdict.min_cosine == pytest.approx(1.0)
    assert verdict.images == 2


def test_agreement_is_the_share_of_images_with_the_same_most_probable_class() -> None:
    reference = logits([2, 1, 0], [0, 2, 1], [0, 1, 2], [2, 1, 0])
    candidate = logits([2, 1, 0], [0, 1, 2], [0, 1, 2], [2, 1, 0])
    assert verdict_on(candidate, reference).top1_agreement == 0.75


def test_the_probability_difference_is_the_largest_over_images_and_classes() -> None:
    # exp(ln 3) = 3, so 3 of 4 and 1 of 4; exp(ln 4) = 4, so 4 of 5 and 1 of 5.
    reference = of_probability(0.75, 0.75, 0.5)
    candidate = of_probability(0.8, 0.75, 0.51)
    assert verdict_on(candidate, reference).max_probability_difference == pytest.approx(0.05, abs=1e-6)


def test_the_cosine_is_the_smallest_over_the_images() -> None:
    verdict = verdict_on(logits([1, 1], [1, 0], [3, 4]), logits([1, 0], [1, 0], [4, 3]))
    # 45 degrees apart, none, and 24 of 25.
    assert verdict.min_cosine == pytest.approx(math.sqrt(0.5), abs=1e-6)


def test_a_constant_on_all_logits_of_an_image_is_no_difference_of_probabilities() -> None:
    assert verdict_on(logits([7, 5]), logits([2, 0])).max_probability_difference == 0


def test_large_logits_do_not_overflow() -> None:
    verdict = verdict_on(logits([20000, 0]), logits([30000, 0]))
    assert (verdict.max_probability_difference, verdict.refusal) == (0.0, None)


@pytest.mark.parametrize(("candidate", "cosine"), [([0, 0], 1.0), ([1, 0], 0.0)], ids=["to each other", "to another"])
def test_logits_that_are_all_zero_have_a_cosine(candidate: list[float], cosine: float) -> None:
    assert verdict_on(logits(candidate), logits([0, 0])).min_cosine == cosine


def test_a_verdict_reads_as_its_figures() -> None:
    text = str(Verdict(200, 0.99, 0.0312, 0.98765, None))
    for words in ("agreement 99.00%", "difference 0.031", "cosine 0.987650", "200 images"):
        assert words in text


# What is refused


def with_misses(misses: int) -> tuple[Logits, Logits]:
    """200 images of even odds, of which the candidate tips `misses` to the other side by next to nothing."""
    reference = of_probability(*[0.501] * 200)
    candidate = reference.copy()
    candidate[:misses] = of_probability(0.499)
    return candidate, reference


def test_agreement_of_just_the_tolerance_passes() -> None:
    verdict = verdict_on(*with_misses(1))
    assert (verdict.top1_agreement, verdict.refusal) == (0.995, None)


def test_agreement_below_the_tolerance_is_refused_with_both_figures() -> None:
    assert verdict_on(*with_misses(2)).refusal == "top-1 agreement 99.00% is below 99.50%"


def test_a_probability_within_the_tolerance_passes() -> None:
    assert verdict_on(of_probability(0.7195), of_probability(0.7)).refusal is None


def test_a_probability_outside_the_tolerance_is_refused_with_both_figures() -> None:
    assert verdict_on(of_probability(0.7205), of_probability(0.7)).refusal == (
        "a probability differs by 0.0205, more than 0.02"
    )


def test_a_stated_tolerance_is_the_one_that_holds() -> None:
    stated = Tolerance(top1_agreement=0, max_probability_difference=0.3)
    candidate, reference = of_probability(0.4), of_probability(0.6)
    assert judge(reference, candidate, "int8", stated).refusal is None
    assert judge(reference, candidate, "int8", DEFAULT).refusal is not None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_values_that_are_not_finite_are_refused(value: float, precision: Precision) -> None:
    tolerant = Tolerance(top1_agreement=0, max_probability_difference=1)
    verdict = judge(logits([2, 1], [2, 1]), logits([2, 1], [2, value]), precision, tolerant)
    assert verdict.refusal == "its logits are not finite"


@pytest.mark.parametrize("candidate", [logits([1, 2, 3]), logits([1, 2], [1, 2])], ids=["classes", "images"])
def test_logits_of_another_shape_are_refused_with_both_shapes(candidate: Logits) -> None:
    verdict = judge(logits([1, 2]), candidate, "fp32", Tolerance(top1_agreement=0, max_probability_difference=1))
    assert verdict.refusal == f"its logits have the shape {candidate.shape} instead of (1, 2)"


# Float32


def test_fp32_has_to_be_within_rounding_whatever_is_stated_for_lower_precisions() -> None:
    stated = Tolerance(top1_agreement=0, max_probability_difference=1)
    candidate, reference = of_probability(0.702), of_probability(0.7)
    assert judge(reference, candidate, "bf16", stated).refusal is None
    assert judge(reference, candidate, "fp32", stated).refusal == "a probability differs by 0.002, more than 0.001"


def test_fp32_in_another_order_of_summation_passes() -> None:
    random = np.random.default_rng(5)
    features = random.standard_normal((64, 2048), dtype=np.float32)
    weights = random.standard_normal((2048, 100), dtype=np.float32) / np.float32(45)
    assert judge(features @ weights, features[:, ::-1] @ weights[::-1], "fp32", DEFAULT).refusal is None


def test_a_tighter_tolerance_holds_for_fp32_too() -> None:
    stated = Tolerance(max_probability_difference=1e-5)
    assert judge(of_probability(0.7), of_probability(0.7001), "fp32", DEFAULT).refusal is None
    assert judge(of_probability(0.7), of_probability(0.7001), "fp32", stated).refusal is not None
