"""The latency-aware policy on a simulated fleet, with Serve's own wrapper around it, and on figures that make no sense.

A replica of `Fleet` does 80 images/s in full batches of 8, which take 0.1 s.
"""

import asyncio
import io
import logging
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ray.serve.config import AutoscalingConfig

from deployments.autoscaling import COUNTERS, FIGURES, LatencyPolicy, PolicySettings, Server, read
from deployments.engines.dummy import DummyEngine
from deployments.preprocessor import Preprocessor
from deployments.settings import Limits, ModelSettings, PreprocessingSpec
from deployments.workload import Workload
from tests.unit.fleet import LOOK_BACK_S, Fleet, steps
from tests.unit.sentences import sentence_of

# Serve has nothing else yet that sets it for one deployment.
pytestmark = pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning")

HOLD_DOWN_S = 30.0
TARGET_S = 0.25


def policy(**changed: Any) -> LatencyPolicy:
    return LatencyPolicy(**{"target_latency_s": TARGET_S, "hold_down_s": HOLD_DOWN_S, **changed})


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger, level = logging.getLogger("ray.serve"), logging.getLogger("ray.serve").level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


# Up


@pytest.mark.parametrize("max_ongoing_requests", [16, 64, 1000])
def test_a_step_is_answered_within_seconds_by_as_many_replicas_as_it_needs(max_ongoing_requests: int) -> None:
    step = steps((0, 20), (20, 250))
    fleet = Fleet(policy(), step, max_ongoing_requests=max_ongoing_requests).run(until=100)
    assert fleet.sizes[0][0] < 22.5
    # 250/s are 3.1 replicas' work; a backlog may ask for some more.
    assert any(at < 25 and size >= 4 for at, size in fleet.sizes)
    assert max(fleet.changes()) <= 6
    assert fleet.slowest_s(after=60) < TARGET_S


def test_load_that_moves_to_new_replicas_is_not_counted_twice() -> None:
    # What the first replica has had for ten seconds, the others have from the moment at which they start.
    fleet = Fleet(policy(), steps((0, 20), (20, 360)), max_ongoing_requests=8, start_up_s=0.5).run(until=100)
    assert max(fleet.changes()) <= 6


def test_a_slow_start_does_not_ask_for_more_and_more_replicas() -> None:
    fleet = Fleet(policy(), steps((0, 20), (20, 250)), start_up_s=30).run(until=120)
    assert max(fleet.changes()) <= 6
    assert fleet.slowest_s(after=110) < TARGET_S


def test_batches_that_cost_little_more_for_more_images_need_fewer_replicas() -> None:
    # 32 images in 26 ms, where one takes 10.5 ms: 1230/s in full batches and 95/s one by one.
    gpu = {"batch_s": 0.01, "image_s": 0.0005, "max_batch_size": 32, "max_ongoing_requests": 256}
    fleet = Fleet(policy(target_latency_s=0.1), steps((0, 100), (20, 2500)), **gpu).run(until=60)  # type: ignore[arg-type]
    assert 3 <= fleet.target <= 4
    assert fleet.slowest_s(after=50) < 0.1


def test_callers_that_wait_for_answers_do_not_hide_that_more_replicas_are_needed() -> None:
    # As with gathering: so many images are in flight, and how many wait behind them no replica sees.
    fleet = Fleet(policy(), steps((0, 20), (20, 500)), callers=64).run(until=120)
    # A replica more at a time, after each start, would be at four.
    assert max(size for at, size in fleet.sizes if at < 42) >= 5


def test_saturated_replicas_are_seen_although_few_large_calls_come() -> None:
    # Two batches run and two wait, in time for the target; the rest of the queue is where the images were gathered.
    slow = {"batch_s": 0.2, "image_s": 0.1, "images_per_call": 8, "callers": 32}
    fleet = Fleet(policy(target_latency_s=2.5), lambda _: 20.0, **slow).run(until=90)  # type: ignore[arg-type]
    assert fleet.target >= 3


