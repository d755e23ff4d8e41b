"""The last minute, second by second, by a clock in the hand: what falls into it, what has left it, and sums."""

from collections import Counter

import pytest

from deployments.recent import (
    KEPT_S,
    LATENCIES,
    MINUTE_S,
    MinuteOfRequests,
    RecentBatches,
    RecentRequests,
    Second,
    summed_minute,
)

NOW = 1_700_000_000


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def counted(*requests: tuple[float, float, bool]) -> RecentRequests:
    """Each: when it ended, seconds, whether it failed."""
    clock = Clock()
    recent = RecentRequests(clock)
    for clock.now, latency_s, failed in requests:
        recent.add(latency_s, failed=failed)
    return recent


def of_seconds(minute: MinuteOfRequests) -> dict[int, tuple[int, int]]:
    """Requests and failures by how many seconds before the end they were, where there were any."""
    return {
        MINUTE_S - place: (second.requests, second.failed)
        for place, second in enumerate(minute.seconds)
        if second != Second()
    }


def test_requests_stand_in_the_second_in_which_they_ended() -> None:
    recent = counted((NOW + 0.1, 0.01, False), (NOW + 0.9, 0.01, True), (NOW + 2.5, 0.01, False))
    assert of_seconds(recent.minute_before(NOW + 3)) == {3: (2, 1), 1: (1, 0)}


def test_the_second_that_is_not_over_is_not_told_of() -> None:
    recent = counted((NOW + 0.5, 0.01, False))
    assert of_seconds(recent.minute_before(NOW)) == {}
    assert of_seconds(recent.minute_before(NOW + 1)) == {1: (1, 0)}


def test_what_is_older_than_a_minute_is_gone_though_nothing_came_after_it() -> None:
    recent = counted((NOW, 0.01, False))
    assert of_seconds(recent.minute_before(NOW + MINUTE_S)) == {MINUTE_S: (1, 0)}
    for later in (MINUTE_S + 1, KEPT_S, KEPT_S + 1, 2 * KEPT_S, 1_000_000):
        minute = recent.minute_before(NOW + later)
        assert (of_seconds(minute), minute.latencies.count) == ({}, 0)


def test_a_second_that_takes_an_older_ones_place_begins_with_nothing() -> None:
    recent = counted(*[(NOW + second, 0.01, False) for second in range(3 * KEPT_S)])
    minute = recent.minute_before(NOW + 3 * KEPT_S)
    assert minute.seconds == [Second(1, 0)] * MINUTE_S
    assert minute.latencies.count == MINUTE_S


def test_latencies_are_those_of_what_did_not_fail() -> None:
    recent = counted(*[(NOW, 0.02, False)] * 98, (NOW, 0.5, False), (NOW, 0.5, False), *[(NOW, 9.0, True)] * 100)
    latencies = recent.minute_before(NOW + 1).latencies
    assert latencies.count == 100
    assert latencies.quantile(0.5) == pytest.approx(0.02, rel=LATENCIES.relative_error)
    assert latencies.quantile(0.99) == pytest.approx(0.5, rel=LATENCIES.relative_error)


def test_a_clock_that_steps_back_counts_on() -> None:
    recent = counted((NOW + 10, 0.01, False), (NOW + 2, -1.0, False))
    assert of_seconds(recent.minute_before(NOW + 3)) == {1: (1, 0)}


def test_the_minute_of_all_replicas_is_their_sum_second_by_second() -> None:
    replicas = [counted((NOW, 0.1, False), (NOW + 1, 0.1, True)), counted((NOW + 1, 0.1, False))]
    minute = summed_minute([replica.minute_before(NOW + 2) for replica in replicas])
    assert of_seconds(minute) == {2: (1, 0), 1: (2, 1)}
    assert minute.latencies.count == 2


def test_the_minute_of_no_replica_is_empty() -> None:
    assert summed_minute([]).seconds == [Second()] * MINUTE_S


def test_batches_are_counted_by_size_for_a_minute() -> None:
    clock = Clock()
    recent = RecentBatches(clock)
    for clock.now, size in ((NOW, 8), (NOW + 1, 1), (NOW + 1, 8)):
        recent.add(size, 0.01)
    assert recent.minute_before(NOW + 2) == Counter({8: 2, 1: 1})
    assert recent.minute_before(NOW + MINUTE_S + 1) == Counter({8: 1, 1: 1})
    assert recent.minute_before(NOW + MINUTE_S + 2) == Counter()
