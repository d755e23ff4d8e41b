"""Malformed requests over real sockets: the right refusal, in a sentence, and a service that goes on answering."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from deployments.protocols.generated import (
    inference_pb2,
    inference_pb2_grpc,
    tensorflow_pb2,
    tensorflow_serving_pb2,
    tensorflow_serving_pb2_grpc,
)
from tests.conformance.malformed import EVERY, IMAGE, INFER, LENGTH, Bad
from tests.local_graph import Graph

# Whatever is sent, refusing it takes no longer than a good image may.
REFUSAL_S = 3.0


@pytest.fixture
def stub(graph: Graph) -> Iterator[Any]:
    with grpc.insecure_channel(graph.grpc_address) as channel:
        yield inference_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.mark.parametrize("bad", EVERY, ids=lambda bad: bad.what)
def test_it_is_refused_in_a_sentence(client: httpx.Client, bad: Bad) -> None:
    started = time.monotonic()
    response = client.post(bad.path, content=bad.body, headers=bad.headers)
    assert time.monotonic() - started < REFUSAL_S
    assert response.status_code in bad.statuses, response.text[:500]
    body = response.json()
    assert {"error", "code", "request_id"} == set(body)
    assert all(part.lower() in body["error"].lower() for part in bad.said), body["error"]
    assert body["error"].endswith((".", '"', "..."))
    assert len(body["error"]) < 700
    assert not any(leak in body["error"] for leak in ("Traceback", "/work", "site-packages", "orjson", "numpy"))


def test_a_body_that_ends_early_costs_only_its_connection(graph: Graph, client: httpx.Client) -> None:
    host, port = graph.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            f"POST {INFER} HTTP/1.1\r\nHost: here\r\nContent-Length: 5000\r\n{LENGTH}: 0\r\n\r\n".encode()
            + IMAGE[:1000]
        )
    assert client.post("/predict", content=IMAGE).status_code == 200


def test_a_flood_of_tiny_chunks_is_read_or_refused(graph: Graph, client: httpx.Client) -> None:
    """Each byte in a chunk of its own, for which some servers allocate each time."""

    def bytes_alone() -> Iterator[bytes]:
        for byte in IMAGE:
            yield bytes([byte])

    response = client.post(INFER, content=bytes_alone(), headers={LENGTH: "0"})
    assert response.status_code == 200


def tensor_of(name: str, datatype: str, shape: list[int], **contents: Any) -> Any:
    return inference_pb2.ModelInferRequest.InferInputTensor(
        name=name, datatype=datatype, shape=shape, contents=inference_pb2.InferTensorContents(**contents)
    )


def request_of(*tensors: Any, raw: list[bytes] | None = None, **more: Any) -> Any:
    return inference_pb2.ModelInferRequest(
        **{"model_name": "shapes", "inputs": tensors, "raw_input_contents": raw or [], **more}
    )


def without_contents(name: str, datatype: str, shape: list[int]) -> Any:
    return inference_pb2.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)


GRPC: list[Any] = [
    pytest.param(request_of(), "exactly one input", id="no input"),
    pytest.param(
        request_of(*[tensor_of("IMAGE", "BYTES", [1], bytes_contents=[IMAGE])] * 2),
        "exactly one input",
        id="two inputs",
    ),
    pytest.param(request_of(without_contents("PIXELS", "UINT8", [1, 2, 2, 3])), "12", id="no contents"),
    pytest.param(request_of(without_contents("PIXELS", "UINT8", [1, 2, 2, 3]), raw=[bytes(11)]), "12", id="too short"),
    pytest.param(request_of(without_contents("PIXELS", "UINT8", [1, 2, 2, 3]), raw=[bytes(13)]), "12", id="too long"),
    pytest.param(
        request_of(without_contents("PIXELS", "UINT8", [1, 2, 2, 3]), raw=[bytes(12)] * 2), "2", id="two raws"
    ),
    pytest.param(
        request_of(tensor_of("PIXELS", "UINT8", [1, 1, 1, 3], uint_contents=[1] * 3), raw=[bytes(3)]),
        "not in both",
        id="raw and typed",
    ),
    pytest.param(
        request_of(tensor_of("PIXELS", "UINT8", [1, 1, 1, 3], fp32_contents=[1] * 3)),
        "uint_contents",
        id="wrong contents",
    ),
    pytest.param(
        request_of(tensor_of("PIXELS", "UINT8", [1, 1, 1, 3], uint_contents=[1, 2, 256])), "256", id="a level of 256"
    ),
    pytest.param(
        request_of(without_contents("PIXELS", "UINT8", [2**62, 2**62, 2**62, 3]), raw=[b"x"]), "", id="overflow"
    ),
    pytest.param(request_of(without_contents("PIXELS", "UINT8", [1, -2, -2, 3]), raw=[bytes(12)]), "-2", id="negative"),
    pytest.param(
        request_of(without_contents("PIXELS", "UINT8", [0, 2, 2, 3]), raw=[b""]), "[0, 2, 2, 3]", id="nothing"
    ),
    pytest.param(
        request_of(without_contents("IMAGE", "BYTES", [1]), raw=[b"\xff\xff\xff\xff"]), "IMAGE", id="a length"
    ),
    pytest.param(request_of(without_contents("IMAGE", "BYTES", [1]), raw=[b"\x01"]), "IMAGE", id="half a length"),
    pytest.param(request_of(without_contents("IMAGE", "FP16", [1]), raw=[IMAGE]), "BYTES", id="another datatype"),
    pytest.param(
        request_of(without_contents("INPUT", "FP32", [1, 3, 128, 128]), raw=[b"\0\0\xc0\x7f" * 49152]),
        "[0, 1]",
        id="NaN",
    ),
    pytest.param(
        request_of(
            tensor_of("IMAGE", "BYTES", [1], bytes_contents=[IMAGE]),
            parameters={"timeout": inference_pb2.InferParameter(string_param="soon")},
        ),
        "timeout",
        id="a timeout that is a text",
    ),
    pytest.param(
        request_of(
            tensor_of("IMAGE", "BYTES", [1], bytes_contents=[IMAGE]),
            outputs=[inference_pb2.ModelInferRequest.InferRequestedOutputTensor(name="LOGITS")] * 1000,
        ),
        "twice",
        id="a thousand outputs",
    ),
]


@pytest.mark.parametrize(("request_", "said"), GRPC)
def test_a_grpc_request_is_refused_in_a_sentence(stub: Any, request_: Any, said: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request_, timeout=10)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    assert said in caught.value.details()
    assert caught.value.details().endswith(".")


def test_a_message_that_is_no_protobuf_is_refused(graph: Graph) -> None:
    with grpc.insecure_channel(graph.grpc_address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff" * 100, timeout=10)
    # Serve parses it, before any code of ours, and makes this of what fails there.
    assert caught.value.code() == grpc.StatusCode.UNKNOWN


TENSORS: list[Any] = [
    pytest.param(dict(dtype="DT_STRING", tensor_shape={"dim": [{"size": 2**62}]}, string_val=[IMAGE]), id="huge shape"),
    pytest.param(dict(dtype="DT_STRING", tensor_shape={"dim": [{"size": -1}]}, string_val=[IMAGE]), id="negative"),
    pytest.param(
        dict(dtype="DT_STRING", tensor_shape={"dim": [{"size": 3}]}, string_val=[IMAGE] * 2), id="two of three"
    ),
    pytest.param(dict(dtype="DT_STRING", tensor_shape={"unknown_rank": True}, string_val=[IMAGE]), id="unknown rank"),
    pytest.param(dict(dtype="DT_STRING", tensor_shape={"dim": [{"size": 1}]}), id="nothing"),
    pytest.param(dict(dtype="DT_HALF", tensor_shape={"dim": [{"size": 1}]}, half_val=[1]), id="another type"),
    pytest.param(
        dict(dtype="DT_UINT8", tensor_shape={"dim": [{"size": n} for n in (1, 2, 2, 3)]}, tensor_content=bytes(11)),
        id="too short",
    ),
    pytest.param(
        dict(dtype="DT_UINT8", tensor_shape={"dim": [{"size": n} for n in (1, 1, 1, 3)]}, int_val=[1, -2, 3]),
        id="below 0",
    ),
]


@pytest.mark.parametrize("fields", TENSORS)
def test_a_tensorflow_tensor_is_refused_in_a_sentence(graph: Graph, fields: dict[str, Any]) -> None:
    request = tensorflow_serving_pb2.PredictRequest(model_spec={"name": "shapes"})
    request.inputs["IMAGE" if fields["dtype"] == "DT_STRING" else "PIXELS"].CopyFrom(
        tensorflow_pb2.TensorProto(**fields)
    )
    with grpc.insecure_channel(graph.grpc_address) as channel:
        stub = tensorflow_serving_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(request, timeout=10)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    assert caught.value.details().endswith(".")


def test_the_service_answers_a_good_request_after_all_that(client: httpx.Client) -> None:
    response = client.post(INFER, content=IMAGE, headers={LENGTH: "0"})
    assert response.status_code == 200
    assert json.loads(response.content[: int(response.headers[LENGTH])])["model_name"] == "shapes"
