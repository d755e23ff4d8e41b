"""Metrics of versions and candidates: each image is counted once, however often they are exported."""

from collections import Counter
from typing import Any

import pytest

from deployments import trial_metrics
from deployments.comparison import Comparisons, Trial
from deployments.trial_metrics import TrialMetrics
from tests.unit.answers import answer_of, info_of

TRIAL = Trial("settings", 1, 2, "shadow")


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Counter[Any]:
    """What counters would show, and gauges under their names."""
    shown: Counter[Any] = Counter()

    def count(model: str, version: int, outcome: str, images: int) -> None:
        assert images > 0  # Ray refuses 0.
        shown[version, outcome] += images

    def set_(model: str, version: int, name: Any, value: float) -> None:
        shown[version, name] = value  # type: ignore[assignment]

    for name in ("count_of_version", "count_mirrored"):
        monkeypatch.setattr(trial_metrics, name, count)
    for name in ("set_latency", "set_difference"):
        monkeypatch.setattr(trial_metrics, name, set_)
    return shown


def test_each_image_is_counted_once(exported: Counter[Any]) -> None:
    counted, metrics = Comparisons(), TrialMetrics("pets")
    for _ in range(3):
        for _ in range(5):
            counted.answered(1, 0.01, TRIAL)
        counted.failed(2, TRIAL)
        counted.of(TRIAL).add(answer_of(info_of(1), 0.7, 0.2, 0.1), answer_of(info_of(2), 0.6, 0.3, 0.1))
        counted.of(TRIAL).add(answer_of(info_of(1), 0.7, 0.2, 0.1), answer_of(info_of(2), 0.2, 0.7, 0.1))
        counted.of(TRIAL).skip("busy", 2)
        metrics.export(counted)
        metrics.export(counted)
    assert {
        key: exported[key] for key in [(1, "answered"), (2, "failed"), (2, "agreed"), (2, "disagreed"), (2, "busy")]
    } == {
        (1, "answered"): 15,
        (2, "failed"): 3,
        (2, "agreed"): 3,
        (2, "disagreed"): 3,
        (2, "busy"): 6,
    }
    assert exported[1, 0.99] == pytest.approx(0.01, rel=0.06)
    assert exported[2, "greatest"] == pytest.approx(0.5, abs=1e-6)
    assert exported[2, "mean"] == pytest.approx(0.3, abs=1e-6)


def test_latency_is_that_of_lately_where_enough_came(exported: Counter[Any]) -> None:
    counted, metrics = Comparisons(), TrialMetrics("pets")
    for latency_s in (0.01, 0.1):
        for _ in range(1000):
            counted.answered(1, latency_s, None)
        metrics.export(counted)
    assert exported[1, 0.5] == pytest.approx(0.1, rel=0.06)
    counted.answered(1, 5.0, None)
    metrics.export(counted)
    assert exported[1, 0.5] < 0.2
