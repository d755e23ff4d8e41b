"""Processes are killed and configurations changed under a steady load: every request is answered, and none wrongly."""

import asyncio

from benchmarks.chaos.changes import all_changes, broken_configs
from benchmarks.chaos.kills import kill_each
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.scenarios import Scenario, Stage, play

# Long enough for some requests, and too short for what was killed to be replaced.
PAUSE_S = 1.0


def test_no_answer_is_lost_or_wrong_when_replicas_and_the_controller_are_killed(stage: Stage) -> None:
    victims = ["a classifier", "a Preprocessor", "an Ingress", "the controller"]
    ledger = played(kill_each(stage.cluster, victims, PAUSE_S), stage)
    assert_nothing_lost(ledger)


def test_the_death_of_haproxy_loses_what_was_in_flight_in_it_and_no_more(stage: Stage) -> None:
    ledger = played(kill_each(stage.cluster, ["HAProxy"], PAUSE_S), stage)
    assert ledger.count("wrong") == ledger.count("other") == 0, ledger.examples()
    assert ledger.count("lost") == ledger.in_flight_at_faults(), ledger.examples()


def test_replicas_versions_and_user_config_change_and_no_answer_is_lost(stage: Stage) -> None:
    ledger = played(all_changes(), stage)
    assert_nothing_lost(ledger)


def test_a_broken_config_leaves_the_old_one_serving(stage: Stage) -> None:
    # The first of them; `make chaos` plays the others, which take half a minute each.
    ledger = played(broken_configs()[0], stage)
    assert_nothing_lost(ledger)


def played(scenario: Scenario, stage: Stage) -> Ledger:
    ledger = asyncio.run(play(scenario, stage))
    assert ledger.problem == "", ledger.examples()
    assert ledger.count("answered") > 0
    return ledger


def assert_nothing_lost(ledger: Ledger) -> None:
    """Everything was answered, or refused with when to come again."""
    assert ledger.count("lost") == ledger.count("wrong") == ledger.count("other") == 0, ledger.examples()
