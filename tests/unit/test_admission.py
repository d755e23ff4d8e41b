"""What an admission lets in and refuses, and that everything in hand is given back however a request ends."""

import random
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from deployments.admission import READING_S, Admission, current_visit
from deployments.draining import RunTimes
from deployments.errors import DeadlineExceeded, Overloaded
from deployments.settings import Admission as Bounds

MEGABYTE = 2**20


def admission(**bounds: int) -> tuple[Admission, SimpleNamespace]:
    """With a clock that the test sets."""
    clock = SimpleNamespace(now=100.0)
    return Admission(Bounds(**bounds), ["model", "other"], clock=lambda: clock.now), clock


def teach(admitted: Admission, clock: SimpleNamespace, per_s: float, model: str = "model") -> None:
    """Ten images at once, answered one by one at that rate, while more come than can be answered."""
    with admitted.work(model, 1000.0, [0.0] * 10, 0) as places:
        for place in places:
            clock.now += 1 / per_s
            admitted._lines[model].rate.press(clock.now)
            place.end(answered=True)


def is_empty(admitted: Admission) -> bool:
    return (admitted.images, admitted.bytes, admitted.megapixels) == (0, 0, 0) and all(
        line.ahead == 0 for line in admitted._lines.values()
    )


def test_costs_that_differ_by_orders_leave_nothing_behind() -> None:
    admitted, clock = admission()
    with admitted.work("model", 30.0, [3.3, 1.8e13], 0) as (small, huge):
        huge.end()
        small.end()
    clock.now += 3600
    with admitted.work("model", 1.0, [0.0], 0):
        assert admitted._lines["model"].ahead == 1.0
    assert is_empty(admitted)


# The deadline rule


def test_what_the_queue_would_outlast_is_refused_with_when_to_come_again() -> None:
    admitted, clock = admission()
    teach(admitted, clock, per_s=10)
    with admitted.work("model", 100.0, [0.0] * 30, 0):
        with pytest.raises(Overloaded) as caught:
            admitted.enter("model", timeout_s=1.0)
        # About 3 s of work are ahead, and 0.6 s may be.
        assert caught.value.retry_after_s == pytest.approx(2.5, abs=0.5)
        with admitted.enter("model", timeout_s=10.0):
            pass


def test_without_any_measurement_only_the_bounds_hold() -> None:
    admitted, _ = admission(max_images=20)
    with (
        admitted.work("model", 0.1, [0.0] * 19, 0),
        admitted.enter("model", 0.1),
        admitted.work("model", 0.1, [0.0], 0),
        pytest.raises(Overloaded),
    ):
        admitted.work("model", 0.1, [0.0], 0)


def test_what_has_a_model_to_itself_is_let_in_whatever_the_rate_was() -> None:
    admitted, clock = admission()
    teach(admitted, clock, per_s=0.5)
    with admitted.work("model", 0.1, [0.0] * 64, 0), pytest.raises(Overloaded):
        admitted.work("model", 0.1, [0.0], 0)
    with admitted.work("model", 0.1, [0.0], 0):
        pass


def test_a_light_load_does_not_make_a_model_look_slower_than_it_was_under_a_heavy_one() -> None:
    admitted, clock = admission()
    teach(admitted, clock, per_s=100)
    for _ in range(100):  # One at a time, of which each takes a tenth of a second.
        with admitted.work("model", 1.0, [0.0], 0) as (place,):
            clock.now += 0.1
            place.end(answered=True)
    with admitted.work("model", 1.0, [0.0], 0), admitted.work("model", 1.0, [0.0] * 50, 0):
        pass


def test_each_model_has_a_rate_of_its_own() -> None:
    admitted, clock = admission()
    teach(admitted, clock, per_s=1, model="other")
    teach(admitted, clock, per_s=1000)
    with admitted.work("model", 1.0, [0.0] * 20, 0), admitted.work("other", 100.0, [0.0] * 20, 0):
        with admitted.enter("model", 1.0):
            pass
        with pytest.raises(Overloaded):
            admitted.enter("other", 1.0)


def test_64_images_of_one_request_count_64() -> None:
    admitted, clock = admission()
    teach(admitted, clock, per_s=50)
    with admitted.work("model", 1.0, [0.0], 0):
        with pytest.raises(Overloaded):
            admitted.work("model", 1.0, [0.0] * 64, 0)
        with admitted.work("model", 1.0, [0.0] * 10, 0):
            pass


def test_a_large_image_costs_as_much_as_many_small_ones() -> None:
    admitted, clock = admission()
    teach(admitted, clock, per_s=50)
    with admitted.work("model", 1.0, [0.0], 0):
        with pytest.raises(Overloaded):
            admitted.work("model", 1.0, [48.0], 0)
        with admitted.work("model", 1.0, [12.0], 0):
            pass


def test_when_nothing_is_answered_any_more_nothing_is_let_in_behind_it() -> None:
    admitted, clock = admission()
    teach(admitted, clock, per_s=1000)
    with admitted.work("model", 100.0, [0.0], 0):
        clock.now += 0.7
        with pytest.raises(Overloaded):
            admitted.enter("model", timeout_s=1.0)


def test_images_that_fail_at_once_do_not_make_the_model_look_fast() -> None:
    admitted, clock = admission()
    teach(admitted, clock, per_s=10)
    for _ in range(1000):
        with admitted.work("model", 1.0, [50.0], 0) as (place,):
            place.end()
        clock.now += 0.001
    with admitted.work("model", 100.0, [0.0] * 30, 0), pytest.raises(Overloaded):
        admitted.enter("model", timeout_s=1.0)


# The bounds