def test_images_count_and_not_the_calls_that_they_come_in() -> None:
    alone, together = (
        Fleet(policy(), lambda _: 200.0, images_per_call=images, max_ongoing_requests=256 // images).run(until=100)
        for images in (1, 8)
    )
    # 200/s are 2.5 replicas' work.
    assert {alone.target, together.target} <= {3, 4}


def test_the_latency_asks_for_more_replicas_than_the_utilization_would() -> None:
    # At 0.8 of 80/s an image is through within 0.16 s.
    hasty, patient = (Fleet(policy(target_latency_s=s), lambda _: 250.0).run(until=100) for s in (0.09, 0.25))
    assert hasty.target > patient.target
    assert hasty.slowest_s(after=80) < 0.09


def test_a_latency_that_batches_alone_exceed_does_not_ask_for_all_replicas(log: list[str]) -> None:
    fleet = Fleet(policy(target_latency_s=0.01), lambda _: 100.0).run(until=100)
    assert fleet.target < 10
    assert any("batches alone take too long for 0.01 s" in line for line in log)


# Down


def test_replicas_go_once_fewer_have_been_enough_for_the_hold_down() -> None:
    fleet = Fleet(policy(), steps((0, 20), (20, 250), (80, 20))).run(until=160)
    down = [at for at, _ in fleet.sizes if at > 80]
    assert min(down) >= 80 + HOLD_DOWN_S
    assert max(down) < 80 + HOLD_DOWN_S + 2 * LOOK_BACK_S
    assert fleet.target == 1


def test_a_pause_shorter_than_the_hold_down_takes_no_replica_away() -> None:
    fleet = Fleet(policy(), steps((0, 250), (60, 0), (60 + HOLD_DOWN_S - 5, 250))).run(until=150)
    assert all(size >= 4 for size in fleet.changes(after=60))


def test_nothing_shrinks_before_the_hold_down_has_been_observed() -> None:
    fleet = Fleet(policy(), lambda _: 20.0, min_replicas=3)
    fleet.min_replicas = 1
    fleet.run(until=100)
    assert min(at for at, _ in fleet.sizes) >= HOLD_DOWN_S
    assert fleet.target == 1


# Steady


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("rate", [30, 62, 64, 66, 128, 200])
def test_steady_load_never_takes_a_replica_and_gives_it_back(rate: float, seed: int) -> None:
    # 64, 128, 192 and 256 are just what one, two, three and four replicas may do.
    fleet = Fleet(policy(), lambda _: rate, noise=0.3, seed=seed).run(until=240)
    sizes = fleet.changes(after=60)
    assert sizes == sorted(sizes)
    assert len(sizes) <= 1


def test_few_and_slow_images_do_not_flap_either() -> None:
    slow = {"batch_s": 0.0, "image_s": 0.5, "max_batch_size": 1, "noise": 0.3}
    fleet = Fleet(policy(target_latency_s=3.0), lambda _: 3.0, **slow).run(until=600)  # type: ignore[arg-type]
    sizes = fleet.changes(after=60)
    assert sizes == sorted(sizes)


# Zero


def test_nobody_at_all_lets_the_last_replica_go_and_a_request_brings_one_back() -> None:
    fleet = Fleet(policy(), steps((0, 0), (20, 20), (40, 0), (120, 20)), min_replicas=0).run(until=140)
    assert fleet.changes() == [1, 0, 1]
    assert 40 + HOLD_DOWN_S <= fleet.sizes[1][0] < 40 + HOLD_DOWN_S + 2 * LOOK_BACK_S
    assert fleet.sizes[2][0] < 121
    assert fleet.slowest_s(after=120, percent=100) < fleet.start_up_s + 2


def test_a_request_that_is_running_keeps_the_last_replica() -> None:
    fleet = Fleet(policy(), steps((0, 0), (5, 20), (6, 0)), min_replicas=0, image_s=100.0).run(until=100)
    assert fleet.changes() == [1]


# Bounds


def test_the_bounds_hold_whatever_is_needed() -> None:
    assert Fleet(policy(), lambda _: 500.0, max_replicas=3).run(until=60).target == 3
    assert Fleet(policy(), lambda _: 0.0, min_replicas=2).run(until=60).changes() == []


# Figures that are missing or make no sense


def absent(figures: dict[str, float]) -> dict[str, float]:
    return {}


def one_is(name: str, value: Any) -> Callable[[dict[str, float]], dict[str, float]]:
    return lambda figures: {**figures, name: value}


def backwards(figures: dict[str, float]) -> dict[str, float]:
    return {**figures, "images": 1e9 - figures["images"]}


NONSENSE = {
    "no figures": absent,
    "one is missing": lambda figures: {name: figures[name] for name in FIGURES if name != "squares"},
    "not a number": one_is("busy_s", math.nan),
    "infinite": one_is("arrived", math.inf),
    "negative": one_is("waiting", -1.0),
    "a text": one_is("arrived", "many"),
    "a counter that falls": backwards,
}


@pytest.mark.parametrize("distort", NONSENSE.values(), ids=NONSENSE)
def test_without_sensible_figures_serves_own_rule_decides(
    distort: Callable[[dict[str, float]], dict[str, float]], log: list[str]
) -> None:
    # 12.8 images are in flight at 64/s and more: Serve's rule, at a target of 4, takes three replicas or so for that.
    fleet = Fleet(policy(), lambda _: 64.0, distort=distort, settings={"target_ongoing_requests": 4}).run(until=120)
    assert 2 <= max(fleet.changes()) <= 5
    assert any("replicas report no figures" in line for line in log)


FREAKS = {
    "no runners": one_is("runners", 0.0),
    "batches of nothing": one_is("max_batch_size", 0.0),
    "no time at all": lambda figures: {**figures, "busy_s": 0.0, "cross_s": 0.0},
    "ages": lambda figures: {**figures, "busy_s": 1e300 * figures["busy_s"], "cross_s": 1e300 * figures["cross_s"]},
    "more than can be": lambda figures: {**figures, "arrived": 1e300 * figures["arrived"]},
    "squares that contradict": one_is("squares", 0.0),
}


@pytest.mark.parametrize("distort", FREAKS.values(), ids=FREAKS)
def test_absurd_figures_neither_raise_nor_leave_the_bounds_nor_fill_the_log(
    distort: Callable[[dict[str, float]], dict[str, float]], log: list[str]
) -> None:
    fleet = Fleet(policy(), lambda _: 64.0, distort=distort).run(until=60)
    assert all(1 <= size <= fleet.max_replicas for size in fleet.changes())
    assert sum("cannot make sense" in line for line in log) <= 1


def test_figures_that_stop_coming_take_no_replica_away_while_calls_are_in_flight() -> None:
    fleet = Fleet(policy(), lambda _: 250.0, images_per_call=8, settings={"target_ongoing_requests": 48})
    fleet.run(until=60)
    before = fleet.target
    fleet.distort = absent
    for replica in fleet.replicas:
        replica.series.clear()
    fleet.run(until=60 + LOOK_BACK_S)
    assert fleet.target == before


def test_calls_that_carry_nobody_knows_how_many_take_no_replica_away() -> None:
    gathered = {"images_per_call": 8, "settings": {"target_ongoing_requests": 48}, "min_replicas": 3}
    fleet = Fleet(policy(), lambda _: 150.0, distort=absent, **gathered)  # type: ignore[arg-type]
    fleet.min_replicas = 1
    fleet.run(until=120)
    assert fleet.changes() == []


def test_a_replica_without_figures_takes_no_other_away() -> None:
    fleet = Fleet(policy(), steps((0, 250), (60, 20)))
    fleet.run(until=60)
    silent = fleet.replicas[0]
    silent.report = lambda now: silent.series.clear()  # type: ignore[method-assign]
    size = fleet.target
    fleet.run(until=60 + HOLD_DOWN_S + 3 * LOOK_BACK_S)
    assert fleet.target == size


def test_a_replica_whose_reports_stand_still_is_not_believed() -> None:
    fleet = Fleet(policy(), steps((0, 60), (60, 0)), settings={"target_ongoing_requests": 1000})
    fleet.run(until=60)
    fleet.replicas[0].report = lambda now: None  # type: ignore[method-assign]
    fleet.run(until=200)
    assert fleet.target == 1
    assert fleet._state["missing_since"] is not None


def test_clocks_of_other_machines_do_not_matter() -> None:
    fleet = Fleet(policy(), steps((0, 20), (20, 250)), clock_skew_s=-3600).run(until=60)
    assert 4 <= fleet.target <= 6


# What operators see


def test_each_decision_is_explained_in_one_line_and_nothing_else_is_said(log: list[str]) -> None:
    fleet = Fleet(policy(), steps((0, 20), (20, 250), (80, 20))).run(until=160)
    told = [line for line in log if " replicas: " in line]
    assert log == told
    assert len(told) == len(fleet.sizes)
    for line, (_, size) in zip(told, fleet.sizes, strict=True):
        assert "\n" not in line
        assert f"to {size} replicas: " in line
        assert "a replica does" in line


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "needs the key 'target_latency_s'"),
    "misspelt": ({"target_latency_s": 1, "hold_down": 3}, "no key 'hold_down'; LatencyPolicy knows target_latency_s"),
    "a text": ({"target_latency_s": "fast"}, "target_latency_s is 'fast', but must be a number from 0.001 to 600"),
    "true": ({"target_latency_s": True}, "target_latency_s is True"),
    "nought": ({"target_latency_s": 0}, "target_latency_s is 0"),
    "not a number": ({"target_latency_s": math.nan}, "target_latency_s is nan"),
    "all of it": ({"target_latency_s": 1, "max_utilization": 1.0}, "max_utilization is 1.0, but must be a number from"),
    "no hold": ({"target_latency_s": 1, "hold_down_s": 0}, "hold_down_s is 0"),
}


