"""A soak is planned to fit its time, on a config that is valid, and tells what it has seen."""

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.soak.census import Census, Holding, Identity, Sample
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.session import KILLED, Kill, Plan, Soaked, config
from benchmarks.soak.verdict import Check, grown
from deployments.settings import Settings

REPLICA = "ray::ServeReplica:aperture:shapes"


@pytest.mark.parametrize("minutes", [1.0, 3.0, 30.0])
def test_warm_up_and_load_take_the_time_that_was_asked_for_and_every_replica_is_killed(minutes: float) -> None:
    plan = Plan(minutes, 8000, 9000, seed=0)
    assert plan.warm_s + plan.main_s == pytest.approx(60 * minutes)
    assert plan.main_s >= 0.7 * 60 * minutes
    assert plan.main_s / plan.kill_every_s >= len(KILLED)


def test_the_config_is_valid_and_has_two_replicas_of_each_in_the_cpus_of_one() -> None:
    made = config(Plan(1.0, 8123, 9123, seed=0))
    (application,) = made["applications"]
    assert Settings.model_validate(application["args"]).models[0].name == "shapes"
    assert (made["http_options"]["port"], made["grpc_options"]["port"]) == (8123, 9123)
    assert all(each["num_replicas"] == 2 for each in application["deployments"])
    assert sum(2 * each["ray_actor_options"]["num_cpus"] for each in application["deployments"]) < 1


def soaked(*checks: Check) -> Soaked:
    """Of a minute in which one replica was killed."""
    ledger, census = Ledger(), Census(0)
    ledger.fates = {"predict, raw": Counter({"answered": 50, "lost": 1}), "bursts": Counter({"refused": 9})}
    ledger.seconds = {second: Counter({"answered": 1}) for second in range(60)}
    ledger.examples = ["   3.0 s  lost     predict, raw: ConnectionResetError()"]
    for number in (1, 2):
        samples = [Sample(float(second), Holding(REPLICA, 3 * 10**8, 50, 20)) for second in range(60)]
        census.series[Identity(number, 1)] = samples
    descriptors: list[Counter[str]] = [Counter(sockets=12), Counter(sockets=11, files=3)]
    kills = [Kill("a classifier", 9.0, 8.5), Kill("an Ingress", 30.0, None)]
    return Soaked(
        ledger, census, kills, descriptors=[*descriptors], processes=grown(census.series), checks=list(checks)
    )


def test_a_report_has_every_request_kill_process_and_check(tmp_path: Path) -> None:
    story = pytest.importorskip("benchmarks.soak.story", reason="matplotlib is not installed")
    found = soaked(Check("nothing leaks", True, "nothing"), Check("no request is lost", False, "1"))
    assert not found.holds
    assert soaked(Check("nothing leaks", True, "nothing")).holds
    report = story.report(found)
    for part in (
        "predict, raw",
        "a successor after 8.5 s",
        "no successor",
        REPLICA,
        "ConnectionResetError",
        "sockets 12",
    ):
        assert part in report
    assert [line.split()[0] for line in report.splitlines()[-2:]] == ["holds", "BROKEN"]
    document = json.loads(story.line(Plan(1.0, 8000, 9000, seed=0), found))
    assert [check["holds"] for check in document["checks"]] == [True, False]
    assert document["results"]["bursts"] == {"refused": 9}
    assert story.draw(found, tmp_path).read_bytes().startswith(b"\x89PNG")
