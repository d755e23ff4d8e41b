"""The gate of a candidate: each step with its figures, none on thin evidence, and back once the evidence is clear."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from deployments.comparison import Comparison
from deployments.promotion import LEAST_EVENTS, Decision, decide, figures_of
from deployments.settings.promotion import Promotion, Stage


def promotion(stage: Stage, **bounds: float) -> Promotion:
    return Promotion.model_validate({"candidate": 2, "min_requests": 200, "stage": stage, "bounds": bounds})


def counted(
    images: int = 0,
    agreeing: float = 1.0,
    difference: float = 0.01,
    stable_s: float = 0.01,
    candidate_s: float = 0.01,
    errors: int = 0,
    served: int = 0,
    served_errors: int = 0,
) -> Comparison:
    """Figures of mirrored images, and of images served: nine by the stable version for each of the candidate."""
    comparison = Comparison(errors=errors, agreements=round(images * agreeing))
    for _ in range(images):
        comparison.differences.add(difference)
        comparison.stable_engine.add(stable_s)
        comparison.candidate_engine.add(candidate_s)
    comparison.candidate_served.errors = served_errors
    for _ in range(served):
        comparison.candidate_served.latency.add(candidate_s)
    for _ in range(9 * served):
        comparison.stable_served.latency.add(stable_s)
    return comparison


def decided(stage: Stage, total: Comparison, recent: Comparison | None = None, **bounds: float) -> Decision:
    return decide(promotion(stage, **bounds), total, total if recent is None else recent)


def test_a_shadow_within_its_bounds_becomes_canary_and_says_by_which_figures() -> None:
    decision = decided("shadow", counted(images=200, agreeing=0.99))
    assert decision.stage == "canary"
    assert decision.reason == (
        "In bounds after 200 images compared: top-1 agreement 0.99 (at least 0.98), mean difference 0.01 (at most "
        "0.05), greatest difference 0.01 (at most 1), error rate 0 (at most 0.01), median time on the engine over "
        "the stable one's 1 (at most 1.5)."
    )


def test_a_canary_within_its_bounds_becomes_stable_and_says_by_which_figures() -> None:
    decision = decided("canary", counted(images=50, served=200, candidate_s=0.011))
    assert decision.stage == "stable"
    assert decision.reason.startswith("In bounds after 200 images answered: top-1 agreement 1 (at least 0.98), ")
    assert "p99 of latency over the stable one's 1." in decision.reason


@pytest.mark.parametrize(
    ("stage", "total", "reason"),
    [
        ("shadow", counted(images=199), "199 of 200 images compared so far."),
        ("shadow", counted(), "0 of 200 images compared so far."),
        ("canary", counted(images=500, served=199), "199 of 200 images answered so far."),
        ("canary", counted(), "0 of 200 images answered so far."),
    ],
    ids=["shadow", "fresh shadow", "canary", "fresh canary"],
)
def test_thin_evidence_takes_a_candidate_nowhere(stage: Stage, total: Comparison, reason: str) -> None:
    assert decided(stage, total) == Decision(stage, reason)


OUT_OF_BOUNDS: dict[str, tuple[dict[str, Any], str]] = {
    "disagreement": ({"agreeing": 0.9}, "top-1 agreement 0.9 (at least 0.98)"),
    "mean difference": ({"difference": 0.2}, "mean difference 0.2 (at most 0.05)"),
    "errors": ({"errors": 100}, "error rate 0.3333 (at most 0.01)"),
    "latency": ({"candidate_s": 0.02}, "median time on the engine over the stable one's 2.058 (at most 1.5)"),
}


@pytest.mark.parametrize(("figures", "reason"), OUT_OF_BOUNDS.values(), ids=OUT_OF_BOUNDS)
def test_a_shadow_out_of_its_bounds_stays_and_says_which(figures: dict[str, Any], reason: str) -> None:
    decision = decided("shadow", counted(images=200, **figures))
    images = 200 + figures.get("errors", 0)
    assert decision == Decision("shadow", f"Out of bounds after {images} images compared: {reason}.")


def test_a_shadow_that_fails_on_every_image_comes_to_its_verdict() -> None:
    assert decided("shadow", counted(errors=200)).reason.startswith(
        "Out of bounds after 200 images compared: error rate 1"
    )


def test_a_shadow_is_not_held_back_by_mirrors_that_had_to_give_way() -> None:
    total = counted(images=200)
    for _ in range(20):
        total.candidate_engine.add(5.0)
    assert decided("shadow", total).stage == "canary"


def test_a_greatest_difference_that_is_bounded_holds_a_shadow_back() -> None:
    total = counted(images=200)
    total.differences.add(0.6)
    assert decided("shadow", total).stage == "canary"
    held = decided("shadow", total, max_difference=0.5)
    assert (held.stage, "greatest difference 0.6 (at most 0.5)" in held.reason) == ("shadow", True)


ROLLED_BACK: dict[str, tuple[Comparison, str]] = {
    "errors": (counted(served=20, served_errors=8), "8 of 28 images failed, error rate 0.2857 (at most 0.01)"),
    "nothing but errors": (counted(served_errors=5), "5 of 5 images failed, error rate 1 (at most 0.01)"),
    "disagreement": (counted(images=40, agreeing=0.5), "20 of 40 images compared disagree, top-1 agreement 0.5"),
    "mean difference": (counted(images=40, difference=0.3), "mean difference 0.3 (at most 0.05)"),
    "latency": (counted(served=20, candidate_s=0.05), "20 of 20 images took longer than "),
}


@pytest.mark.parametrize(("total", "reason"), ROLLED_BACK.values(), ids=ROLLED_BACK)
def test_a_canary_is_rolled_back_before_its_number_of_requests_once_the_evidence_is_clear(
    total: Comparison, reason: str
) -> None:
    decision = decided("canary", total)
    assert decision.stage == "rolled_back"
    assert f"images answered: {reason}" in decision.reason


THIN: dict[str, Comparison] = {
    "four errors": counted(served_errors=LEAST_EVENTS - 1),
    "five errors of many": counted(served=190, served_errors=5),
    "four that disagree": counted(images=4, agreeing=0.0),
    "some that disagree": counted(images=100, agreeing=0.94),
    "some that differ": counted(images=20, difference=0.9),
    "four slow ones": counted(served=LEAST_EVENTS - 1, candidate_s=1.0),
    "slow ones, with nothing to compare them with": counted(served=11, candidate_s=1.0),
    "slower, but not by the bound": counted(served=190, candidate_s=0.013),
}


@pytest.mark.parametrize("total", THIN.values(), ids=THIN)
def test_a_canary_is_not_rolled_back_on_thin_evidence(total: Comparison) -> None:
    decision = decided("canary", total)
    assert decision.stage == "canary", decision.reason


def test_a_canary_that_turns_bad_late_is_rolled_back_by_what_came_lately() -> None:
    total, recent = counted(served=5000, served_errors=20), counted(served=20, served_errors=20)
    decision = decided("canary", total, recent)
    assert decision.stage == "rolled_back"
    assert "20 of 40 images failed lately" in decision.reason
    assert decided("canary", total, counted()).stage == "stable"


def test_a_canary_is_as_slow_as_the_load_makes_both() -> None:
    quiet, busy = counted(served=500), counted(served=50, stable_s=0.1, candidate_s=0.1)
    assert decided("canary", quiet, busy).stage == "stable"


def test_what_was_rolled_back_stays_out_whatever_its_figures() -> None:
    out = promotion("rolled_back").model_copy(update={"reason": "Out of bounds."})
    fine = counted(images=1000, served=1000)
    assert decide(out, fine, fine) == Decision("rolled_back", "Out of bounds.")


def test_what_is_stable_stays_so() -> None:
    assert decided("stable", counted(served=100, served_errors=100)).stage == "stable"


def test_a_stage_too_short_for_a_p99_goes_nowhere() -> None:
    short = promotion("canary").model_copy(update={"min_requests": 50})
    few = counted(images=60, served=60)
    reason = "Too few images of either version to compare latency, after 60 answered."
    assert decide(short, few, few) == Decision("canary", reason)


def test_every_bound_is_among_the_figures() -> None:
    bounds = promotion("canary").bounds
    total = counted(images=200, served=200)
    for stage in ("shadow", "canary"):
        assert len(figures_of(stage, total, bounds)) == len(bounds.model_fields_set | set(type(bounds).model_fields))


@pytest.mark.parametrize("draw", [lambda r: r.lognormvariate(-4, 0.4), lambda r: 0.01 + r.expovariate(200)])
def test_equal_versions_are_rolled_back_by_chance_next_to_never(draw: Callable[[random.Random], float]) -> None:
    dice, bad = random.Random(11), 0
    for _ in range(30):
        total = Comparison()
        for _ in range(60):
            total.candidate_served.latency.add(draw(dice))
        for _ in range(540):
            total.stable_served.latency.add(draw(dice))
        total.agreements = sum(dice.random() < 0.98 for _ in range(100))
        for _ in range(100):
            total.differences.add(dice.random() / 10)
        bad += decided("canary", total, max_p99_ratio=1.0).stage == "rolled_back"
    assert bad == 0
