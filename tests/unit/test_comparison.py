"""Comparisons: what is counted of two versions, by label, in bounded memory, and added up over replicas."""

import pickle
import random

import pytest

from deployments.comparison import MAX_TRIALS, MAX_VERSIONS, WORST, Comparison, Comparisons, Disagreement, Trial
from deployments.differences import Difference, difference_of, unshared_labels
from tests.unit.answers import answer_of, info_of

TRIAL = Trial("settings", 1, 2, "shadow")
OLD, NEW = info_of(1), info_of(2)


def test_equal_answers_agree_and_do_not_differ() -> None:
    difference = difference_of(answer_of(OLD, 0.7, 0.2, 0.1), answer_of(NEW, 0.7, 0.2, 0.1))
    assert (difference, difference.agrees) == (Difference("cat", "cat", 0.0), True)


def test_the_difference_is_that_of_the_label_that_differs_most() -> None:
    difference = difference_of(answer_of(OLD, 0.7, 0.2, 0.1), answer_of(NEW, 0.3, 0.6, 0.1))
    assert difference.greatest == pytest.approx(0.4)
    assert (difference.stable_label, difference.candidate_label, difference.agrees) == ("cat", "dog", False)


def test_versions_with_their_labels_in_another_order_are_compared_by_label() -> None:
    other = info_of(2, ("fish", "cat", "dog"))
    difference = difference_of(answer_of(OLD, 0.7, 0.2, 0.1), answer_of(other, 0.1, 0.7, 0.2))
    assert difference.greatest == pytest.approx(0.0, abs=1e-6)
    assert difference.agrees
    assert unshared_labels(OLD.labels, other.labels) == 0


def test_a_label_that_one_version_lacks_has_no_probability_there() -> None:
    other = info_of(2, ("cat", "dog", "horse", "cow"))
    difference = difference_of(answer_of(OLD, 0.1, 0.1, 0.8), answer_of(other, 0.1, 0.1, 0.5, 0.3))
    assert (difference.stable_label, difference.candidate_label) == ("fish", "horse")
    assert difference.greatest == pytest.approx(0.8)
    assert unshared_labels(OLD.labels, other.labels) == 3


def test_a_label_that_is_there_twice_is_added_up() -> None:
    twice = info_of(2, ("cat", "dog", "cat"))
    other = info_of(1, ("dog", "cat"))
    assert difference_of(answer_of(other, 0.3, 0.7), answer_of(twice, 0.4, 0.3, 0.3)).greatest == pytest.approx(
        0.0, abs=1e-6
    )


def compared(*pairs: tuple[float, float], seconds: float = 0.01) -> Comparison:
    """For each pair the probabilities of "cat", the rest being "dog", that the two versions give."""
    comparison = Comparison()
    for old, new in pairs:
        comparison.add(
            answer_of(OLD, old, 1 - old, 0, seconds=seconds), answer_of(NEW, new, 1 - new, 0, seconds=2 * seconds)
        )
    return comparison


def test_agreement_and_differences_are_of_the_images_compared() -> None:
    comparison = compared((0.9, 0.8), (0.9, 0.6), (0.9, 0.4), (0.2, 0.2))
    assert (comparison.count, comparison.agreements, comparison.agreement) == (4, 3, 0.75)
    assert comparison.differences.mean == pytest.approx((0.1 + 0.3 + 0.5 + 0.0) / 4, abs=1e-6)
    assert comparison.differences.greatest == pytest.approx(0.5, abs=1e-6)
    assert comparison.candidate_engine.quantile(0.5) == pytest.approx(0.02, rel=0.06)
    assert comparison.stable_engine.quantile(0.5) == pytest.approx(0.01, rel=0.06)


def test_merging_counts_what_both_replicas_have_counted() -> None:
    one, other = compared((0.9, 0.8), (0.9, 0.4)), compared((0.75, 0.25), (0.5, 0.5))
    other.errors, other.unshared_labels = 2, 3
    one.skip("full", 3)
    other.skip("full")
    other.skip("busy", 2)
    one.merge(other)
    expected = compared((0.9, 0.8), (0.9, 0.4), (0.75, 0.25), (0.5, 0.5))
    assert (one.differences.counts, one.agreements) == (expected.differences.counts, expected.agreements)
    assert (one.errors, one.skipped, one.unshared_labels) == (2, {"full": 4, "busy": 2}, 3)
    assert one.candidate_engine.counts == expected.candidate_engine.counts


def disagreement(image: str, greatest: float) -> Disagreement:
    return Disagreement(image, Difference("cat", "dog", greatest))


