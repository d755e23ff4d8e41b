"""What an Ingress replica makes of what the replicas of a model say: what is announced, and what a request gets."""

import dataclasses
from collections import Counter
from typing import Any

import pytest

from deployments.catalogue import Catalogue, share_of
from deployments.errors import ApertureError, BadRequest, ModelNotReady, UnknownModel
from deployments.messages import Override, ReplicaStatus, State
from deployments.settings import LiveSettings
from tests.unit.versioned import LIVE, WHY, keys, replica, status, told, two_versions, updated, version_info

REQUESTS = 10_000
# Of a binomial distribution; one in ten thousand right ones is further off, and the keys are the same each time.
DEVIATIONS = 4


def chosen(catalogue: Catalogue, version: str | None = None, label: str | None = None, key: str = "") -> int:
    return catalogue.choose(version, label, key).version


def states(catalogue: Catalogue) -> dict[int, tuple[State, str]]:
    return {each.version: (each.state, each.reason) for each in catalogue.statuses()}


# What is announced


def test_a_version_is_announced_once_every_replica_has_it_and_not_before() -> None:
    catalogue = told(replica(1), replica(1))
    assert list(updated(catalogue, replica(1, 2), replica(1, status(2, "LOADING"))).infos) == [1]
    assert list(updated(catalogue, replica(1, 2), replica(1, 2)).infos) == [1, 2]


def test_what_was_announced_stays_while_any_replica_has_it() -> None:
    catalogue = told(replica(1, 2), replica(1, 2))
    assert list(updated(catalogue, replica(1, 2), replica(status(1, "UNLOADING"), 2)).infos) == [1, 2]
    assert list(updated(catalogue, replica(status(1, "UNLOADING"), 2), replica(status(1, "END"), 2)).infos) == [2]


def test_a_replica_that_has_just_started_takes_nothing_away() -> None:
    assert list(updated(told(replica(1, 2)), replica(1, 2), replica(2)).infos) == [1, 2]


def test_a_new_ingress_announces_what_all_replicas_have() -> None:
    assert list(told(replica(1, 2), replica(2, 3)).infos) == [2]


def test_a_new_ingress_that_finds_nothing_that_all_have_takes_what_some_have() -> None:
    assert list(told(replica(1), replica(2)).infos) == [1, 2]


def test_a_version_that_nobody_could_describe_is_not_announced() -> None:
    catalogue = told(replica(1))
    catalogue.update([replica(1, 2)], {})
    assert list(catalogue.infos) == [1]
    assert states(catalogue)[2] == ("LOADING", "")
    assert catalogue.undescribed([replica(1, 2)]) == {2}


def test_no_answer_of_any_replica_changes_nothing() -> None:
    catalogue = two_versions()
    before = (dict(catalogue.infos), catalogue.statuses(), catalogue.live)
    catalogue.update([], {})
    assert (dict(catalogue.infos), catalogue.statuses(), catalogue.live) == before


def test_the_description_of_a_version_stays_the_same_object_while_it_is_announced() -> None:
    catalogue = told(replica(1))
    first = catalogue.infos[1]
    assert updated(catalogue, replica(1, 2)).infos[1] is first


# States


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        ([replica(1)], ("AVAILABLE", "")),
        ([replica(1), replica(status(1, "UNLOADING"))], ("AVAILABLE", "")),
        ([replica(1), replica(status(1, "END"))], ("AVAILABLE", "")),
        ([replica(status(1, "UNLOADING")), replica(status(1, "END"))], ("UNLOADING", "")),
        ([replica(status(1, "END")), replica(status(1, "END"))], ("END", "")),
        ([replica(status(1, "END", WHY))], ("END", WHY)),
    ],
)
def test_the_states_of_an_announced_version_are_one(replicas: list[ReplicaStatus], expected: tuple[State, str]) -> None:
    assert states(updated(told(replica(1)), *replicas))[1] == expected


@pytest.mark.parametrize(
    ("of_the_first", "of_the_second", "expected"),
    [
        (status(2, "START"), status(2, "START"), ("START", "")),
        (status(2, "START"), status(2, "LOADING"), ("LOADING", "")),
        (status(2), status(2, "LOADING"), ("LOADING", "")),
        (status(2), status(2, "START"), ("START", "")),
        (status(2), None, ("LOADING", "")),
        (status(2, "END", WHY), status(2, "LOADING"), ("LOADING", WHY)),
        (status(2, "END", WHY), status(2), ("END", WHY)),
        (status(2, "END", WHY), None, ("END", WHY)),
        (status(2, "END"), None, ("END", "")),
    ],
)
def test_the_states_of_a_version_that_is_not_announced_are_one(
    of_the_first: Any, of_the_second: Any, expected: tuple[State, str]
) -> None:
    second = [] if of_the_second is None else [of_the_second]
    assert states(told(replica(1, of_the_first), replica(1, *second)))[2] == expected


