"""What the tuner may change: candidates fit on the machine, and a config gets what its candidate says, and no more."""

import copy
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from benchmarks.tune.candidate import Candidate, Subject, applied, as_measured, edits
from benchmarks.tune.engines import Engines, Speed, batch_sizes_worth_trying, worth_serving
from benchmarks.tune.space import CPU_BATCH_SIZES, MAX_INGRESSES, space, steps
from deployments.engines.registry import Choice
from deployments.settings import Settings
from scripts.check_config import check_config

ROOT = Path(__file__).resolve().parents[2]
CHOICES = (Choice("openvino", "fp32"), Choice("openvino", "int8"), Choice("torch", "fp32"))
CONFIGS = ("local", "dev", "gpu", "imagenet", "production")


def subject(name: str = "local") -> Subject:
    config = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())
    return Subject(config, config["applications"][0]["args"]["models"][0]["name"])


def by_chance(name: str, cores: int, count: int = 60) -> list[Candidate]:
    candidates = space(subject(name), CHOICES, CPU_BATCH_SIZES, cores)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=cores))
    return [candidates.suggest(study.ask()) for _ in range(count)]


@pytest.mark.parametrize("cores", [1, 2, 6, 64])
def test_no_candidate_has_more_threads_than_the_machine_has_cores(cores: int) -> None:
    for each in by_chance("local", cores):
        assert each.replicas * each.threads <= cores
        assert each.preprocessors * each.preprocessor_threads <= cores
        assert 1 <= each.ingresses <= MAX_INGRESSES


@pytest.mark.parametrize("name", ["local", "dev", "imagenet"])
@pytest.mark.parametrize("cores", [2, 6, 64])
def test_ray_can_place_all_replicas_of_every_candidate(name: str, cores: int) -> None:
    one = subject(name)
    for each in by_chance(name, cores):
        reserved = (
            each.replicas * one.num_cpus(one.model)
            + each.preprocessors * one.num_cpus("Preprocessor")
            + each.ingresses * one.num_cpus("Ingress")
        )
        assert reserved <= cores + 1e-9


def test_a_larger_machine_gets_candidates_that_use_it() -> None:
    found = by_chance("local", 64, 300)
    assert max(each.replicas * each.threads for each in found) > 32
    assert {each.replicas for each in found} > {1, 2, 3, 4, 6, 8}
    assert max(each.preprocessors for each in found) > 8


@pytest.mark.parametrize("name", ["gpu", "production"])
def test_the_replicas_of_what_is_autoscaled_are_left_alone(name: str) -> None:
    one = subject(name)
    assert {(each.replicas, each.preprocessors) for each in by_chance(name, 8)} == {
        (one.as_it_is.replicas, one.as_it_is.preprocessors)
    }


def test_an_explicit_null_of_gathering_is_left_alone() -> None:
    one = subject()
    one.config["applications"][0]["args"]["gathering"] = None
    found = space(one, CHOICES, (8,), 2).walk(lambda name, values: values[-1])
    assert (found.max_calls, found.max_images) == (None, None)
    assert not [each for each in edits(one, found) if "gathering" in each.path]


def test_the_config_as_it_is_is_a_candidate_and_every_candidate_is_found_again() -> None:
    one = subject()
    candidates = space(one, CHOICES, CPU_BATCH_SIZES, 4)
    now = replace(one.as_it_is, engine="torch")
    for candidate in (now, *by_chance("local", 4, 30)):
        parameters = candidates.parameters(candidate)
        assert parameters is not None
        study = optuna.create_study()
        study.enqueue_trial(parameters[0])
        assert candidates.suggest(study.ask()) == candidate
    assert candidates.parameters(replace(now, threads=8)) is None
    assert candidates.parameters(replace(now, engine="onnxruntime")) is None


@pytest.mark.parametrize("most", [1, 2, 5, 12, 64])
def test_steps_go_up_to_the_most_and_leave_no_wide_gap(most: int) -> None:
    found = steps(most)
    assert (found[0], found[-1]) == (1, most)
    assert all(after <= 2 * before for before, after in pairwise(found))


def test_the_config_as_it_is_needs_no_change() -> None:
    for name in CONFIGS:
        one = subject(name)
        assert edits(one, one.as_it_is) == []


def test_what_auto_came_to_stays_auto_and_every_other_candidate_states_its_engine() -> None:
    one = subject()
    came_to = replace(one.as_it_is, engine="openvino")
    assert edits(one, came_to, came_to) == []
    assert {each.knob for each in edits(one, replace(came_to, replicas=2), came_to)} == {"engine", "replicas"}


@pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning")
@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_with_its_candidate_is_valid_and_says_what_the_candidate_says(name: str, tmp_path: Path) -> None:
    one = subject(name)
    wanted = Candidate("torch", "bf16", 64, 3, 2, 4, 3, 2, 7, 9)
    for knob in space(one, CHOICES, (8,), 8).fixed:
        wanted = replace(wanted, **{knob: getattr(one.as_it_is, knob)})
    before = copy.deepcopy(one.config)
    made = applied(one.config, edits(one, wanted))
    assert one.config == before
    assert Subject(made, one.model).as_it_is == wanted
    path = tmp_path / "made.yaml"
    path.write_text(yaml.safe_dump(made))
    check_config(path)


