"""Statistics of replicas become those of the model."""

from deployments.statistics import BatchStatistics, RequestStatistics, Total, summed


def test_the_statistics_of_a_model_are_the_sums_over_its_replicas() -> None:
    one, two = RequestStatistics(last_ms=5), RequestStatistics(last_ms=9)
    one.success.add(0.5)
    two.success.add(0.25)
    two.fail.add(1.0)
    batches = [BatchStatistics({8: Total(2, 20)}), BatchStatistics({8: Total(1, 10), 1: Total(3, 3)})]
    total = summed([one, two], batches)
    assert total.requests.success == Total(2, 750_000_000)
    assert total.requests.fail == Total(1, 1_000_000_000)
    assert total.requests.last_ms == 9
    assert total.batches.by_size == {8: Total(3, 30), 1: Total(3, 3)}
    assert (total.inference_count, total.execution_count) == (27, 6)


def test_summing_leaves_what_a_replica_counted_as_it_was() -> None:
    one, batches = RequestStatistics(success=Total(1, 10)), BatchStatistics({2: Total(1, 5)})
    summed([one, one], [batches, batches])
    assert one.success == Total(1, 10)
    assert batches.by_size == {2: Total(1, 5)}


def test_a_clock_that_steps_back_takes_nothing_away() -> None:
    total = Total(1, 10)
    total.add(-1.0)
    assert total == Total(2, 10)
