"""Traces through all three deployments, as a collector of this test gets them by OTLP over HTTP."""

import asyncio
import secrets
import time
from collections.abc import Iterator

import grpc
import httpx
import pytest
from ray import serve

from deployments.protocols.generated import inference_pb2_grpc
from tests.awaiting import await_condition
from tests.collector import Collector, Span, running_collector
from tests.graph.test_grpc_inference import TIMEOUT_S, images_request
from tests.local_graph import COLLECTOR_PORT, Graph
from tests.reference import picture

STAR = picture("star")
# What a request with one image is made of, and below what.
PARENTS = {"preprocess": "request", "classify": "request", "decode": "preprocess", "queue": "classify"}
PARENTS |= {"inference": "classify"}
PLACES = {"preprocess": "Ingress", "classify": "Ingress", "decode": "Preprocessor", "queue": "shapes"}
PLACES |= {"inference": "shapes", "batch": "shapes"}
# Requests at once, more than the calls that go one by one; and how often that is tried.
CROWD, ROUNDS = 24, 20


def new_span() -> tuple[str, str]:
    """Trace and span of a client, sampled."""
    return secrets.token_hex(16), secrets.token_hex(8)


def traceparent(client: tuple[str, str]) -> str:
    return f"00-{client[0]}-{client[1]}-01"


def test_requests_are_answered_while_the_collector_is_away(client: httpx.Client) -> None:
    slowest_s = 0.0
    for _ in range(20):
        started = time.monotonic()
        answer = client.post("/predict", content=STAR, headers={"traceparent": traceparent(new_span())})
        assert answer.status_code == 200
        slowest_s = max(slowest_s, time.monotonic() - started)
    # Each attempt to send spans takes its five seconds.
    assert slowest_s < 4.0


@pytest.fixture(scope="module")
def collector(graph: Graph) -> Iterator[Collector]:
    with running_collector(COLLECTOR_PORT) as collector:
        yield collector


def check_tree(collector: Collector, client: tuple[str, str], entry: str) -> Span:
    """The request's own span. Whatever is in the trace must hang together, and its batch be linked to it."""
    trace_id, client_span = client
    (inference,) = collector.await_spans("inference", 1, trace_id)
    (request,) = collector.await_spans(entry, 1, trace_id)
    for name in PARENTS:
        collector.await_spans(name, 1, trace_id)
    spans = {span.name: span for span in collector.trace(trace_id)} | {"request": request}
    assert len(collector.trace(trace_id)) == 1 + len(PARENTS)
    assert (request.parent_id, request.kind) == (client_span, "SERVER")
    for name, parent in PARENTS.items():
        assert spans[name].parent_id == spans[parent].span_id, name
        assert spans[name].resource["aperture.deployment"] == PLACES[name]
        # Clocks of one machine.
        assert request.start_ns <= spans[name].start_ns <= spans[name].end_ns <= request.end_ns
    (batch,) = collector.await_spans("batch", 1, inference.links[0][0])
    assert batch.ids == inference.links[0]
    assert spans["classify"].ids in batch.links
    return request


def test_a_request_over_http_is_one_tree_over_three_deployments(client: httpx.Client, collector: Collector) -> None:
    mine = new_span()
    headers = {"traceparent": traceparent(mine), "tracestate": "congo=t61"}
    answer = client.post("/predict", content=STAR, headers=headers)
    request = check_tree(collector, mine, "POST /predict")
    assert answer.headers["traceresponse"] == f"00-{mine[0]}-{request.span_id}-01"
    assert {span.state for span in collector.trace(mine[0])} == {"congo=t61"}
    assert request.attributes["aperture.request_id"] == answer.json()["request_id"]
    assert request.attributes["http.response.status_code"] == 200


def test_a_request_over_grpc_is_one_tree_over_three_deployments(graph: Graph, collector: Collector) -> None:
    mine = new_span()
    with grpc.insecure_channel(graph.grpc_address) as channel:
        infer = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        metadata = [("traceparent", traceparent(mine))]
        _, call = infer.with_call(images_request([STAR]), timeout=TIMEOUT_S, metadata=metadata)
    request = check_tree(collector, mine, "inference.GRPCInferenceService/ModelInfer")
    assert dict(call.trailing_metadata())["traceresponse"] == f"00-{mine[0]}-{request.span_id}-01"


def test_a_call_of_a_handle_is_one_tree_over_three_deployments(graph: Graph, collector: Collector) -> None:
    mine = new_span()
    serve.get_app_handle("aperture").predict.remote(STAR, traceparent=traceparent(mine)).result(timeout_s=TIMEOUT_S)
    check_tree(collector, mine, "predict")


def test_a_batch_is_linked_to_every_request_in_it(graph: Graph, collector: Collector) -> None:
    asked: set[str] = set()

    async def crowd() -> None:
        async with httpx.AsyncClient(base_url=graph.url, timeout=TIMEOUT_S) as client:
            clients = [new_span() for _ in range(CROWD)]
            asked.update(trace_id for trace_id, _ in clients)
            headers = [{"traceparent": traceparent(each)} for each in clients]
            answers = await asyncio.gather(*(client.post("/predict", content=STAR, headers=each) for each in headers))
            assert {answer.status_code for answer in answers} == {200}

    def shared() -> list[Span]:
        batches = [batch for batch in collector.named("batch") if {trace_id for trace_id, _ in batch.links} <= asked]
        return [batch for batch in batches if len(batch.links) > 1]

    for _ in range(ROUNDS):
        asyncio.run(crowd())
        await_condition(lambda: len(linked(collector, asked)) == len(asked), TIMEOUT_S, "each request is in a batch")
        if shared():
            break
    batch = shared()[0]
    assert batch.attributes["aperture.batch.size"] == len(batch.links)
    classify = {span.ids for trace_id, _ in batch.links for span in collector.await_spans("classify", 1, trace_id)}
    assert set(batch.links) == classify
    inference = [span for trace_id, _ in batch.links for span in collector.await_spans("inference", 1, trace_id)]
    assert {span.links for span in inference} == {(batch.ids,)}


def linked(collector: Collector, asked: set[str]) -> set[str]:
    """Of these traces those that a batch is linked to."""
    return {trace_id for batch in collector.named("batch") for trace_id, _ in batch.links} & asked


def test_a_request_that_asks_for_no_trace_has_none(client: httpx.Client, collector: Collector) -> None:
    answer = client.post("/predict", content=STAR)
    trace_id = answer.headers["traceresponse"].split("-")[1]
    assert answer.headers["traceresponse"].endswith("-00")
    mine = new_span()
    client.post("/predict", content=STAR, headers={"traceparent": traceparent(mine)})
    check_tree(collector, mine, "POST /predict")
    assert collector.trace(trace_id) == []