def test_the_ten_worst_disagreements_are_kept_in_whatever_order_they_come() -> None:
    all_of_them = [disagreement(f"{number:064x}", number / 100) for number in range(50)]
    random.Random(3).shuffle(all_of_them)
    one, other = Comparison(), Comparison()
    for number, each in enumerate(all_of_them):
        (one if number % 2 else other).keep(each)
    one.merge(other)
    assert [round(kept.difference.greatest * 100) for kept in one.worst] == list(range(49, 49 - WORST, -1))


def test_an_image_that_comes_again_stands_among_the_worst_once() -> None:
    comparison = Comparison()
    for greatest in (0.4, 0.6, 0.5):
        comparison.keep(disagreement("a", greatest))
    assert comparison.worst == [disagreement("a", 0.6)]


def test_only_disagreements_are_among_the_worst() -> None:
    comparison = Comparison()
    assert not comparison.is_among_the_worst(Difference("cat", "cat", 0.9))
    assert comparison.is_among_the_worst(Difference("cat", "dog", 0.1))
    for number in range(WORST):
        comparison.keep(disagreement(str(number), 0.5))
    assert not comparison.is_among_the_worst(Difference("cat", "dog", 0.4))


def test_what_came_since_leaves_out_what_was_there() -> None:
    before = compared((0.9, 0.8), (0.9, 0.4))
    after = compared((0.9, 0.8), (0.9, 0.4), (0.9, 0.3))
    after.errors, after.candidate_served.errors = 3, 2
    since = after.since(before)
    assert (since.count, since.agreements, since.errors, since.candidate_served.errors) == (1, 0, 3, 2)
    assert since.differences.mean == pytest.approx(0.6, abs=1e-6)


def test_what_a_version_answers_counts_for_it_and_for_its_trial() -> None:
    comparisons = Comparisons()
    for _ in range(3):
        comparisons.answered(1, 0.01, TRIAL)
    comparisons.answered(2, 0.02, TRIAL)
    comparisons.failed(2, TRIAL)
    comparisons.answered(2, 0.02, None)
    comparisons.answered(3, 0.05, TRIAL)
    assert {version: (served.count, served.errors) for version, served in comparisons.served.items()} == {
        1: (3, 0),
        2: (3, 1),
        3: (1, 0),
    }
    trial = comparisons.of(TRIAL)
    assert (trial.stable_served.count, trial.candidate_served.count, trial.candidate_served.errors) == (3, 2, 1)


def test_each_stage_and_each_configuration_has_figures_of_its_own() -> None:
    comparisons = Comparisons()
    canary, later = Trial("settings", 1, 2, "canary"), Trial("others", 1, 2, "shadow")
    comparisons.of(TRIAL).errors = 1
    assert (comparisons.of(canary).errors, comparisons.of(later).errors, comparisons.of(TRIAL).errors) == (0, 0, 1)


def test_replicas_are_added_up_trial_by_trial_and_version_by_version() -> None:
    one, other = Comparisons(), Comparisons()
    one.answered(1, 0.01, TRIAL)
    other.answered(1, 0.01, TRIAL)
    other.answered(2, 0.01, None)
    other.of(Trial("settings", 1, 2, "canary")).errors = 4
    one.merge(other)
    assert one.of(TRIAL).stable_served.count == 2
    assert one.of(Trial("settings", 1, 2, "canary")).errors == 4
    assert {version: served.count for version, served in one.served.items()} == {1: 2, 2: 1}


def test_a_copy_goes_its_own_way() -> None:
    comparisons = Comparisons()
    comparisons.answered(1, 0.01, TRIAL)
    copied = comparisons.copy()
    comparisons.answered(1, 0.01, TRIAL)
    assert (copied.served[1].count, copied.of(TRIAL).stable_served.count) == (1, 1)
    assert comparisons.served[1].count == 2


def test_whatever_comes_its_memory_is_bounded() -> None:
    comparisons = Comparisons()
    for number in range(3 * MAX_TRIALS):
        trial = Trial(str(number), number, number + 1, "canary")
        for image in range(30):
            comparisons.answered(number, 0.001 * image, trial)
            comparisons.of(trial).keep(disagreement(f"{image:064x}", image / 30))
    assert (len(comparisons.trials), len(comparisons.served)) == (MAX_TRIALS, MAX_VERSIONS)
    assert list(comparisons.trials)[-1].stable == 3 * MAX_TRIALS - 1
    assert len(pickle.dumps(comparisons)) < 100_000


def test_a_trial_in_use_is_never_the_one_that_is_forgotten() -> None:
    comparisons = Comparisons()
    for number in range(3 * MAX_TRIALS):
        comparisons.of(TRIAL).errors += 1
        comparisons.of(Trial(str(number), 1, 2, "shadow"))
    assert comparisons.of(TRIAL).errors == 3 * MAX_TRIALS