@pytest.mark.parametrize(("kwargs", "part"), WRONG.values(), ids=WRONG)
def test_a_wrong_setting_is_said_in_one_sentence_and_serves_own_rule_decides(
    kwargs: dict[str, Any], part: str, log: list[str]
) -> None:
    with pytest.raises(ValueError, match="policy_kwargs") as caught:
        PolicySettings.of(kwargs)
    sentence = str(caught.value)
    assert part in sentence
    assert sentence.endswith(".")
    assert ". " not in sentence
    fleet = Fleet(LatencyPolicy(**kwargs), lambda _: 64.0, settings={"target_ongoing_requests": 4})
    fleet.run(until=100)
    assert 2 <= fleet.target <= 5
    assert sum(sentence in line for line in log) == 1


# The model of the queue


def test_the_time_of_a_batch_is_found_from_batches_of_several_sizes() -> None:
    fleet = Fleet(policy(), lambda _: 50.0).run(until=30)
    load = read(fleet.context(fleet.now), {})
    assert load is not None
    server = load.server()
    assert (server.batch_s, server.image_s) == pytest.approx((fleet.batch_s, fleet.image_s), rel=1e-6)
    assert server.capacity == pytest.approx(80)


@pytest.mark.parametrize("rate", [20.0, 40.0, 56.0, 64.0])
@pytest.mark.parametrize(
    ("batch_s", "image_s", "size"), [(0.02, 0.01, 8), (0.0, 0.0125, 8), (0.08, 0.0025, 8), (0.0, 0.0125, 1)]
)
def test_the_expected_latency_is_that_of_the_simulation(rate: float, batch_s: float, image_s: float, size: int) -> None:
    fleet = Fleet(policy(), lambda _: rate, max_replicas=1, batch_s=batch_s, image_s=image_s, max_batch_size=size).run(
        until=200
    )
    expected_s = Server(batch_s, image_s, size, runners=1).latency_s(rate)
    assert 0.6 * expected_s < fleet.slowest_s(after=20) < 1.25 * expected_s