def test_versions_are_in_order_whoever_named_them_first() -> None:
    assert [each.version for each in told(replica(9, 10), replica(status(2, "END"), 9)).statuses()] == [2, 9, 10]


# Asking for one


def test_a_version_is_asked_for_by_its_number_however_it_is_written() -> None:
    assert chosen(two_versions(), "1") == 1
    assert chosen(two_versions(), "002") == 2


def test_a_version_is_asked_for_by_its_label() -> None:
    assert chosen(two_versions(), label="stable") == 1
    assert chosen(two_versions(), label="canary") == 2


def test_both_at_once_are_refused_even_if_they_agree() -> None:
    with pytest.raises(BadRequest, match="not both"):
        two_versions().choose("1", "stable", "")


@pytest.mark.parametrize(
    "version", ["5", "-1", "", "latest", "1.0", " 1", "\u0661", "\u00b2", "9" * 5000, "1" * 19, "3"], ids=ascii
)
def test_a_version_that_is_not_there_is_unknown(version: str) -> None:
    with pytest.raises(UnknownModel, match="it has 1, 2") as refusal:
        two_versions().choose(version, None, "")
    assert len(refusal.value.message) < 200


@pytest.mark.parametrize("label", ["", "beta", "1", "x" * 5000])
def test_a_label_that_is_not_set_is_unknown(label: str) -> None:
    with pytest.raises(UnknownModel, match="it has stable, canary") as refusal:
        two_versions().choose(None, label, "")
    assert len(refusal.value.message) < 200


@pytest.mark.parametrize(("version", "label"), [("4", None), (None, "next")])
def test_what_is_loading_says_when_to_come_again(version: str | None, label: str | None) -> None:
    catalogue = told(replica(1, status(4, "LOADING"), labels={"next": 4}))
    with pytest.raises(ModelNotReady) as refusal:
        catalogue.choose(version, label, "")
    assert refusal.value.retry_after_s


@pytest.mark.parametrize(
    ("version", "label", "error"),
    [
        (None, None, ModelNotReady),
        ("1", None, ModelNotReady),
        (None, "stable", ModelNotReady),
        ("latest", None, UnknownModel),
    ],
)
def test_a_model_of_which_nothing_is_known_yet_is_loading(
    version: str | None, label: str | None, error: type[ApertureError]
) -> None:
    with pytest.raises(error):
        Catalogue("shapes").choose(version, label, "")


# Labels


def test_a_label_stays_where_it_is_until_the_new_version_is_announced() -> None:
    catalogue = told(replica(1, labels={"stable": 1}), replica(1, labels={"stable": 1}))
    moved = {"labels": {"stable": 2}}
    updated(catalogue, replica(1, 2, **moved), replica(1, status(2, "LOADING"), **moved))
    assert chosen(catalogue, label="stable") == 1
    updated(catalogue, replica(1, 2, **moved), replica(1, 2, **moved))
    assert chosen(catalogue, label="stable") == 2


def test_a_label_does_not_follow_a_version_that_has_failed() -> None:
    catalogue = told(replica(1, labels={"stable": 1}))
    updated(catalogue, replica(1, status(2, "END", WHY), labels={"stable": 2}))
    assert (chosen(catalogue, label="stable"), catalogue.labels) == (1, {"stable": 1})


def test_a_label_that_is_taken_away_is_unknown_at_once() -> None:
    catalogue = told(replica(1, labels={"stable": 1}))
    with pytest.raises(UnknownModel):
        updated(catalogue, replica(1)).choose(None, "stable", "")


def test_a_label_whose_version_is_gone_leads_nowhere() -> None:
    catalogue = updated(told(replica(1, 2, labels={"old": 1})), replica(status(1, "END"), 2, labels={"old": 1}))
    assert catalogue.labels == {}
    with pytest.raises(ModelNotReady):
        catalogue.choose(None, "old", "")


# Asking for none


def test_without_settings_the_highest_version_answers() -> None:
    assert chosen(told(replica(1, 10, 9))) == 10


@pytest.mark.parametrize(("default", "expected"), [("1", 1), (1, 1), ("stable", 1), ("canary", 2), (0, 0)])
def test_the_default_answers_who_asks_for_nothing(default: object, expected: int) -> None:
    catalogue = told(replica(0, 1, 2, labels=LIVE["labels"], default=default))
    assert chosen(catalogue) == expected
    assert catalogue.default() == version_info(expected)


@pytest.mark.parametrize("default", ["3", "canary"])
def test_a_default_that_is_not_there_gives_way_to_the_highest(default: str) -> None:
    catalogue = told(replica(1, 2, status(3, "END", WHY), labels={"canary": 3}, default=default))
    assert chosen(catalogue) == 2


