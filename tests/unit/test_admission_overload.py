"""Admission under more load than can be answered, on a simulated clock: what is let in is answered in time, and little
capacity is left unused."""

import pytest

from tests.unit.queueing import Outcomes, Service, Simulation

TIMEOUT_S = 1.0
SECONDS = 25.0
# What happens before is the start.
WARM_S = 5.0

SERVICES = {
    "quick images": Service(decode_s=0.005, batch_s=0.005, image_s=0.005),
    "two slow replicas": Service(decode_s=0.006, batch_s=0.005, image_s=0.065, runners=2),
    "one slow replica": Service(decode_s=0.006, batch_s=0.005, image_s=0.035),
    "decoding is the bottleneck": Service(decode_s=0.05, batch_s=0.005, image_s=0.005, decoders=2),
    "large batches": Service(decode_s=0.02, batch_s=0.04, image_s=0.004, decoders=4, max_batch_size=16),
}
cases = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


def overloaded(service: Service, times: float, seed: int = 1) -> Outcomes:
    return Simulation(service, lambda now: times * service.per_s, timeout_s=TIMEOUT_S, seed=seed).run(SECONDS)


@cases
def test_below_capacity_hardly_anything_is_refused(service: Service) -> None:
    outcomes = overloaded(service, 0.6)
    offered = 0.6 * service.per_s
    assert outcomes.per_s("answered", WARM_S, SECONDS) > 0.9 * offered
    assert outcomes.per_s("refused", WARM_S, SECONDS) < 0.01 * offered


@cases
@pytest.mark.parametrize("times", [2, 4])
def test_goodput_stays_near_capacity_and_what_is_let_in_is_in_time(service: Service, times: float) -> None:
    outcomes = overloaded(service, times)
    assert outcomes.per_s("answered", WARM_S, SECONDS) > 0.9 * service.per_s
    assert outcomes.per_s("late", WARM_S, SECONDS) < 0.01 * service.per_s
    assert outcomes.latency(0.99, WARM_S) < TIMEOUT_S


@cases
def test_at_capacity_most_is_answered(service: Service) -> None:
    """Chance alone leaves gaps that nothing can fill later, and finds the service out in the midst of its best."""
    outcomes = overloaded(service, 1)
    assert outcomes.per_s("answered", WARM_S, SECONDS) > 0.8 * service.per_s
    assert outcomes.per_s("late", WARM_S, SECONDS) < 0.05 * service.per_s


@cases
def test_overload_from_the_first_moment_on_is_known_within_a_second(service: Service) -> None:
    outcomes = Simulation(service, lambda now: 4 * service.per_s, seed=2).run(8.0)
    assert outcomes.per_s("late", 1.5, 8.0) < 0.02 * service.per_s
    assert outcomes.per_s("answered", 1.5, 8.0) > 0.85 * service.per_s


@cases
def test_after_a_light_load_an_overload_is_answered_at_the_full_rate(service: Service) -> None:
    """A light load shows far less than what the service can do."""
    simulation = Simulation(service, lambda now: (0.2 if now < 20 else 3) * service.per_s, seed=3)
    outcomes = simulation.run(30.0)
    assert outcomes.per_s("answered", 21.0, 30.0) > 0.9 * service.per_s


@pytest.mark.parametrize("speed", [0.5, 2.0], ids=["slower", "faster"])
@cases
def test_a_service_that_changes_its_speed_is_followed_within_seconds(service: Service, speed: float) -> None:
    simulation = Simulation(
        service, lambda now: 4 * service.per_s, seed=4, speed=lambda now: 1.0 if now < 10 else speed
    )
    outcomes = simulation.run(25.0)
    assert outcomes.per_s("answered", 14.0, 25.0) > 0.8 * speed * service.per_s
    assert outcomes.per_s("late", 14.0, 25.0) < 0.05 * speed * service.per_s


def test_a_lost_replica_is_noticed_within_seconds() -> None:
    service = SERVICES["two slow replicas"]
    simulation = Simulation(service, lambda now: 2 * service.per_s, seed=5, runners=lambda now: 2 if now < 10 else 1)
    outcomes = simulation.run(25.0)
    assert outcomes.per_s("late", 13.0, 25.0) < 0.05 * service.per_s / 2
    assert outcomes.per_s("answered", 13.0, 25.0) > 0.8 * service.per_s / 2


def test_when_all_replicas_are_lost_and_come_back_the_service_comes_back() -> None:
    service = SERVICES["two slow replicas"]
    simulation = Simulation(
        service, lambda now: 2 * service.per_s, seed=6, runners=lambda now: 0 if 10 < now < 15 else 2
    )
    outcomes = simulation.run(25.0)
    # While nothing is answered, next to nothing is let in.
    assert outcomes.per_s("late", 12.0, 15.0) < 5
    assert outcomes.per_s("answered", 18.0, 25.0) > 0.85 * service.per_s


def test_who_is_refused_is_told_to_wait_for_about_as_long_as_the_excess_takes() -> None:
    service = SERVICES["one slow replica"]
    outcomes = overloaded(service, 2)
    assert 0 < max(outcomes.retry_after) < 5


def test_a_long_timeout_lets_more_in_than_a_short_one() -> None:
    service = SERVICES["one slow replica"]

    def median(timeout_s: float) -> float:
        simulation = Simulation(service, lambda now: 4 * service.per_s, timeout_s=timeout_s, seed=7)
        return simulation.run(20.0).latency(0.5, WARM_S)

    assert 2 < median(6.0) / median(1.0) < 9
