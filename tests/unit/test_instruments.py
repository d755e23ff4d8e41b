"""Counters, gauges and histograms of one process: sums are right, series are bounded, and Ray gets what has changed."""

import threading
from collections.abc import Callable, Iterator

import pytest

from deployments import instruments
from deployments.instruments import MAX_SERIES, OTHER, Counter, Gauge, Histogram, Instrument, Sample


@pytest.fixture(autouse=True)
def _only_those_of_the_test() -> Iterator[None]:
    before = list(instruments._instruments)
    yield
    instruments._instruments[:] = before


def values_of(instrument: Instrument) -> dict[tuple[str, ...], float]:
    return {(sample.name, *sample.labels.values()): sample.value for sample in instrument.samples()}


def test_a_counter_adds_up_by_labels() -> None:
    counter = Counter("test_images", "Images.", "place", "reason")
    counter.add(2, "ingress", "expired")
    counter.add(1, "ingress", "abandoned")
    counter.add(0.5, "ingress", "expired")
    assert list(counter.samples()) == [
        Sample("test_images", {"place": "ingress", "reason": "expired"}, 2.5),
        Sample("test_images", {"place": "ingress", "reason": "abandoned"}, 1),
    ]


def test_a_gauge_has_the_last_value() -> None:
    gauge = Gauge("test_bytes", "Bytes.", "model")
    gauge.set(5, "shapes")
    gauge.set(3, "shapes")
    assert values_of(gauge) == {("test_bytes", "shapes"): 3}


def test_a_histogram_has_cumulative_buckets_an_exact_sum_and_a_count() -> None:
    histogram = Histogram("test_seconds", "Durations.", (0.1, 1.0), "stage")
    for value in (0.1, 0.2, 0.30000001, 5.0):
        histogram.observe(value, "queue")
    assert values_of(histogram) == {
        ("test_seconds_bucket", "queue", "0.1"): 1,
        ("test_seconds_bucket", "queue", "1"): 3,
        ("test_seconds_bucket", "queue", "+Inf"): 4,
        ("test_seconds_sum", "queue"): pytest.approx(5.60000001),
        ("test_seconds_count", "queue"): 4,
    }


@pytest.mark.parametrize("kind", ["counter", "gauge", "histogram"])
def test_beyond_the_bound_everything_is_other(kind: str) -> None:
    instrument: Instrument
    record: Callable[..., None]
    if kind == "histogram":
        instrument = histogram = Histogram("test_many_seconds", "Durations.", (1.0,), "model", "code")
        record = histogram.observe
    else:
        instrument = plain = (Counter if kind == "counter" else Gauge)("test_many", "Many.", "model", "code")
        record = plain.add if isinstance(plain, Counter) else plain.set
    for number in range(3 * MAX_SERIES):
        record(1, f"model-{number}", "x" * number)
    series = {tuple(sample.labels[name] for name in ("model", "code")) for sample in instrument.samples()}
    assert len(series) == MAX_SERIES + 1
    assert (OTHER, OTHER) in series


def test_labels_that_are_missing_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="test_wrong"):
        Counter("test_wrong", "Wrong.", "model").add(1)


def test_threads_lose_no_count() -> None:
    counter, histogram = Counter("test_threads", "T.", "a"), Histogram("test_threads_seconds", "T.", (1.0,), "a")

    def count() -> None:
        for _ in range(20_000):
            counter.add(1, "x")
            histogram.observe(0.5, "x")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values_of(counter)["test_threads", "x"] == 80_000
    assert values_of(histogram)["test_threads_seconds_count", "x"] == 80_000


# What Ray gets


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, dict[str, str], float]]]:
    """Each value that goes to Ray's Cython classes, which cannot be asked for it without a cluster."""
    from ray.util import metrics as ray_metrics

    told: list[tuple[str, dict[str, str], float]] = []
    record = ray_metrics.Metric._record

    def recorded(self: ray_metrics.Metric, value: float, tags: dict[str, str] | None = None) -> None:
        told.append((self._name, dict(tags or {}), value))
        record(self, value, tags)

    monkeypatch.setattr(ray_metrics.Metric, "_record", recorded)
    # The thread that hands over by itself waits meanwhile.
    with instruments._handing_over:
        yield told


def test_a_counter_hands_over_what_came_since(handed: list[tuple[str, dict[str, str], float]]) -> None:
    counter = Counter("test_handed", "Handed over.", "place")
    counter.add(3, "ingress")
    counter.hand_over()
    counter.hand_over()
    counter.add(2, "ingress")
    counter.hand_over()
    assert handed == [("test_handed", {"place": "ingress"}, 3), ("test_handed", {"place": "ingress"}, 2)]


def test_a_histogram_hands_over_all_of_it_each_time(handed: list[tuple[str, dict[str, str], float]]) -> None:
    histogram = Histogram("test_handed_seconds", "Handed over.", (1.0, 2.0), "place")
    histogram.observe(0.5, "ingress")
    histogram.hand_over()
    assert {name: value for name, tags, value in handed if "le" not in tags} == {
        "test_handed_seconds_sum": 0.5,
        "test_handed_seconds_count": 1,
    }
    assert [tags["le"] for _, tags, _ in handed if "le" in tags] == ["1", "2", "+Inf"]
    handed.clear()
    histogram.observe(1.5, "ingress")
    for _ in range(2):
        histogram.hand_over()
    # Ray forgets a gauge that is not set again.
    assert [(tags["le"], value) for _, tags, value in handed if "le" in tags] == 2 * [("1", 1), ("2", 2), ("+Inf", 2)]


def test_a_gauge_hands_over_what_it_is(handed: list[tuple[str, dict[str, str], float]]) -> None:
    gauge = Gauge("test_handed_bytes", "Handed over.")
    gauge.set(1)
    gauge.set(7)
    gauge.hand_over()
    gauge.hand_over()
    assert handed == 2 * [("test_handed_bytes", {}, 7)]
