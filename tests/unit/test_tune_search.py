"""The search finds what is best on a service that is known, survives what fails, and goes on where it ended."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml

from benchmarks.tune import finals
from benchmarks.tune.candidate import Candidate, Subject
from benchmarks.tune.rates import Found, Probe, find_rate
from benchmarks.tune.space import CPU_BATCH_SIZES, Space, space, steps
from benchmarks.tune.study import MOST_FAILURES, Tried, add, best, open_study, propose, search, tried
from deployments.engines.registry import Choice

ROOT = Path(__file__).resolve().parents[2]
CORES, GOAL_MS, NOISE, TRIALS = 2, 100.0, 0.03, 30
# img/s of one thread.
SPEEDS = {
    **{Choice("openvino", "fp32"): 20.0, Choice("openvino", "int8"): 40.0},
    **{Choice("onnxruntime", "int8"): 36.0, Choice("torch", "fp32"): 15.0},
}
CHOICES = tuple(SPEEDS)
CONFIG = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
NOW = replace(Subject(CONFIG, "shapes").as_it_is, engine="openvino")


@dataclass
class Service:
    """Its good rate is what its slowest stage does, less what too many threads cost; a measurement is off by chance."""

    candidate: Candidate
    random: np.random.Generator

    @property
    def good(self) -> float:
        one = self.candidate
        speed = SPEEDS[Choice(one.engine, one.precision)]  # type: ignore[arg-type]
        size, calls, images = one.max_batch_size, one.max_calls or 4, one.max_images or 16
        infer = speed * one.replicas * one.threads**0.8 * (1 - 0.08 * abs(math.log2(size / 4)))
        decode = 90 * one.preprocessors * one.preprocessor_threads**0.7
        gathered = 1 - 0.05 * abs(math.log2(calls / 8)) - 0.03 * abs(math.log2(images / 16))
        used = one.replicas * one.threads + 0.4 * one.preprocessors * one.preprocessor_threads + 0.3 * one.ingresses
        return float(min(infer, decode, 160 * one.ingresses) * gathered * min(1.0, CORES / used) ** 0.7)

    def capacity(self) -> float:
        return self.good * 1.25 * float(self.random.normal(1, NOISE))

    def offer(self, per_second: float, number: int) -> Probe:
        good = self.good * float(self.random.normal(1, NOISE))
        return Probe(per_second, 10.0, GOAL_MS * (per_second / good) ** 3, 100)


def candidates() -> Space:
    return space(Subject(CONFIG, "shapes"), CHOICES, CPU_BATCH_SIZES, CORES)


def measured(seed: int) -> Callable[[Candidate, float], Found]:
    random = np.random.default_rng(seed)
    return lambda candidate, to_beat: find_rate(Service(candidate, random), GOAL_MS, to_beat=to_beat)


def tuned(seed: int, chosen_by: optuna.samplers.BaseSampler | None = None) -> float:
    """The true good rate of what is found in TRIALS."""
    study, measure = open_study("tune", seed), measured(seed)
    study.sampler = chosen_by or study.sampler
    add(study, candidates(), NOW, measure(NOW, 0.0))
    if chosen_by is None:
        plain = [replace(NOW, engine=each.engine, precision=each.precision) for each in CHOICES]
        propose(study, candidates(), [replace(each, replicas=CORES) for each in plain])
    search(study, candidates(), measure, trials=TRIALS)
    assert len(tried(study)) == TRIALS
    found = best(study)
    assert found is not None
    return Service(found.candidate, np.random.default_rng(0)).good


def best_there_is() -> float:
    """Of every candidate: what gathering and batches are best does not depend on the rest."""
    shapes = [(n, t) for n in steps(CORES) for t in steps(CORES) if n * t <= CORES]
    every = [
        Candidate(choice.engine, choice.precision, 4, *model, *decoders, ingresses, 8, 16)
        for choice in CHOICES
        for model in shapes
        for decoders in shapes
        for ingresses in steps(CORES)
    ]
    return max(
        Service(each, np.random.default_rng(0)).good for each in every if candidates().parameters(each) is not None
    )


def test_the_best_is_found_within_a_tenth() -> None:
    assert statistics.median(tuned(seed) for seed in range(3)) >= 0.9 * best_there_is()


def test_the_same_seed_finds_the_same() -> None:
    def rates() -> list[float]:
        study = open_study("tune", 5)
        search(study, candidates(), measured(5), trials=10)
        return [each.per_second for each in tried(study)]

    assert rates() == rates()


def test_what_fails_is_counted_and_the_search_goes_on() -> None:
    measure, asked = measured(0), list[Candidate]()

    def every_third_fails(candidate: Candidate, to_beat: float) -> Found:
        asked.append(candidate)
        if len(asked) % 3 == 0:
            raise RuntimeError("no replica came up")
        return measure(candidate, to_beat)

    study = open_study("tune", 1)
    search(study, candidates(), every_third_fails, trials=12)
    found = tried(study)
    assert len(found) == len(set(asked)) == len(asked) == 12
    assert [each.problem for each in found if each.problem] == ["RuntimeError: no replica came up"] * 4
    assert best(study) is not None


def test_a_search_in_which_everything_fails_ends() -> None:
    def fails(candidate: Candidate, to_beat: float) -> Found:
        raise RuntimeError("the cluster is gone")

    study = open_study("tune", 1)
    search(study, candidates(), fails, trials=1000)
    assert len(tried(study)) == MOST_FAILURES
    assert best(study) is None


def test_a_space_that_is_exhausted_ends_the_search() -> None:
    one = replace(candidates(), choices=CHOICES[:1], batch_sizes=(8,), cores=1)
    few = replace(one, fixed=frozenset({"ingresses", "max_calls", "max_images", "preprocessors"}))
    study = open_study("tune", 1)
    search(study, few, measured(1), trials=1000)
    assert len(tried(study)) == 1


def test_an_interrupted_search_goes_on_where_it_ended(tmp_path: Path) -> None:
    journal, measure, calls = tmp_path / "journal.jsonl", measured(2), list[Candidate]()

    def interrupted_at_the_sixth(candidate: Candidate, to_beat: float) -> Found:
        calls.append(candidate)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return measure(candidate, to_beat)

    study = open_study("tune", 2, journal)
    add(study, candidates(), NOW, measure(NOW, 0.0))
    study.set_user_attr("runs_on", ["openvino", "fp32"])
    with pytest.raises(KeyboardInterrupt):
        search(study, candidates(), interrupted_at_the_sixth, trials=12)
    before = tried(study)
    assert len(before) == 6

    again = open_study("tune", 2, journal)
    assert tried(again) == before
    assert again.user_attrs["runs_on"] == ["openvino", "fp32"]
    search(again, candidates(), interrupted_at_the_sixth, trials=12)
    assert tried(again)[:6] == before
    assert len(tried(again)) == 12
    assert len(calls) == 12  # the one that was interrupted, and no other one twice


def test_no_candidate_is_begun_when_the_time_is_over() -> None:
    study = open_study("tune", 1)
    search(study, candidates(), measured(1), trials=5, until_s=0.0)
    assert tried(study) == []


def final(per_second: float) -> Found:
    return Found(per_second, 100.0, [Probe(per_second, 10.0, 90.0, 100)])


def with_rates(rates: dict[Candidate, float]) -> optuna.Study:
    study = open_study("tune", 0)
    for candidate, per_second in rates.items():
        add(study, candidates(), candidate, final(per_second))
    return study


def test_the_finals_take_turns_and_end_each_round_with_the_config_as_it_is() -> None:
    a, b = replace(NOW, max_batch_size=4), replace(NOW, max_batch_size=2)
    study, order = with_rates({NOW: 30, a: 50, b: 45}), list[Candidate]()

    def measure(candidate: Candidate) -> Found:
        order.append(candidate)
        return final(40.0)

    chosen = finals.finalists(tried(study), NOW)
    finals.play(study, chosen, NOW, measure, rounds=2, until_s=float("inf"))
    assert order == [a, b, NOW, b, a, NOW]


def test_who_was_first_by_luck_loses_in_the_finals() -> None:
    lucky, steady = replace(NOW, max_batch_size=4), replace(NOW, max_batch_size=2)
    study = with_rates({NOW: 30, lucky: 60, steady: 45})
    rates = {lucky: iter([40.0, 38.0, 42.0]), steady: iter([44.0, 46.0, 45.0]), NOW: iter([30.0, 31.0, 29.0])}
    finals.play(study, [lucky, steady], NOW, lambda each: final(next(rates[each])), rounds=3, until_s=float("inf"))
    table = finals.standings(study, tried(study))
    assert [each.candidate for each in table] == [steady, lucky, NOW]
    winner = finals.chosen(table, NOW)
    assert winner is not None
    assert (winner.candidate, winner.per_second) == (steady, 45.0)


def test_a_difference_within_chance_changes_nothing() -> None:
    other = replace(NOW, max_batch_size=4)
    close = finals.chosen(finals.standings(*_of({NOW: 40, other: 41.5})), NOW)
    clear = finals.chosen(finals.standings(*_of({NOW: 40, other: 43})), NOW)
    assert close is not None
    assert clear is not None
    assert (close.candidate, clear.candidate) == (NOW, other)


def test_where_no_rate_is_good_nothing_is_chosen() -> None:
    assert finals.chosen(finals.standings(*_of({NOW: 0, replace(NOW, max_batch_size=4): 0})), NOW) is None
    assert finals.chosen([], NOW) is None


def test_a_final_that_fails_does_not_end_the_others() -> None:
    a = replace(NOW, max_batch_size=4)
    study = with_rates({NOW: 30, a: 50})

    def measure(candidate: Candidate) -> Found:
        if candidate == a:
            raise RuntimeError("not this time")
        return final(31.0)

    finals.play(study, [a], NOW, measure, rounds=2, until_s=float("inf"))
    assert [each.candidate for each in finals.played(study)] == [NOW, NOW]


def _of(rates: dict[Candidate, float]) -> tuple[optuna.Study, list[Tried]]:
    study = with_rates(rates)
    return study, tried(study)