def test_a_smaller_live_batch_size_is_what_counts_and_what_is_changed() -> None:
    one = subject()
    deployment: dict[str, Any] = one.deployment(one.model)
    deployment["user_config"]["max_batch_size"] = 4
    assert one.as_it_is.max_batch_size == 4
    made = Subject(applied(one.config, edits(one, replace(one.as_it_is, max_batch_size=2))), one.model)
    assert (made.model_settings.max_batch_size, made.deployment(one.model)["user_config"]) == (2, {"max_batch_size": 2})


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_measured_is_for_this_machine_alone_and_answers_by_itself(name: str) -> None:
    one = subject(name)
    one.deployment(one.model).setdefault("user_config", {})["cache"] = {"max_bytes": 1_000_000}
    measured = as_measured(one, one.config)
    application = measured["applications"][0]
    assert measured["http_options"]["host"] == "127.0.0.1"
    assert not Settings.model_validate(application["args"]).access.asks_for_keys
    for deployment in application["deployments"]:
        assert "autoscaling_config" not in deployment
        assert "cache" not in (deployment.get("user_config") or {})
    assert {"Ingress", "Preprocessor", one.model} <= {each["name"] for each in application["deployments"]}


def test_an_engine_that_is_tried_serves_or_none() -> None:
    """Else the guard's refusal would have another engine measured under its name."""
    one = subject()
    tried = as_measured(one, applied(one.config, edits(one, replace(one.as_it_is, engine="torch", precision="bf16"))))
    assert Subject(tried, one.model).model_settings.on_refusal == "fail"
    assert Subject(as_measured(one, one.config), one.model).model_settings.on_refusal == "next"


def speed(engine: Any, precision: Any, lone: float, full: float) -> Speed:
    return Speed(engine, precision, {1: lone, 8: full}, 0.005, "top-1 agreement 100 %")


def test_only_engines_that_no_other_is_clearly_better_than_are_served() -> None:
    found = Engines(
        [
            *(speed("openvino", "fp32", 20, 20), speed("openvino", "int8", 40, 40)),
            *(speed("onnxruntime", "int8", 36, 45), speed("torch", "fp32", 15, 17)),
        ],
        {"torch bf16": "a probability differs by 0.024, more than 0.02"},
    )
    kept, left_out = worth_serving(found, goal_ms=500, threads=2)
    assert kept == [Choice("openvino", "int8"), Choice("onnxruntime", "int8")]
    assert set(left_out) == {"openvino fp32", "torch fp32"}
    assert left_out["openvino fp32"].startswith("with decoding 55 ms an image and 18.2 img/s on a core, where")


def test_where_decoding_takes_most_of_the_time_a_faster_engine_is_not_clearly_better() -> None:
    found = Engines([speed("openvino", "fp32", 900, 900), speed("onnxruntime", "fp32", 1100, 1800)], {})
    assert len(worth_serving(found, goal_ms=100, threads=2)[0]) == 2


def test_the_fastest_decoding_that_was_seen_counts_for_all_engines() -> None:
    slow = replace(speed("openvino", "fp32", 20, 20), decode_s=0.5)  # Measured while others had the core.
    found = Engines([slow, speed("torch", "fp32", 20, 20)], {})
    assert found.limit(slow, 2) == pytest.approx(2 / (0.005 + 0.05))


def test_an_engine_that_cannot_do_one_image_in_time_is_not_served() -> None:
    found = Engines([speed("torch", "fp32", 4, 5)], {})
    assert worth_serving(found, goal_ms=100, threads=2) == ([], {"torch fp32": "one image takes 250 ms on one thread"})
    assert worth_serving(found, goal_ms=130, threads=2)[0] == [Choice("torch", "fp32")]


def test_batches_that_take_longer_than_the_goal_are_not_tried() -> None:
    found = Engines([speed("torch", "fp32", 20, 20)], {})  # 50 and 400 ms on one thread
    kept = [Choice("torch", "fp32")]
    assert batch_sizes_worth_trying(found, kept, (1, 8), goal_ms=100, threads=2) == [1]
    assert batch_sizes_worth_trying(found, kept, (1, 8), goal_ms=201, threads=2) == [1, 8]


def test_every_field_of_a_candidate_has_its_place_in_the_config() -> None:
    one = subject()
    other = Candidate("torch", "bf16", 64, 3, 2, 4, 3, 2, 7, 9)
    assert {each.knob for each in edits(one, other)} == {field.name for field in fields(Candidate)}


def test_records_come_back_as_they_were() -> None:
    found = Engines([speed("torch", "fp32", 4, 5)], {"torch bf16": "no"})
    through_json = yaml.safe_load(
        yaml.safe_dump(
            {
                **found.record(),
                "speeds": [
                    {**each, "alone": {str(size): value for size, value in each["alone"].items()}}
                    for each in found.record()["speeds"]
                ],
            }
        )
    )
    assert Engines.from_record(through_json) == found