def test_bytes_that_do_not_fit_are_refused_before_they_come() -> None:
    admitted, _ = admission(max_bytes=10 * MEGABYTE)
    with admitted.enter("model", 10.0, 6 * MEGABYTE), pytest.raises(Overloaded):
        admitted.enter("model", 10.0, 5 * MEGABYTE)


@pytest.mark.parametrize("announced", [0, 50 * MEGABYTE])
def test_a_body_larger_than_the_bound_is_let_in_alone(announced: int) -> None:
    admitted, _ = admission(max_bytes=10 * MEGABYTE)
    with admitted.enter("model", 10.0, announced) as visit:
        assert all(visit.arrive(MEGABYTE) for _ in range(50))
        with pytest.raises(Overloaded):
            admitted.enter("model", 10.0, 1)


def test_bytes_that_nobody_announced_are_counted_as_they_come() -> None:
    admitted, _ = admission(max_bytes=10 * MEGABYTE)
    with admitted.enter("model", 10.0, 6 * MEGABYTE), admitted.enter("model", 10.0) as visit:
        assert [visit.arrive(MEGABYTE) for _ in range(5)] == [True] * 4 + [False]
        assert visit.refusal is not None
    assert is_empty(admitted)


def test_of_many_bodies_that_grow_together_as_many_come_through_as_fit() -> None:
    admitted, _ = admission(max_bytes=64 * MEGABYTE)
    with ExitStack() as ended:
        visits = [ended.enter_context(admitted.enter("model", 60.0)) for _ in range(60)]
        for _ in range(10):
            for visit in visits:
                if visit.refusal is None:
                    visit.arrive(MEGABYTE)
        assert sum(visit.refusal is None for visit in visits) == 6
    assert is_empty(admitted)


def test_megapixels_count_until_they_are_decoded() -> None:
    admitted, _ = admission(max_megapixels=100)
    with admitted.work("model", 10.0, [60.0], 0) as (place,):
        with pytest.raises(Overloaded):
            admitted.work("model", 10.0, [60.0], 0)
        place.decoded()
        with admitted.work("model", 10.0, [60.0], 0):
            pass


def test_a_request_with_more_images_than_the_bound_is_let_in_alone() -> None:
    admitted, _ = admission(max_images=16)
    with admitted.work("model", 10.0, [0.0] * 64, 0), pytest.raises(Overloaded):
        admitted.work("model", 10.0, [0.0], 0)
    assert is_empty(admitted)


def test_the_images_of_a_visit_take_its_place_and_its_bytes_count_once() -> None:
    admitted, _ = admission()
    with admitted.enter("model", 10.0, 1000) as visit:
        visit.arrive(1000)
        with admitted.work("model", 10.0, [0.0] * 3, 900):
            assert (admitted.bytes, admitted._lines["model"].ahead) == (1000, 3)
        with admitted.work("model", 10.0, [0.0], 5000):  # Fetched from elsewhere.
            assert admitted.bytes == 5000
    assert is_empty(admitted)


def test_a_body_that_does_not_come_gives_up_its_place_and_the_bytes_that_it_announced() -> None:
    admitted, clock = admission(max_bytes=10 * MEGABYTE)
    with admitted.enter("model", 60.0, 9 * MEGABYTE) as slow:
        slow.arrive(MEGABYTE)
        clock.now += READING_S + 0.1
        with admitted.enter("model", 60.0, 9 * MEGABYTE) as second:
            assert admitted.bytes == 10 * MEGABYTE
            assert admitted._lines["model"].ahead == 1
            assert not slow.arrive(MEGABYTE)
            second.arrive(9 * MEGABYTE)
    assert is_empty(admitted)


def test_whatever_requests_do_nothing_is_left_in_hand() -> None:
    rng = random.Random(1)
    admitted, clock = admission(max_images=50, max_bytes=100, max_megapixels=60)
    for _ in range(3000):
        clock.now += rng.expovariate(10)
        if rng.random() < 0.2:
            clock.now += READING_S
        try:
            with admitted.enter(rng.choice(["model", "other"]), rng.uniform(0.01, 9), rng.choice([0, 30])) as visit:
                visit.arrive(rng.randrange(60))
                with admitted.work(
                    "model", rng.uniform(0.01, 9), [rng.uniform(0, 50)] * rng.randrange(9), 40
                ) as places:
                    for place in places:
                        if rng.random() < 0.5:
                            place.decoded()
                        if rng.random() < 0.6:
                            place.end(answered=rng.random() < 0.5)
                    raise rng.choice([ValueError, DeadlineExceeded])("an end")
        except (Overloaded, ValueError, DeadlineExceeded):
            pass
        assert current_visit.get() is None
        assert (admitted.images, admitted.bytes) == (0, 0)
        assert admitted.megapixels == pytest.approx(0)
    assert all(line.ahead == 0 for line in admitted._lines.values())


# Run times


def test_the_time_of_a_batch_is_learned_by_its_size() -> None:
    times = RunTimes()
    assert times.expected_s(8, 0.0) == 0
    for run in range(30):
        size = 1 + run % 4
        times.add(size, 0.1 + 0.02 * size, now=run)
    assert times.expected_s(1, 29.0) == pytest.approx(0.12)
    assert times.expected_s(8, 29.0) == pytest.approx(0.26)


def test_where_all_batches_are_of_one_size_smaller_ones_may_be_cheaper_in_proportion() -> None:
    times = RunTimes()
    times.add(8, 0.8, now=0.0)
    assert times.expected_s(1, 0.0) == pytest.approx(0.1)


def test_what_has_not_run_for_long_is_expected_to_be_quick_so_that_it_is_tried_again() -> None:
    times = RunTimes()
    times.add(1, 60.0, now=0.0)
    assert times.expected_s(1, 20.0) < 0.001
