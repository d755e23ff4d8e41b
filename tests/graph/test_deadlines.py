"""Deadlines and leaving over real sockets: 408 and DEADLINE_EXCEEDED in our words, and no work for nobody.

The model `slow` takes its time for each image, one after another, so that a request with MANY images is still mostly
waiting when it is over. What has been run then stands in the model's own statistics.
"""

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from deployments.protocols.generated import inference_pb2_grpc, tensorflow_serving_pb2_grpc
from deployments.protocols.generated import tensorflow_serving_pb2 as tfs
from tests.conformance.triton import Transport, connected
from tests.graph.test_grpc_inference import images_request
from tests.local_graph import SLOW_S, Graph
from tests.reference import picture

MANY = 16
# Of the client: by then a few of MANY have been run, or none on a busy machine.
TIMEOUT_S = 2 * SLOW_S
STAR = picture("star")
FILES = [("file", (f"{number}.png", STAR)) for number in range(MANY)]
DISCONNECT_DISABLED = {"x-request-disconnect-disabled": "?1"}


def images_run(client: httpx.Client) -> int:
    (stats,) = client.get("/v2/models/slow/stats").json()["model_stats"]
    return int(stats["inference_count"])


@contextmanager
def most_is_dropped(client: httpx.Client) -> Iterator[None]:
    """Asserts that of MANY images that the block asks for, half at the most are run, then or later."""
    before = images_run(client)
    yield
    # Whatever has an earlier deadline, or came before, is run before this one.
    assert client.post("/predict?model=slow", content=STAR).status_code == 200
    assert images_run(client) - before <= 1 + MANY // 2


# Deadlines


def test_a_request_that_is_too_late_is_408_in_our_own_words(client: httpx.Client) -> None:
    headers = {"x-request-timeout-seconds": f"{SLOW_S / 2:g}"}
    response = client.post("/predict?model=slow", content=STAR, headers=headers)
    assert response.status_code == 408
    body = response.json()
    assert body["code"] == "deadline_exceeded"
    assert "deadline" in body["error"] or body["error"] == f"No answer within {SLOW_S / 2:g} s."
    assert body["request_id"] == response.headers["x-request-id"]


def test_of_many_images_those_that_are_too_late_are_dropped(client: httpx.Client) -> None:
    headers = {"x-request-timeout-seconds": f"{TIMEOUT_S:g}"}
    with most_is_dropped(client):
        response = client.post("/predict?model=slow", files=FILES, headers=headers)
    assert response.status_code in (200, 408)
    if response.status_code == 200:  # They were given up before the request was over.
        assert {each["code"] for each in response.json()["results"] if "code" in each} == {"deadline_exceeded"}


def test_a_stream_that_is_too_late_ends_with_a_line_for_each_image(client: httpx.Client) -> None:
    headers = {"x-request-timeout-seconds": f"{TIMEOUT_S:g}", "accept": "application/x-ndjson"}
    with most_is_dropped(client):
        response = client.post("/predict?model=slow", files=FILES, headers=headers)
    if response.status_code == 408:  # A busy machine: not even the first one was ready.
        return
    *lines, done = [json.loads(line) for line in response.content.splitlines()]
    assert done["done"] is True
    assert sorted(line["index"] for line in lines) == list(range(MANY))
    assert {line["code"] for line in lines if "code" in line} == {"deadline_exceeded"}


@pytest.mark.parametrize("timeout", ["0", "-1", "inf", "soon"])
def test_serve_never_sees_what_would_switch_its_timeouts_off(client: httpx.Client, timeout: str) -> None:
    response = client.post("/predict", content=STAR, headers={"x-request-timeout-seconds": timeout})
    assert (response.status_code, response.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_tritons_timeout_parameter_ends_the_request(graph: Graph, client: httpx.Client, transport: Transport) -> None:
    images = np.array([STAR] * MANY, object)
    with (
        most_is_dropped(client),
        connected(transport, graph) as triton,
        pytest.raises(InferenceServerException) as caught,
    ):
        triton.infer("IMAGE", images, "slow", timeout=round(TIMEOUT_S * 1e6))
    assert caught.value.status() in ("408", "StatusCode.DEADLINE_EXCEEDED")
    assert caught.value.message()


def test_the_metadata_of_a_call_ends_it(graph: Graph, client: httpx.Client) -> None:
    requests: list[tuple[Callable[[grpc.Channel], Any], Any]] = [
        (
            lambda channel: inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer,
            images_request([STAR] * MANY, "slow"),
        ),
        (lambda channel: tensorflow_serving_pb2_grpc.PredictionServiceStub(channel).Classify, classification()),
    ]
    with most_is_dropped(client), grpc.insecure_channel(graph.grpc_address) as channel:
        for method, request in requests:
            with pytest.raises(grpc.RpcError) as caught:
                method(channel)(request, metadata=(("x-request-timeout-seconds", "0.2"),), timeout=30)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            assert caught.value.details()


def classification() -> tfs.ClassificationRequest:
    request = tfs.ClassificationRequest(model_spec={"name": "slow"})
    for _ in range(MANY):
        example = request.input.example_list.examples.add()
        example.features.feature["image/encoded"].bytes_list.value.append(STAR)
    return request


# Leaving


@pytest.mark.parametrize("headers", [{}, DISCONNECT_DISABLED], ids=["plain", "told not to look"])
def test_a_client_that_leaves_takes_its_work_with_it(
    graph: Graph, client: httpx.Client, headers: dict[str, str]
) -> None:
    with most_is_dropped(client), pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{graph.url}/predict?model=slow", files=FILES, headers=headers, timeout=TIMEOUT_S)


@pytest.mark.parametrize("headers", [{}, DISCONNECT_DISABLED], ids=["plain", "told not to look"])
def test_a_client_that_leaves_in_the_middle_of_its_stream_takes_its_work_with_it(
    graph: Graph, client: httpx.Client, headers: dict[str, str]
) -> None:
    headers = {"accept": "application/x-ndjson", **headers}
    with (
        most_is_dropped(client),
        httpx.Client(timeout=30) as other,
        other.stream("POST", f"{graph.url}/predict?model=slow", files=FILES, headers=headers) as response,
    ):
        assert '"predictions"' in next(response.iter_lines())


def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing(graph: Graph, client: httpx.Client) -> None:
    head = b"POST /predict?model=slow HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000\r\n\r\n"
    address = httpx.URL(graph.url)
    with most_is_dropped(client), socket.create_connection((address.host, address.port or 80)) as connection:
        connection.sendall(head + STAR)


@pytest.mark.parametrize("leave", ["deadline", "cancel"])
def test_a_grpc_client_that_leaves_takes_its_work_with_it(graph: Graph, client: httpx.Client, leave: str) -> None:
    with most_is_dropped(client), grpc.insecure_channel(graph.grpc_address) as channel:
        infer = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        call = infer.future(images_request([STAR] * MANY, "slow"), timeout=TIMEOUT_S if leave == "deadline" else 30)
        if leave == "cancel":
            with suppress(grpc.FutureTimeoutError):
                call.result(timeout=TIMEOUT_S)
            call.cancel()
        else:
            assert call.exception().code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_grpc_stream_that_is_left_takes_its_work_with_it(graph: Graph, client: httpx.Client) -> None:
    requests: Sequence[Any] = [images_request([STAR], "slow") for _ in range(MANY)]
    with most_is_dropped(client), grpc.insecure_channel(graph.grpc_address) as channel:
        answers = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(requests), timeout=30)
        assert next(answers).error_message == ""
        answers.cancel()
