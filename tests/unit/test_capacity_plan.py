"""The planner: enough and not more, the same every time; and what nodes and money follow."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simulation import arrivals, runs
from benchmarks.simulation.arrivals import Bursts
from benchmarks.simulation.calibration import default_times
from benchmarks.simulation.fleet import NodeKind, fleet
from benchmarks.simulation.plan import Demand, Infeasible, Plan, Trial, cell_rate, plan
from benchmarks.simulation.service_times import BatchTimes
from benchmarks.simulation.shape import CLASSIFIER, DEPLOYMENTS, INGRESS, PREPROCESSOR, Shape

REQUESTS = 800
SHAPE = Shape(calls_a_replica=2)
DEMAND = Demand(images_per_second=80.0, p99_s=0.4)


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan(DEMAND, SHAPE, default_times(), REQUESTS)


def test_the_plan_meets_its_own_latency(planned: Plan) -> None:
    assert planned.found.percentile_ms(99) <= 400
    assert planned.found.failed == 0
    assert planned.cells == 1


@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_one_replica_less_does_not(planned: Plan, deployment: str) -> None:
    fewer = planned.cell.count(deployment) - 1
    if fewer == 0:
        return
    trial = Trial(DEMAND, SHAPE, default_times(), 80.0, REQUESTS)
    assert trial.meets(planned.cell)
    assert not trial.meets(planned.cell.with_count(deployment, fewer))


def test_the_same_question_has_the_same_answer() -> None:
    one, other = (plan(Demand(20.0, 0.4, seed=5), SHAPE, default_times(), 300) for _ in range(2))
    assert one.tried == other.tried
    assert np.array_equal(one.found.latencies_s, other.found.latencies_s)


def test_a_tighter_latency_never_needs_fewer_classifiers(planned: Plan) -> None:
    tighter = plan(replace(DEMAND, p99_s=0.2), SHAPE, default_times(), REQUESTS)
    assert tighter.replicas[CLASSIFIER] >= planned.replicas[CLASSIFIER]


def test_what_no_number_of_replicas_can_do_is_said() -> None:
    with pytest.raises(Infeasible, match=r"No number of replicas answers 99 % within 40 ms: with .* p50 is [67]"):
        plan(replace(DEMAND, p99_s=0.04), SHAPE, default_times(), 300)


BUSY = {
    INGRESS: Shape(ingresses=1, preprocessors=4, classifiers=24, calls_a_replica=2),
    PREPROCESSOR: Shape(ingresses=3, preprocessors=1, classifiers=24, calls_a_replica=2),
    CLASSIFIER: Shape(ingresses=3, preprocessors=4, classifiers=10, calls_a_replica=2),
}


@pytest.mark.parametrize("deployment", BUSY)
def test_more_of_what_is_busy_never_makes_the_p99_longer(deployment: str) -> None:
    moments_s, start = arrivals.poisson(220.0, 1200, 3), BUSY[deployment]
    shapes = [start.with_count(deployment, start.count(deployment) + more) for more in (0, 1, 2, 6)]
    p99_ms = [runs.open_loop(shape, default_times(), moments_s).percentile_ms(99) for shape in shapes]
    # With the same requests what is left is chance in the routing.
    assert all(later <= 1.1 * earlier for earlier, later in itertools.pairwise(p99_ms))
    assert p99_ms[-1] < p99_ms[0]


def test_what_goes_in_comes_out_and_is_occupied_for_as_long_as_it_takes() -> None:
    times = replace(default_times(), batches=BatchTimes({1: 0.05}), batch_p90_ratio=1.0, slowdown=1.0)
    shape = Shape(classifiers=3, max_batch_size=1, gathering=None)
    found = runs.open_loop(shape, times, arrivals.poisson(20.0, REQUESTS, 1), warm_up_share=0.0)
    assert found.images == REQUESTS
    assert found.failed == 0
    assert found.occupation["Classifier engine"] == pytest.approx(20.0 * 0.05 / 3, rel=0.03)  # The utilisation law.
    assert found.occupation["Preprocessor decoders"] == pytest.approx(20.0 * times.decode_s(10**5, 0).mean(), rel=0.05)


def test_a_lone_request_takes_as_long_as_its_parts() -> None:
    times = replace(default_times(), decode_p90_s=default_times().decode_median_s, batch_p90_ratio=1.0, slowdown=1.0)
    hops = times.hops
    found = runs.open_loop(Shape(), times, [0.0], warm_up_share=0.0)
    parts_s = (
        hops.proxy_request_s
        + hops.ingress_request_s
        + 2 * hops.ingress_call_s
        + hops.preprocessor_image_s
        + hops.preprocessor_call_s
        + hops.classifier_image_s
        + hops.classifier_call_s
        + 8 * hops.wake_s
        # The proxy, each deployment, and the Ingress once more, which slept through the engine's 48 ms; so did the
        # Classifier's own loop.
        + 6 * hops.cold_wake_s
        + times.decode_median_s
        + times.batches.seconds[1]
    )
    assert found.latencies_s[0] == pytest.approx(parts_s, rel=1e-6)


def test_images_that_are_sent_together_cost_less_than_alone() -> None:
    times = default_times()
    alone = runs.open_loop(Shape(classifiers=8), times, arrivals.poisson(64.0, 640, 5))
    together = runs.open_loop(Shape(classifiers=8), times, arrivals.poisson(8.0, 80, 5), images=8)
    assert together.images * together.per_second > 0
    assert together.cpu_s / 640 < 0.95 * alone.cpu_s / 640


def test_bursts_need_more_than_the_same_load_spread_evenly(planned: Plan) -> None:
    bursty = plan(replace(DEMAND, bursts=Bursts(3.0, 1.0, 0.2)), SHAPE, default_times(), REQUESTS)
    assert bursty.replicas[CLASSIFIER] > planned.replicas[CLASSIFIER]


def test_a_large_load_is_planned_as_equal_cells(planned: Plan) -> None:
    rate, cells = cell_rate(Demand(40_000.0, 0.4), SHAPE, default_times())
    assert cells > 10
    assert rate * cells == pytest.approx(40_000)
    assert replace(planned, cells=7).replicas[CLASSIFIER] == 7 * planned.cell.classifiers


def test_a_short_run_does_not_hide_that_there_is_too_little() -> None:
    # Five requests a second more than two classifiers can do: the queue would take many seconds to show it.
    times = replace(default_times(), batches=BatchTimes({1: 0.05}), slowdown=1.0)
    found = plan(Demand(45.0, 0.3), replace(SHAPE, max_batch_size=1), times, 200)
    assert found.replicas[CLASSIFIER] >= 3


def test_bursts_keep_the_mean_rate_and_even_arrivals_have_the_variance_of_poisson() -> None:
    even = arrivals.poisson(100.0, 50_000, 2)
    bursty = arrivals.bursty(100.0, 50_000, Bursts(4.0, 0.5, 0.1), 2)
    counts = {name: np.histogram(found, np.arange(0, 400, 1.0))[0] for name, found in (("e", even), ("b", bursty))}
    assert 50_000 / even[-1] == pytest.approx(100, rel=0.02)
    assert 50_000 / bursty[-1] == pytest.approx(100, rel=0.06)
    assert counts["e"].var() == pytest.approx(counts["e"].mean(), rel=0.2)
    assert counts["b"].var() > 5 * counts["b"].mean()


def nodes_of(planned: Plan, counts: tuple[int, int, int], cpu: NodeKind, gpu: NodeKind | None = None) -> list[int]:
    ingresses, preprocessors, classifiers = counts
    cell = replace(
        planned.cell,
        ingresses=ingresses,
        preprocessors=preprocessors,
        classifiers=classifiers,
        preprocessor_threads=4,
        on_gpu=gpu is not None,
    )
    found = fleet(replace(planned, cell=cell), cpu, gpu, image_kb=110, pixels_kb=150)
    return [found.cpu_nodes, found.gpu_nodes, found.gpus, found.clusters]


def test_replicas_are_packed_onto_nodes_that_keep_a_core_for_themselves(planned: Plan) -> None:
    # Three of 4 cores fit a node of 16 and leave 3 for those of one.
    assert nodes_of(planned, (3, 3, 0), NodeKind(16)) == [1, 0, 0, 1]
    assert nodes_of(planned, (4, 3, 0), NodeKind(16)) == [2, 0, 0, 1]
    assert nodes_of(planned, (1, 7, 2), NodeKind(16)) == [3, 0, 0, 1]
    assert nodes_of(planned, (500, 1, 600), NodeKind(16)) == [74, 0, 0, 2]


def test_classifiers_on_gpus_go_to_the_nodes_that_have_them(planned: Plan) -> None:
    assert nodes_of(planned, (1, 1, 9), NodeKind(16), NodeKind(16, 4)) == [1, 3, 9, 1]
    # A node with more GPUs than cores for their replicas.
    assert nodes_of(planned, (1, 1, 9), NodeKind(16), NodeKind(3, 4)) == [1, 5, 9, 1]


def test_a_replica_that_fits_no_node_is_refused(planned: Plan) -> None:
    with pytest.raises(ValueError, match="A replica needs 4 cores; a node of 4 has 3 for replicas"):
        nodes_of(planned, (1, 1, 1), NodeKind(4))
    with pytest.raises(ValueError, match="need a kind of node that has some"):
        nodes_of(planned, (1, 1, 1), NodeKind(16), NodeKind(16, 0))


def test_the_cost_is_of_all_nodes_and_unknown_without_their_prices(planned: Plan) -> None:
    priced = fleet(planned, NodeKind(64, 0, 1.8), None, image_kb=110, pixels_kb=150)
    assert priced.nodes == 2
    # Two nodes at 1.8 an hour, 80 images a second: 288,000 an hour.
    assert priced.cost_per_million == pytest.approx(3.6 / 0.288)
    assert fleet(planned, NodeKind(64), None, image_kb=110, pixels_kb=150).cost_per_million is None


def test_every_deployment_of_the_plan_is_counted(planned: Plan) -> None:
    assert set(planned.replicas) == {INGRESS, PREPROCESSOR, CLASSIFIER}
    assert all(count >= 1 for count in planned.replicas.values())
