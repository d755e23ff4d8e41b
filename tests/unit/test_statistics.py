"""Statistics of replicas become those of the model."""

from deployments.statistics import BatchStatistics, RequestStatistics, Total, summed


def test_the_statistics_of_a_model_are_the_sums_over_its_replicas() -> None:
    one, two = RequestStatistics(last_ms=5), RequestStatistics(last_ms=9)
    one.success.add(0.5)
    two.success.add(0.25)
    two.fail.add(1.0)
    batches = [BatchStatistics({8: Total(2, 20)}), BatchStatistics({8: Total(1, 10), 1: Total(3, 3)})]
    (total,) = summed([{1: one}, {1: two}], [{1: each} for each in batches]).values()
    assert total.requests.success == Total(2, 750_000_000)
    assert total.requests.fail == Total(1, 1_000_000_000)
    assert total.requests.last_ms == 9
    assert total.batches.by_size == {8: Total(3, 30), 1: Total(3, 3)}
    assert (total.inference_count, total.execution_count) == (27, 6)


def test_summing_leaves_what_a_replica_counted_as_it_was() -> None:
    one, batches = RequestStatistics(success=Total(1, 10)), BatchStatistics({2: Total(1, 5)})
    summed([{1: one}, {1: one}], [{1: batches}, {1: batches}])
    assert one.success == Total(1, 10)
    assert batches.by_size == {2: Total(1, 5)}


def test_each_version_has_its_own_statistics() -> None:
    old, new = RequestStatistics(success=Total(1, 10)), RequestStatistics(success=Total(2, 5))
    totals = summed([{2: new}, {2: new, 1: old}], [{1: BatchStatistics({2: Total(1, 5)})}])
    assert list(totals) == [1, 2]
    assert (totals[1].requests.success, totals[2].requests.success) == (Total(1, 10), Total(4, 10))
    assert (totals[1].inference_count, totals[2].inference_count) == (2, 0)


def test_a_clock_that_steps_back_takes_nothing_away() -> None:
    total = Total(1, 10)
    total.add(-1.0)
    assert total == Total(2, 10)