@pytest.mark.parametrize("weights", [(90, 10), (1, 99), (1, 1), (0.5, 0.1)])
def test_traffic_is_divided_by_its_weights(weights: tuple[float, float]) -> None:
    catalogue = told(replica(1, 2, traffic={"1": weights[0], "2": weights[1]}))
    counts = Counter(chosen(catalogue, key=key) for key in keys(REQUESTS))
    share = weights[0] / sum(weights)
    bound = DEVIATIONS * (REQUESTS * share * (1 - share)) ** 0.5
    assert abs(counts[1] - REQUESTS * share) < bound
    assert counts.total() == REQUESTS


def test_the_same_key_leads_to_the_same_version_in_every_ingress() -> None:
    one, another = two_versions(), two_versions()
    assert [chosen(one, key=key) for key in keys(500)] == [chosen(another, key=key) for key in keys(500)]


def test_a_larger_share_takes_keys_over_and_gives_none_away() -> None:
    before, after = (told(replica(1, 2, traffic={"1": 100 - share, "2": share})) for share in (10, 30))
    for key in keys(2000):
        assert chosen(before, key=key) == 1 or chosen(after, key=key) == 2


def test_the_share_of_a_version_that_is_not_there_is_that_of_the_others() -> None:
    catalogue = told(replica(1, 2, labels={"canary": 3}, traffic={"1": 45, "2": 45, "canary": 10}))
    counts = Counter(chosen(catalogue, key=key) for key in keys(2000))
    assert counts.keys() == {1, 2}
    assert abs(counts[1] - 1000) < DEVIATIONS * (2000 / 4) ** 0.5


def test_where_none_of_the_shares_is_there_the_highest_version_answers() -> None:
    catalogue = told(replica(1, 2, traffic={"7": 90, "8": 10}))
    assert {chosen(catalogue, key=key) for key in keys(50)} == {2}
    assert catalogue.default() == version_info(2)


def test_the_default_of_divided_traffic_is_the_largest_share_that_is_there() -> None:
    assert two_versions().default() == version_info(1)
    assert told(replica(1, 2, traffic={"1": 30, "7": 60, "2": 10})).default() == version_info(1)


def test_whoever_names_a_version_is_not_subject_to_traffic() -> None:
    catalogue = two_versions()
    assert {chosen(catalogue, "2", key=key) for key in keys(50)} == {2}
    assert {chosen(catalogue, label="stable", key=key) for key in keys(50)} == {1}


def test_a_share_is_below_one_whatever_the_key_and_another_for_another_model() -> None:
    shares = [share_of(key, "shapes") for key in [*keys(2000), "", "\udcff", "\U0001f600", "k" * 256]]
    assert all(0 <= share < 1 for share in shares)
    assert len(set(shares)) == len(shares)
    assert share_of("user-1", "shapes") != share_of("user-1", "others")


# Settings that change


def test_new_settings_hold_once_all_replicas_have_them() -> None:
    catalogue = told(replica(1, 2, default="1"), replica(1, 2, default="1"))
    assert chosen(updated(catalogue, replica(1, 2, default="2"), replica(1, 2, default="1"))) == 1
    assert chosen(updated(catalogue, replica(1, 2, default="2"), replica(1, 2, default="2"))) == 2


def test_a_new_ingress_does_not_wait_for_replicas_to_agree() -> None:
    assert chosen(told(replica(1, 2, default="1"), replica(1, 2, default="2"))) == 1


# Overrides


def override(sequence: int, base: LiveSettings | None = None, *, unloaded: bool = False) -> Override:
    return Override(base or LiveSettings(), sequence, LiveSettings(default=str(sequence)), unloaded)


def overridden(*versions: Any, by: Override | None, base: LiveSettings | None = None) -> ReplicaStatus:
    live = base or LiveSettings() if by is None else by.live
    return dataclasses.replace(replica(*versions), live=live, override=by)


def test_of_overrides_the_last_one_is_for_all() -> None:
    first, second = override(1), override(2)
    catalogue = told(overridden(1, by=first), overridden(1, by=None), overridden(1, by=second))
    assert catalogue.override == second
    # A replica that started anew knows of none.
    assert updated(catalogue, overridden(1, by=None)).override == second


def test_an_override_ends_with_the_settings_that_it_was_made_over() -> None:
    catalogue = told(overridden(1, by=override(1)))
    assert updated(catalogue, overridden(1, by=None, base=LiveSettings(default="1"))).override is None


def test_a_model_that_an_administrator_unloads_is_unknown_at_once_and_ends() -> None:
    unload = override(1, unloaded=True)
    catalogue = updated(told(overridden(1, 2, by=None), overridden(1, 2, by=None)), overridden(1, 2, by=unload))
    assert (dict(catalogue.infos), catalogue.default()) == ({}, None)
    for version, label in ((None, None), ("1", None), (None, "stable")):
        with pytest.raises(UnknownModel, match="unloaded"):
            catalogue.choose(version, label, "")
    assert states(catalogue) == {1: ("UNLOADING", ""), 2: ("UNLOADING", "")}
    updated(catalogue, overridden(status(1, "END"), status(2, "END"), by=unload))
    assert states(catalogue) == {1: ("END", ""), 2: ("END", "")}