# What replicas report


def test_replicas_report_what_the_policy_reads() -> None:
    workload = Workload(runners=2)
    workload.arrive(5)
    workload.batches.add(2, 0.5)
    workload.batches.add(3, 0.25)
    figures = workload.figures(waiting=4, queue_s=1.5, max_batch_size=8)
    assert set(figures) == set(FIGURES)
    assert [figures[name] for name in COUNTERS] == [5, 1, 1.5, 2, 5, 13, 0.75, 1.75]
    assert (figures["waiting"], figures["runners"], figures["max_batch_size"]) == (4, 2, 8)
    # Serve would stop asking for good at the first value that is no number.
    assert all(type(value) in (int, float) for value in figures.values())


def test_the_preprocessor_reports_its_threads_as_runners_of_batches_of_one() -> None:
    async def ask() -> dict[str, float]:
        preprocessor = Preprocessor(Limits(), threads=2)
        file = io.BytesIO()
        Image.new("RGB", (64, 64)).save(file, "PNG")
        await preprocessor.preprocess([(file.getvalue(), 30.0), (b"no image", 30.0)], PreprocessingSpec())
        await preprocessor.preprocess([(file.getvalue(), 30.0)], PreprocessingSpec())
        figures = await preprocessor.record_autoscaling_stats()
        preprocessor.close()
        return figures

    figures = asyncio.run(ask())
    assert set(figures) == set(FIGURES)
    assert (figures["arrived"], figures["calls"], figures["batches"], figures["images"]) == (3, 2, 3, 3)
    assert (figures["runners"], figures["max_batch_size"], figures["waiting"]) == (2, 1, 0)
    assert figures["busy_s"] > 0


# A model of stated speed, on which all of this is measured


def test_the_dummy_engine_takes_as_long_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APERTURE_DUMMY_SECONDS", "0.05 0.02")
    engine = DummyEngine(ModelSettings(name="dummy", engine="dummy"))
    started = time.monotonic()
    engine.infer([np.zeros((32, 32, 3), np.uint8)] * 5)
    assert 0.15 <= time.monotonic() - started < 5


@pytest.mark.parametrize("text", ["", "0.1", "fast slow", "-1 0", "nan 0", "0 inf", "1 2 3"])
def test_seconds_that_are_none_are_refused_in_one_sentence(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APERTURE_DUMMY_SECONDS", text)
    sentence = sentence_of(lambda: DummyEngine(ModelSettings(name="dummy", engine="dummy")))
    assert f"APERTURE_DUMMY_SECONDS is {text!r}" in sentence


def test_the_policy_reaches_the_controller_without_this_project() -> None:
    config = AutoscalingConfig.model_validate(
        {"policy": {"policy_function": "deployments.autoscaling:LatencyPolicy", "policy_kwargs": {}}}
    )
    pickled = config.policy.get_serialized_policy_def()
    assert pickled is not None
    script = (
        "import pickle, sys\n"
        "sys.modules['deployments'] = None\n"
        "policy = pickle.loads(sys.stdin.buffer.read())(target_latency_s=0.2)\n"
        "print(type(policy).__name__, policy._settings.target_latency_s)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], input=pickled, capture_output=True, check=True)
    assert done.stdout.decode().split() == ["LatencyPolicy", "0.2"]
