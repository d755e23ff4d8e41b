"""The simulation's parts against what queueing theory says of them, at a fixed seed."""

import random
from collections.abc import Callable
from math import factorial

import pytest

from benchmarks.simulation.cores import COLD_AFTER_S, Cores, Device, Processor, Station
from benchmarks.simulation.timeline import Timeline

JOBS = 24_000
SERVICE_S = 0.01


def exponential(chance: random.Random) -> float:
    return chance.expovariate(1 / SERVICE_S)


def constant(_: random.Random) -> float:
    return SERVICE_S


def mean_times(
    run: Callable[[float, Callable[[], object]], object],
    timeline: Timeline,
    load: float,
    work_s: Callable[[random.Random], float],
) -> tuple[float, float, float]:
    """Mean time in the system, mean number in it over time, and arrivals a second, of Poisson arrivals at `load` jobs
    for each SERVICE_S."""
    arrivals, work = random.Random(7), random.Random(8)
    rate = load / SERVICE_S
    spent_s, inside, integral, seen_s = 0.0, 0, 0.0, 0.0

    def count(change: int) -> None:
        nonlocal inside, integral, seen_s
        integral += inside * (timeline.now - seen_s)
        seen_s, inside = timeline.now, inside + change

    def arrive(left: int) -> None:
        begun_s = timeline.now
        count(+1)

        def done() -> None:
            nonlocal spent_s
            spent_s += timeline.now - begun_s
            count(-1)

        run(work_s(work), done)
        if left > 1:
            timeline.after(arrivals.expovariate(rate), arrive, left - 1)

    timeline.after(0.0, arrive, JOBS)
    timeline.run()
    return spent_s / JOBS, integral / timeline.now, JOBS / timeline.now


def waits_of_a_station(servers: int, load: float, work_s: Callable[[random.Random], float]) -> tuple[float, Station]:
    timeline = Timeline()
    station = Station(timeline, Device(timeline), servers)
    spent_s, _, _ = mean_times(station.run, timeline, load, work_s)
    return spent_s - SERVICE_S, station


def erlang_c(servers: int, load: float) -> float:
    """The probability that a job waits, in M/M/c at `load` Erlangs."""
    last = load**servers / factorial(servers) * servers / (servers - load)
    return last / (sum(load**n / factorial(n) for n in range(servers)) + last)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_server_with_exponential_work_waits_as_mm1(load: float) -> None:
    waited_s, _ = waits_of_a_station(1, load, exponential)
    assert waited_s == pytest.approx(SERVICE_S * load / (1 - load), rel=0.06)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_server_with_constant_work_waits_half_as_long_as_md1(load: float) -> None:
    waited_s, _ = waits_of_a_station(1, load, constant)
    assert waited_s == pytest.approx(SERVICE_S * load / (2 * (1 - load)), rel=0.05)


@pytest.mark.parametrize(("servers", "load"), [(2, 1.4), (4, 3.2)])
def test_several_servers_wait_as_mmc(servers: int, load: float) -> None:
    waited_s, _ = waits_of_a_station(servers, load, exponential)
    assert waited_s == pytest.approx(erlang_c(servers, load) * SERVICE_S / (servers - load), rel=0.08)


def test_a_station_is_occupied_for_as_long_as_its_work_takes() -> None:
    timeline = Timeline()
    station = Station(timeline, Device(timeline), 2)
    mean_times(station.run, timeline, 1.2, constant)
    assert station.occupied_s == pytest.approx(JOBS * SERVICE_S)
    assert station.occupied_s / timeline.now == pytest.approx(1.2, rel=0.02)  # The utilisation law.


@pytest.mark.parametrize("make", [lambda t: Device(t), lambda t: Cores(t, 2)], ids=["device", "cores"])
def test_littles_law_holds(make: Callable[[Timeline], Processor]) -> None:
    timeline = Timeline()
    station = Station(timeline, make(timeline), 2)
    spent_s, inside, per_second = mean_times(station.run, timeline, 1.5, exponential)
    assert inside == pytest.approx(per_second * spent_s, rel=1e-6)


@pytest.mark.parametrize("work_s", [constant, exponential])
def test_one_shared_core_is_processor_sharing_whatever_the_works_distribution(
    work_s: Callable[[random.Random], float],
) -> None:
    timeline = Timeline()
    cores = Cores(timeline, 1)
    spent_s, _, _ = mean_times(cores.run, timeline, 0.7, work_s)
    assert spent_s == pytest.approx(SERVICE_S / (1 - 0.7), rel=0.06)
    # Nothing is lost and nothing is done twice.
    assert cores.busy_s / timeline.now == pytest.approx(0.7, rel=0.02)


def test_two_shared_cores_are_mm2_in_the_mean() -> None:
    timeline = Timeline()
    spent_s, _, _ = mean_times(Cores(timeline, 2).run, timeline, 1.4, exponential)
    # With exponential work the number in the system is that of M/M/2, whoever is served.
    assert spent_s == pytest.approx(SERVICE_S + erlang_c(2, 1.4) * SERVICE_S / 0.6, rel=0.06)


def ends_of(cores: Cores, timeline: Timeline, jobs: list[tuple[float, int]]) -> list[float]:
    ends: list[float] = []
    for work_s, threads in jobs:
        cores.run(work_s, lambda: ends.append(timeline.now), threads)
    timeline.run()
    return ends


def test_three_threads_on_two_cores_get_two_thirds_of_a_core_each() -> None:
    timeline = Timeline()
    # The first ends after 1.5 s; then each of the other two has a core of its own.
    assert ends_of(Cores(timeline, 2), timeline, [(1.0, 1), (2.0, 1), (2.0, 1)]) == pytest.approx([1.5, 2.5, 2.5])


def test_a_job_of_two_threads_counts_twice() -> None:
    timeline = Timeline()
    assert ends_of(Cores(timeline, 2), timeline, [(1.0, 2), (1.0, 1)]) == pytest.approx([1.5, 1.5])


def test_busy_neighbours_slow_work_down() -> None:
    timeline = Timeline()
    assert ends_of(Cores(timeline, 2, slowdown=1.25), timeline, [(1.0, 1), (1.0, 1)]) == pytest.approx([1.25, 1.25])
    timeline = Timeline()
    assert ends_of(Cores(timeline, 2, slowdown=1.25), timeline, [(1.0, 1)]) == pytest.approx([1.0])


def test_a_process_that_slept_costs_a_wake_up_and_one_that_did_not_costs_none() -> None:
    timeline = Timeline()
    station = Station(timeline, Device(timeline), wake_s=0.001, cold_s=0.01)
    ends: list[float] = []
    for at_s in (0.0, 0.0, 0.1, 0.1 + COLD_AFTER_S / 2):
        timeline.at(at_s, station.run, 0.002, lambda: ends.append(timeline.now))
    timeline.run()
    # Cold, right behind the other, after 85 ms of sleep, and 13 ms later while the last one still runs.
    assert ends == pytest.approx([0.013, 0.015, 0.113, 0.115])
    timeline.run()
    timeline.at(timeline.now + COLD_AFTER_S / 2, station.run, 0.002, lambda: ends.append(timeline.now))
    timeline.run()
    assert ends[-1] == pytest.approx(0.115 + COLD_AFTER_S / 2 + 0.003)
    assert station.wake_ups == 3
