"""Which replica gets the next call, by how long calls have taken: two of them by the clock of the test."""

import heapq
import random

import pytest

from deployments.routing import MEMORY_S, Paces


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def shares_of_slow(call_s: dict[str, float], in_flight: int, calls: int, seed: int = 1) -> list[int]:
    """The numbers of the calls that "slow" gets, so many always in flight, and each replica with one at a time."""
    clock, rng = Clock(), random.Random(seed)
    paces = Paces(clock)
    free_at = dict.fromkeys(call_s, clock.now)
    returning: list[tuple[float, str]] = []
    slow = []
    for number in range(calls):
        if len(returning) == in_flight:
            clock.now, replica = heapq.heappop(returning)
            paces.returned(replica)
        candidates = rng.sample(sorted(call_s), k=2)
        replica = min(candidates, key=paces.expected_s)
        paces.sent(replica)
        free_at[replica] = max(clock.now, free_at[replica]) + call_s[replica] * rng.uniform(0.8, 1.2)
        heapq.heappush(returning, (free_at[replica], replica))
        if replica == "slow":
            slow.append(number)
    return slow


@pytest.mark.parametrize("in_flight", [1, 2, 4, 6])
def test_a_replica_that_takes_ten_times_as_long_gets_hardly_a_call(in_flight: int) -> None:
    slow = shares_of_slow({"fast": 0.02, "slow": 0.2}, in_flight, calls=2000)
    assert slow  # It is tried, and tried again later, since it may have recovered.
    assert len(slow) <= 0.01 * 2000


def test_equal_replicas_share_calls_equally() -> None:
    slow = shares_of_slow({"other": 0.02, "slow": 0.02}, in_flight=4, calls=2000)
    assert 0.45 * 2000 < len(slow) < 0.55 * 2000


def test_a_replica_that_hangs_gets_no_more_calls_though_none_comes_back() -> None:
    slow = shares_of_slow({"fast": 0.02, "slow": 1e9}, in_flight=4, calls=400)
    assert len(slow) <= 2  # Before anything is known of either.


def test_what_a_replica_does_beside_its_batches_does_not_make_it_slow() -> None:
    clock = Clock()
    paces = Paces(clock)
    for replica in ("idle", "explains"):
        paces.sent(replica)
        clock.now += 0.02
        paces.returned(replica)
    paces.sent("explains")
    paces.disregard("explains")
    clock.now += 30.0
    assert paces.expected_s("explains") == pytest.approx(paces.expected_s("idle"), rel=0.01)


def test_a_replica_that_was_slow_is_tried_again_after_a_while() -> None:
    clock = Clock()
    paces = Paces(clock)
    for replica, call_s in (("fast", 0.02), ("slow", 0.2)):
        paces.sent(replica)
        clock.now += call_s
        paces.returned(replica)
    assert paces.expected_s("slow") > 4 * paces.expected_s("fast")
    for _ in range(50):  # The other one goes on.
        paces.sent("fast")
        clock.now += 0.02
        paces.returned("fast")
        clock.now += MEMORY_S / 10
    assert paces.expected_s("slow") < 2 * paces.expected_s("fast")


def test_a_replica_of_which_nothing_is_known_is_taken_to_be_as_fast_as_the_fastest() -> None:
    clock = Clock()
    paces = Paces(clock)
    paces.sent("busy")
    clock.now += 0.02
    paces.returned("busy")
    paces.sent("busy")
    assert paces.expected_s("new") < paces.expected_s("busy")
    paces.forget("busy")
    assert paces.expected_s("busy") == paces.expected_s("new")
