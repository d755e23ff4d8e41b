"""Histograms: quantiles within their stated error, and sums and differences that are exact."""

import pickle
import random

import pytest

from deployments.histograms import Histogram, Scale

SCALE = Scale(lowest=1e-4, decades=6, per_decade=40)


def filled(values: list[float]) -> Histogram:
    histogram = Histogram(SCALE)
    for value in values:
        histogram.add(value)
    return histogram


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_quantile_is_off_by_one_bucket_at_most(share: float, seed: int) -> None:
    draw = random.Random(seed)
    values = sorted(draw.lognormvariate(-4, 1.5) for _ in range(3000))
    true = values[min(len(values) - 1, int(share * len(values)))]
    below = values[max(0, int(share * len(values)) - 1)]
    found = filled(values).quantile(share)
    assert below / (1 + SCALE.relative_error) <= found <= true * (1 + SCALE.relative_error)


def test_an_empty_histogram_answers_with_zeros() -> None:
    empty = Histogram(SCALE)
    assert (empty.count, empty.mean, empty.quantile(0.99), empty.above(0.0), list(empty.buckets())) == (0, 0, 0, 0, [])


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e-4, 0.5, 100.0, 1e9])
def test_no_quantile_is_above_the_greatest_value(value: float) -> None:
    histogram = filled([value] * 3)
    assert histogram.quantile(1.0) <= value
    assert histogram.greatest == value


def test_values_beyond_the_scale_are_counted() -> None:
    histogram = filled([0.0, 5000.0])
    assert (histogram.count, histogram.mean, histogram.quantile(1.0)) == (2, 2500.0, 5000.0)


def test_two_merged_histograms_are_the_one_of_all_values() -> None:
    draw = random.Random(1)
    values = [float(draw.randrange(1, 1000)) / 64 for _ in range(500)]  # Sums of these are exact.
    merged = filled(values[:200])
    merged.merge(filled(values[200:]))
    assert merged == filled(values)


def test_what_came_since_is_what_was_added() -> None:
    histogram = filled([0.25] * 10)
    earlier = pickle.loads(pickle.dumps(histogram))
    for _ in range(4):
        histogram.add(2.0)
    assert histogram.since(earlier) == filled([2.0] * 4)


def test_what_came_since_is_never_negative_when_a_replica_has_ended() -> None:
    since = filled([0.5]).since(filled([0.5] * 7 + [3.0]))
    assert (since.count, since.total) == (0, 0.0)


def test_only_what_is_certainly_above_a_threshold_is_counted() -> None:
    histogram = filled([0.1] * 5 + [0.3] * 3)
    assert histogram.above(0.1) == 3
    assert histogram.above(0.2) == 3
    assert histogram.above(0.3) == 0
    assert histogram.above(0.299) == 0  # The same bucket as 0.3, so not certain.


def test_buckets_hold_their_values() -> None:
    values = [0.00001, 0.01, 0.02, 700.0]
    buckets = list(filled(values).buckets())
    assert [count for _, _, count in buckets] == [1, 1, 1, 1]
    assert all(low <= value <= high for (low, high, _), value in zip(buckets, values, strict=True))


def test_its_size_does_not_grow_with_what_it_counts() -> None:
    few, many = filled([0.01] * 2), filled([0.01 * (1 + step % 50) for step in range(20_000)])
    assert len(pickle.dumps(many)) < len(pickle.dumps(few)) + 200
