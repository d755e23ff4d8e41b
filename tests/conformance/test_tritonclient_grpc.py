"""tritonclient.grpc: callbacks, streams, deadlines, cancelling, compression; and contents by type, as others send."""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from deployments.protocols.generated import inference_pb2, inference_pb2_grpc
from tests.another_hand import LABELS
from tests.conformance.images import encoded, of_classes, of_row, pixels, prepared
from tests.conformance.triton import Triton, connected
from tests.local_graph import Graph
from tests.reference import picture

Answers = queue.SimpleQueue[tuple[Any, Any]]


@pytest.fixture
def triton(graph: Graph) -> Iterator[Triton]:
    with connected("grpc", graph) as connection:
        yield connection


@pytest.fixture
def stub(graph: Graph) -> Iterator[Any]:
    """The service as the Open Inference Protocol has it, without Triton's client in front."""
    with grpc.insecure_channel(graph.grpc_address) as channel:
        yield inference_pb2_grpc.GRPCInferenceServiceStub(channel)


def test_requests_in_flight_together_keep_their_answers(triton: Triton) -> None:
    answers: Answers = queue.SimpleQueue()
    for label in LABELS:
        triton.client.async_infer(
            "shapes",
            [triton.input("IMAGE", encoded(picture(label)))],
            lambda result, error: answers.put((result, error)),
            request_id=label,
            outputs=[triton.output("PROBABILITIES", class_count=1)],
        )
    for _ in LABELS:
        result, error = answers.get(timeout=30)
        assert error is None
        assert list(of_classes(result.as_numpy("PROBABILITIES")[0])) == [result.get_response().id]


def test_a_request_in_flight_that_fails_says_why(triton: Triton) -> None:
    answers: Answers = queue.SimpleQueue()
    triton.client.async_infer(
        "cats",
        [triton.input("IMAGE", encoded(picture("star")))],
        lambda result, error: answers.put((result, error)),
    )
    result, error = answers.get(timeout=30)
    assert result is None
    assert (error.status(), "cats" in error.message()) == ("StatusCode.NOT_FOUND", True)


def test_a_stream_answers_every_request_and_a_bad_one_alone_has_an_error(triton: Triton) -> None:
    answers: Answers = queue.SimpleQueue()
    triton.client.start_stream(lambda result, error: answers.put((result, error)))
    for label in LABELS:
        image = b"nothing" if label == "star" else picture(label)
        triton.client.async_stream_infer(
            "shapes",
            [triton.input("IMAGE", encoded(image))],
            request_id=label,
            outputs=[triton.output("PROBABILITIES", class_count=1)],
        )
    received = [answers.get(timeout=30) for _ in LABELS]
    triton.client.stop_stream()
    found = {result.get_response().id: result for result, error in received if error is None}
    (error,) = [error for _, error in received if error is not None]
    assert set(found) == set(LABELS) - {"star"}
    assert all(list(of_classes(found[label].as_numpy("PROBABILITIES")[0])) == [label] for label in found)
    assert "JPEG" in error.message()


def test_two_streams_one_after_the_other(triton: Triton) -> None:
    for label in ("heart", "arrow"):
        answers: Answers = queue.SimpleQueue()
        triton.client.start_stream(lambda result, error, answers=answers: answers.put((result, error)))
        triton.client.async_stream_infer("shapes", [triton.input("IMAGE", encoded(picture(label)))])
        result, error = answers.get(timeout=30)
        triton.client.stop_stream()
        assert error is None
        row = of_row(result.as_numpy("PROBABILITIES")[0])
        assert max(row, key=row.__getitem__) == label


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_messages_may_be_compressed(triton: Triton, heart: bytes, expected: dict[str, float], algorithm: str) -> None:
    result = triton.infer("PIXELS", pixels(heart), compression_algorithm=algorithm)
    assert of_row(result.as_numpy("PROBABILITIES")[0]) == pytest.approx(expected, abs=1e-6)


def test_a_deadline_of_the_client_ends_its_wait(triton: Triton) -> None:
    images = encoded(*[picture(label, seed) for seed in range(6) for label in LABELS])
    with pytest.raises(InferenceServerException) as caught:
        triton.infer("IMAGE", images, client_timeout=0.01)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_a_cancelled_request_is_cancelled(triton: Triton) -> None:
    answers: Answers = queue.SimpleQueue()
    images = encoded(*[picture(label, seed) for seed in range(6) for label in LABELS])
    call = triton.client.async_infer(
        "shapes", [triton.input("IMAGE", images)], lambda result, error: answers.put((result, error))
    )
    call.cancel()
    result, error = answers.get(timeout=30)
    assert result is None
    assert error.status() == "StatusCode.CANCELLED"


def test_threads_may_share_the_client(triton: Triton, heart: bytes, expected: dict[str, float]) -> None:
    rows: list[dict[str, float]] = []

    def ask() -> None:
        rows.extend(of_row(triton.infer("IMAGE", encoded(heart)).as_numpy("PROBABILITIES")[0]) for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Batches of other sizes move the last bits.
    assert len(rows) == 20
    assert all(row == pytest.approx(expected, abs=1e-4) for row in rows)


def test_what_cannot_be_done_here_is_unimplemented(triton: Triton) -> None:
    for call, arguments in (
        ("get_trace_settings", ()),
        ("get_log_settings", ()),
        ("get_system_shared_memory_status", ()),
        ("get_cuda_shared_memory_status", ()),
    ):
        with pytest.raises(InferenceServerException) as caught:
            getattr(triton.client, call)(*arguments)
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED", call


def typed_request(name: str, datatype: str, shape: list[int], **contents: Any) -> Any:
    tensor = inference_pb2.ModelInferRequest.InferInputTensor(
        name=name, datatype=datatype, shape=shape, contents=inference_pb2.InferTensorContents(**contents)
    )
    return inference_pb2.ModelInferRequest(model_name="shapes", id="typed", inputs=[tensor])


def test_contents_by_type_get_the_same_answer(stub: Any, heart: bytes, expected: dict[str, float]) -> None:
    levels, floats = pixels(heart), prepared(heart)
    for request in (
        typed_request("IMAGE", "BYTES", [1], bytes_contents=[heart]),
        typed_request("PIXELS", "UINT8", list(levels.shape), uint_contents=levels.ravel().tolist()),
        typed_request("INPUT", "FP32", list(floats.shape), fp32_contents=floats.ravel().tolist()),
    ):
        response = stub.ModelInfer(request, timeout=30)
        values = dict(zip([each.name for each in response.outputs], response.raw_output_contents, strict=True))
        assert of_row(np.frombuffer(values["PROBABILITIES"], np.float32)) == pytest.approx(expected, abs=1e-6)
        assert response.id == "typed"


def test_the_health_check_of_other_clients_is_there_beside_it(graph: Graph) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(graph.grpc_address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
