"""The rate that is found is the one at which the latency holds, by queues whose answer is known."""

import math
import statistics
from dataclasses import dataclass, field

import numpy as np
import pytest

from benchmarks.load import arrivals
from benchmarks.simulation.calibration import default_times
from benchmarks.simulation.runs import closed_loop, open_loop
from benchmarks.simulation.shape import Shape
from benchmarks.tune.rates import MOST_PROBES, Found, Probe, find_rate

GOAL_MS = 200.0


def percentiles(latencies_ms: list[float]) -> tuple[float, float]:
    p50_ms, p99_ms = (float(np.percentile(latencies_ms, share, method="higher")) for share in (50, 99))
    return p50_ms, p99_ms


@dataclass
class Queue:
    """One server, exponential service times of mean 1 / `per_second`: latencies have an exponential distribution, too,
    of mean 1 / (per_second - offered). Few of the long ones come in a few seconds, hence `seconds`."""

    per_second: float
    seed: int = 0
    seconds: float = 90.0

    def capacity(self) -> float:
        return self.per_second * float(np.random.default_rng(self.seed).normal(1, 0.03))

    def offer(self, per_second: float, number: int) -> Probe:
        random = np.random.default_rng([self.seed, number])
        free_s, latencies_ms = 0.0, []
        for at_s in arrivals(per_second, self.seconds, 100 * self.seed + number):
            free_s = max(free_s, at_s) + float(random.exponential(1 / self.per_second))
            latencies_ms.append(1000 * (free_s - at_s))
        return Probe(per_second, *percentiles(latencies_ms), len(latencies_ms))

    def good_rate(self, goal_ms: float) -> float:
        """At which exp(-(mu - lambda) t) is a hundredth."""
        return self.per_second - math.log(100) / (goal_ms / 1000)


@dataclass
class Steep:
    """Good up to a rate, and never beyond."""

    good: float
    most: float
    offered: list[float] = field(default_factory=list)

    def capacity(self) -> float:
        return self.most

    def offer(self, per_second: float, number: int) -> Probe:
        self.offered.append(per_second)
        return Probe(per_second, 10.0, GOAL_MS / 2 if per_second <= self.good else 10 * GOAL_MS, 100)


@pytest.mark.parametrize("per_second", [60.0, 200.0])
def test_the_rate_of_a_queue_is_found_within_a_tenth(per_second: float) -> None:
    queue = Queue(per_second)
    found = [find_rate(Queue(per_second, seed), GOAL_MS).per_second for seed in range(5)]
    assert statistics.median(found) == pytest.approx(queue.good_rate(GOAL_MS), rel=0.1)


@dataclass
class Graph:
    """The whole graph in simulated time, on two cores."""

    shape: Shape
    seconds: float
    seed: int = 0

    def capacity(self) -> float:
        return closed_loop(self.shape, default_times(), 16, 4.0, seed=self.seed).per_second

    def offer(self, per_second: float, number: int) -> Probe:
        moments_s = arrivals(per_second, self.seconds, self.seed + number)
        found = open_loop(self.shape, default_times(), moments_s, seed=self.seed + number)
        return Probe(per_second, found.percentile_ms(50), found.percentile_ms(99), len(moments_s))


def test_the_rate_of_the_simulated_graph_is_found_within_a_tenth() -> None:
    """Beside what a long run of the same simulation says: good a tenth below, and no more a tenth above."""
    shape, goal_ms = Shape(classifiers=2, max_batch_size=4, shared_cores=2), 600.0
    rate = find_rate(Graph(shape, 12.0, seed=3), goal_ms).per_second
    long = Graph(shape, 60.0, seed=50)
    assert long.offer(0.9 * rate, 0).p99_ms <= goal_ms < long.offer(1.1 * rate, 0).p99_ms


@pytest.mark.parametrize("share", [0.3, 0.5, 0.75, 0.9, 1.0])
def test_a_sharp_edge_is_found_from_below_in_a_few_probes(share: float) -> None:
    service = Steep(100 * share, 100)
    found = find_rate(service, GOAL_MS)
    assert 0.9 * service.good <= found.per_second <= service.good
    assert len(service.offered) <= MOST_PROBES
    assert found.at_the_rate is not None


def test_what_is_known_already_is_where_the_search_begins() -> None:
    service = Steep(82, 100)
    assert find_rate(service, GOAL_MS, expected=80, most_probes=3).per_second == pytest.approx(82, rel=0.1)
    assert service.offered[0] == 80


def test_a_service_that_is_never_good_has_no_rate_and_tells_what_was_tried() -> None:
    found = find_rate(Steep(0, 100), GOAL_MS)
    assert (found.per_second, found.at_the_rate) == (0, None)
    assert len(found.probes) == MOST_PROBES
    assert min(probe.per_second for probe in found.probes) < 20


def test_what_cannot_do_the_rate_to_beat_is_offered_nothing() -> None:
    service = Steep(40, 50)
    assert find_rate(service, GOAL_MS, to_beat=60) == Found(0.0, 50, [], is_beaten=True)
    assert service.offered == []


def test_what_is_not_good_at_the_rate_to_beat_is_left_after_one_probe() -> None:
    service = Steep(59, 100)
    found = find_rate(service, GOAL_MS, to_beat=60)
    assert (found.is_beaten, service.offered) == (True, [60])


def test_what_is_better_is_measured_to_the_end() -> None:
    found = find_rate(Steep(80, 100), GOAL_MS, to_beat=60)
    assert not found.is_beaten
    assert found.per_second == pytest.approx(80, rel=0.1)


def test_a_service_that_answers_nothing_has_no_rate() -> None:
    assert find_rate(Steep(0, 0), GOAL_MS).per_second == 0


def test_found_rates_come_back_from_their_records_as_they_were() -> None:
    found = Found(1.0, 2.0, [Probe(1.0, 5.0, 9.0, 10), Probe(2.0, 7.0, float("inf"), 10, failed=1)])
    assert Found.from_record(found.record()) == found
    assert found.record()["probes"][1]["p99_ms"] is None
