"""Settings of candidates: how a `user_config` says them, how they divide requests, and a sentence for each mistake."""

from typing import Any

import pytest

from deployments.settings import LiveSettings
from tests.unit.sentences import sentence_of

LABELS = {"stable": 1, "canary": 2}
SHADOW = {"candidate": "canary", "share": 0.2}
PROMOTED: dict[str, Any] = {
    "labels": LABELS,
    "default": "stable",
    "shadow": SHADOW,
    "promotion": {"candidate": "canary"},
}


def live(**changes: Any) -> LiveSettings:
    return LiveSettings.model_validate({**PROMOTED, **changes})


def test_a_model_has_no_candidate_unless_it_says_so() -> None:
    assert (LiveSettings().shadow, LiveSettings().promotion, LiveSettings().shares) == (None, None, {})


def test_a_promotion_begins_in_shadow_and_takes_its_steps_itself() -> None:
    promotion = live().promotion
    assert promotion is not None
    assert (promotion.stage, promotion.canary_share, promotion.min_requests) == ("shadow", 0.1, 1000)
    assert (promotion.automatic.canary, promotion.automatic.stable, promotion.automatic.rollback) == (True, True, True)


def test_a_candidate_may_be_a_number_as_yaml_reads_it() -> None:
    settings = live(shadow={"candidate": 2, "share": 1}, promotion={"candidate": 2}, default=1)
    assert settings.shadow is not None
    assert (settings.shadow.candidate, settings.default) == ("2", "1")


@pytest.mark.parametrize(
    ("stage", "shares"),
    [
        ("shadow", {"stable": 1.0}),
        ("canary", {"stable": 0.75, "canary": 0.25}),
        ("stable", {"canary": 1.0}),
        ("rolled_back", {"stable": 1.0}),
    ],
)
def test_the_stage_divides_the_requests(stage: str, shares: dict[str, float]) -> None:
    assert live(promotion={"candidate": "canary", "stage": stage, "canary_share": 0.25}).shares == shares


def test_without_a_promotion_traffic_or_the_default_divides_them() -> None:
    assert LiveSettings.model_validate({"default": 3}).shares == {"3": 1.0}
    assert LiveSettings.model_validate({"traffic": {1: 9, 2: 1}}).shares == {"1": 9.0, "2": 1.0}


def test_what_was_read_once_can_be_read_again() -> None:
    for stage in ("shadow", "canary", "stable", "rolled_back"):
        settings = live(promotion={"candidate": "canary", "stage": stage, "reason": "Because."})
        assert LiveSettings.model_validate(settings.model_dump()) == settings


MISTAKES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a share of nothing": ({"shadow": {**SHADOW, "share": 0}}, ["'share' of Shadow has the value 0", "greater than 0"]),
    "more than all": ({"shadow": {**SHADOW, "share": 1.5}}, ["'share' of Shadow has the value 1.5"]),
    "a label with a space": ({"shadow": {**SHADOW, "candidate": "a b"}}, ["'candidate' of Shadow", "'a b'"]),
    "a truth": ({"shadow": {**SHADOW, "candidate": True}}, ["'candidate' of Shadow has the value True"]),
    "a negative version": ({"shadow": {**SHADOW, "candidate": -1}}, ["'candidate' of Shadow"]),
    "an unknown label": (
        {"shadow": {**SHADOW, "candidate": "beta"}},
        ["user_config.shadow.candidate is 'beta', which is none of its labels (stable, canary)"],
    ),
    "an unknown label to promote": (
        {"promotion": {"candidate": "beta"}},
        ["user_config.promotion.candidate is 'beta'"],
    ),
    "a promotion without figures": ({"shadow": None}, ["user_config.promotion goes by the figures of"]),
    "figures of another one": (
        {"shadow": {"candidate": 3, "share": 1}},
        ["user_config.promotion goes by the figures of user_config.shadow of the same candidate"],
    ),
    "nothing to replace": ({"default": None}, ["user_config.promotion needs user_config.default"]),
    "traffic of its own": (
        {"default": None, "traffic": {"stable": 1, "canary": 1}},
        ["user_config.promotion needs user_config.default", "no user_config.traffic"],
    ),
    "itself": ({"default": "canary"}, ["'canary'", "are the same version"]),
    "itself by number": ({"default": 2}, ["'2'", "are the same version"]),
    "all to the canary": ({"promotion": {"candidate": "canary", "canary_share": 1}}, ["'canary_share' of Promotion"]),
    "no requests": ({"promotion": {"candidate": "canary", "min_requests": 0}}, ["'min_requests' of Promotion"]),
    "an unknown bound": (
        {"promotion": {"candidate": "canary", "bounds": {"min_aggreement": 1}}},
        ["Bounds has no key 'min_aggreement'", "min_agreement"],
    ),
    "no number": (
        {"promotion": {"candidate": "canary", "bounds": {"max_p99_ratio": float("nan")}}},
        ["'max_p99_ratio' of Bounds"],
    ),
    "an unknown stage": ({"promotion": {"candidate": "canary", "stage": "half"}}, ["'stage' of Promotion", "'half'"]),
}


@pytest.mark.parametrize(("changes", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_answered_with_one_sentence(changes: dict[str, Any], said: list[str]) -> None:
    sentence = sentence_of(lambda: live(**changes))
    assert [part for part in said if part not in sentence] == [], sentence
