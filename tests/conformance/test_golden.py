"""Requests recorded from KServe's and TensorFlow Serving's own Python clients, sent byte for byte (golden/make.py).

Their answers are read as these clients read them: KServe's InferResponse.from_bytes and from_grpc, TensorFlow's
make_ndarray.
"""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.protocols.generated import inference_pb2, tensorflow_pb2, tensorflow_serving_pb2
from tests.another_hand import LABELS
from tests.conformance.images import of_row, probabilities
from tests.local_graph import Graph

GOLDEN = Path(__file__).parent / "golden"
INFERENCE, PREDICTION = "inference.GRPCInferenceService", "tensorflow.serving.PredictionService"
STATUS = "tensorflow.serving.ModelService"
KSERVE_TENSORS = {"PROBABILITIES", "LOGITS"}


@pytest.fixture(scope="module")
def expected(graph: Graph) -> dict[str, float]:
    image = (GOLDEN / "heart.jpg").read_bytes()
    return probabilities(httpx.post(f"{graph.url}/predict?top_k=10", content=image, timeout=30).json())


def replay_http(graph: Graph, name: str) -> tuple[http.client.HTTPResponse, bytes]:
    host, port = graph.address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall((GOLDEN / f"{name}.http").read_bytes())
        response = http.client.HTTPResponse(connection)
        response.begin()
        body = response.read()
    return response, body


def replay_grpc(graph: Graph, service: str, name: str, answer: Any) -> Any:
    """The answer to a recorded message, whose file begins with the name of its method."""
    with grpc.insecure_channel(graph.grpc_address) as channel:
        call = channel.unary_unary(f"/{service}/{name.split('-')[0]}")
        return answer.FromString(call((GOLDEN / f"{name}.pb").read_bytes(), timeout=30))


def test_kserve_sees_that_server_and_model_are_live_and_ready(graph: Graph) -> None:
    for name, key in (("kserve-live", "live"), ("kserve-ready", "ready"), ("kserve-model-ready", "ready")):
        response, body = replay_http(graph, name)
        assert (response.status, json.loads(body)[key]) == (200, True)


@pytest.mark.parametrize("name", ["kserve-infer-json", "kserve-infer-binary"])
def test_kserve_reads_the_answer_over_http(graph: Graph, expected: dict[str, float], name: str) -> None:
    response, body = replay_http(graph, name)
    assert response.status == 200, body
    content = json.loads(body[: int(response.headers.get("inference-header-content-length", len(body)))])
    assert (content["model_name"], content["id"]) == ("shapes", "kserve-1")
    assert {each["name"] for each in content["outputs"]} == KSERVE_TENSORS
    values = {each["name"]: np.array(each["data"]).reshape(each["shape"]) for each in content["outputs"]}
    assert {each["datatype"] for each in content["outputs"]} == {"FP32"}
    assert of_row(values["PROBABILITIES"][0]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["ModelInfer-kserve-raw", "ModelInfer-kserve-typed"])
def test_kserve_reads_the_answer_over_grpc(graph: Graph, expected: dict[str, float], name: str) -> None:
    response = replay_grpc(graph, INFERENCE, name, inference_pb2.ModelInferResponse)
    assert (response.model_name, response.id) == ("shapes", "kserve-1")
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    values = {each.name: np.frombuffer(raw, np.float32).reshape(each.shape) for each, raw in pairs}
    assert values.keys() == KSERVE_TENSORS
    assert of_row(values["PROBABILITIES"][0]) == pytest.approx(expected, abs=1e-6)


def as_array(proto: Any) -> NDArray[np.float32]:
    """As tensorflow.make_ndarray does for DT_FLOAT."""
    assert proto.dtype == tensorflow_pb2.DT_FLOAT
    shape = [dim.size for dim in proto.tensor_shape.dim]
    flat = np.frombuffer(proto.tensor_content, np.float32) if proto.tensor_content else np.array(proto.float_val)
    return flat.astype(np.float32).reshape(shape)


@pytest.mark.parametrize(
    ("name", "outputs"), [("Predict-string", ["LOGITS", "PROBABILITIES"]), ("Predict-pixels", ["PROBABILITIES"])]
)
def test_tensorflow_reads_the_prediction(
    graph: Graph, expected: dict[str, float], name: str, outputs: list[str]
) -> None:
    response = replay_grpc(graph, PREDICTION, name, tensorflow_serving_pb2.PredictResponse)
    assert sorted(response.outputs) == outputs
    assert (response.model_spec.name, response.model_spec.version.value) == ("shapes", 1)
    (row,) = as_array(response.outputs["PROBABILITIES"])
    # TensorFlow has its own JPEG decoder.
    assert of_row(row) == pytest.approx(expected, abs=1e-6 if name == "Predict-string" else 1e-2)


def test_tensorflow_reads_the_classes(graph: Graph, expected: dict[str, float]) -> None:
    response = replay_grpc(graph, PREDICTION, "Classify", tensorflow_serving_pb2.ClassificationResponse)
    first, second = response.result.classifications
    for each in (first, second):
        assert {one.label: one.score for one in each.classes} == pytest.approx(expected, abs=1e-6)
        assert each.classes[0].label == "heart"


def test_tensorflow_reads_the_signature(graph: Graph) -> None:
    response = replay_grpc(graph, PREDICTION, "GetModelMetadata", tensorflow_serving_pb2.GetModelMetadataResponse)
    packed = response.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signature = tensorflow_serving_pb2.SignatureDefMap.FromString(packed.value).signature_def["serving_default"]
    assert set(signature.inputs) == {"IMAGE", "PIXELS", "INPUT"}
    assert [dim.size for dim in signature.outputs["PROBABILITIES"].tensor_shape.dim] == [-1, len(LABELS)]


def test_tensorflow_reads_that_the_version_is_available(graph: Graph) -> None:
    response = replay_grpc(graph, STATUS, "GetModelStatus", tensorflow_serving_pb2.GetModelStatusResponse)
    (status,) = response.model_version_status
    assert (status.version, status.state) == (1, tensorflow_serving_pb2.ModelVersionStatus.AVAILABLE)
    assert (status.status.error_code, status.status.error_message) == (0, "")
