"""Surges, losses and Serve's autoscaler in simulated time."""

import numpy as np
import pytest

from benchmarks.simulation import arrivals, scenarios
from benchmarks.simulation.autoscaler import Autoscaler, Scaling
from benchmarks.simulation.calibration import default_times
from benchmarks.simulation.runs import Recorder, feed
from benchmarks.simulation.service import Service
from benchmarks.simulation.shape import CLASSIFIER, PREPROCESSOR, Shape
from benchmarks.simulation.timeline import Timeline

SHAPE = Shape(classifiers=3, calls_a_replica=2)
SCALING = Scaling(4.0, min_replicas=1, max_replicas=6, downscale_delay_s=20.0, start_up_s=3.0)


def replicas_by_second(rates: list[tuple[float, float]], shape: Shape, scaling: Scaling) -> list[int]:
    """Of classifiers, with `rates` as (end in seconds, images a second)."""
    timeline = Timeline()
    service = Service(timeline, shape, default_times())
    feed(service, Recorder(timeline), arrivals.piecewise(rates, 1), 1, 1)
    Autoscaler(service, CLASSIFIER, scaling, shape.classifiers)
    counts = []
    for second in range(int(rates[-1][0])):
        timeline.run(second + 1.0)
        counts.append(len(service.routers[CLASSIFIER].replicas))
    return counts


def test_a_step_is_answered_after_the_delays_and_taken_back_after_theirs() -> None:
    counts = replicas_by_second([(20, 2.0), (50, 60.0), (110, 2.0)], Shape(classifiers=1), SCALING)
    first_more = next(second for second, count in enumerate(counts) if count > 1)
    # The mean over the look-back must exceed the target, for 5 s, and a replica takes 3 s to start.
    assert 20 + 5 + 3 <= first_more <= 20 + 10 + 5 + 3 + 2 * 2
    assert max(counts) > 3
    assert counts[-1] == 1
    first_fewer = next(second for second in range(50, 110) if counts[second] < counts[second - 1])
    assert first_fewer >= 50 + 20


def test_steady_load_never_changes_the_count() -> None:
    counts = replicas_by_second([(120, 30.0)], SHAPE, Scaling(4.0, min_replicas=2, max_replicas=6))
    assert len(set(counts[10:])) == 1


def test_the_autoscaler_stays_within_its_bounds() -> None:
    counts = replicas_by_second([(40, 300.0)], Shape(classifiers=1), SCALING)
    assert max(counts) == SCALING.max_replicas


def test_a_replica_that_dies_loses_what_it_had_and_nothing_else() -> None:
    event = scenarios.loss(SHAPE, default_times(), 45.0, CLASSIFIER, 1, 5.0, seed=1)
    died_s = int(event.begins_s)
    assert 1 <= event.failed <= 16  # At most two calls of some images each.
    assert event.replicas[CLASSIFIER][died_s - 1] == 3
    assert event.replicas[CLASSIFIER][died_s + 1] == 2
    assert event.replicas[CLASSIFIER][-1] == 3
    assert np.isfinite(event.p99_ms).all()
    assert event.worst_p99_ms() >= np.nanmax(event.p99_ms[died_s:])


@pytest.mark.parametrize("deployment", [PREPROCESSOR, CLASSIFIER])
def test_without_any_replica_images_wait_for_the_next_one(deployment: str) -> None:
    shape = Shape(classifiers=1, calls_a_replica=2)
    event = scenarios.loss(shape, default_times(), 5.0, deployment, 1, 4.0, seed=2)
    died_s = int(event.begins_s)
    assert event.replicas[deployment][died_s + 1] == 0
    assert event.failed <= 4
    # Whoever came right after it died waited for nearly all of the four seconds.
    assert 3000 <= event.worst_p99_ms() <= 6000
    assert event.p99_ms[-1] < 1000
    assert 3 <= event.seconds_above(500) <= 10


def test_a_surge_is_shown_with_the_replicas_that_it_brings() -> None:
    event = scenarios.surge(SHAPE, default_times(), 25.0, 3.0, 5.0, seed=3)
    begins_s = int(event.begins_s)
    assert event.requests[begins_s + 1 : begins_s + 50].mean() == pytest.approx(75, rel=0.1)
    assert event.requests[:begins_s].mean() == pytest.approx(25, rel=0.15)
    assert event.replicas[CLASSIFIER].max() > 3
    assert event.failed == 0
