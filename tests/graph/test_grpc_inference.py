"""The inference protocols over gRPC through Serve: the same answers as POST /predict, and statuses that arrive."""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image

from deployments.protocols.generated import inference_pb2 as oip
from deployments.protocols.generated import inference_pb2_grpc, tensorflow_serving_pb2_grpc
from deployments.protocols.generated import tensorflow_pb2 as tf
from deployments.protocols.generated import tensorflow_serving_pb2 as tfs
from tests.awaiting import await_condition
from tests.local_graph import Graph
from tests.reference import Reference, encode, picture

TIMEOUT_S = 30
SHAPES = ["heart", "star", "cross"]
# In another batch, the last bits of a sum in float32 differ.
TOLERANCE = 1e-4


@pytest.fixture
def channel(graph: Graph) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(graph.grpc_address) as channel:
        yield channel


@pytest.fixture
def inference(channel: grpc.Channel) -> Any:
    return inference_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture
def prediction(channel: grpc.Channel) -> Any:
    return tensorflow_serving_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture
def models(channel: grpc.Channel) -> Any:
    return tensorflow_serving_pb2_grpc.ModelServiceStub(channel)


def images_request(images: Sequence[bytes], model: str = "shapes", request_id: str = "") -> oip.ModelInferRequest:
    return oip.ModelInferRequest(
        model_name=model,
        id=request_id,
        inputs=[{"name": "IMAGE", "datatype": "BYTES", "shape": [len(images)]}],
        raw_input_contents=[b"".join(struct.pack("<I", len(image)) + image for image in images)],
    )


def probabilities_of(response: oip.ModelInferResponse) -> np.ndarray[Any, Any]:
    (output, _) = response.outputs
    assert output.name == "PROBABILITIES"
    return np.frombuffer(response.raw_output_contents[0], "<f4").reshape(output.shape)


def expected(client: httpx.Client, reference: Reference, shape: str) -> list[float]:
    """What POST /predict says of that picture, in the order of the labels."""
    predictions = client.post("/predict?top_k=10", content=picture(shape)).json()["predictions"]
    by_label = {each["label"]: each["probability"] for each in predictions}
    return [by_label[label] for label in reference.labels]


def refusal(call: Callable[[], Any], status: str) -> str:
    """The details of the status that the call must end with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() == grpc.StatusCode[status], caught.value.details()
    details: str = caught.value.details()
    return details


def test_images_are_answered_as_over_http(inference: Any, client: httpx.Client, reference: Reference) -> None:
    response = inference.ModelInfer(images_request([picture(shape) for shape in SHAPES]), timeout=TIMEOUT_S)
    assert (response.model_name, response.model_version) == ("shapes", str(reference.version))
    for row, shape in zip(probabilities_of(response), SHAPES, strict=True):
        assert row == pytest.approx(expected(client, reference, shape), abs=TOLERANCE)


def test_the_service_describes_itself_and_its_models(inference: Any, reference: Reference) -> None:
    assert inference.ServerLive(oip.ServerLiveRequest(), timeout=TIMEOUT_S).live
    assert inference.ServerReady(oip.ServerReadyRequest(), timeout=TIMEOUT_S).ready
    assert inference.ModelReady(oip.ModelReadyRequest(name="colours"), timeout=TIMEOUT_S).ready
    assert inference.ServerMetadata(oip.ServerMetadataRequest(), timeout=TIMEOUT_S).name == "aperture"
    metadata = inference.ModelMetadata(oip.ModelMetadataRequest(name="shapes"), timeout=TIMEOUT_S)
    assert [list(each.shape) for each in metadata.outputs] == [[-1, len(reference.labels)]] * 2
    config = inference.ModelConfig(oip.ModelConfigRequest(name="shapes"), timeout=TIMEOUT_S).config
    assert [each.name for each in config.input] == [each.name for each in metadata.inputs]
    index = inference.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=TIMEOUT_S)
    assert {("shapes", "READY"), ("colours", "READY")} <= {(each.name, each.state) for each in index.models}


def counts(inference: Any, model: str) -> tuple[int, int]:
    """Requests that succeeded and requests that failed."""
    request = oip.ModelStatisticsRequest(name=model)
    (statistics,) = inference.ModelStatistics(request, timeout=TIMEOUT_S).model_stats
    return statistics.inference_stats.success.count, statistics.inference_stats.fail.count


def test_requests_are_counted(inference: Any) -> None:
    successes, _ = counts(inference, "shapes")
    inference.ModelInfer(images_request([picture("heart")]), timeout=TIMEOUT_S)
    assert counts(inference, "shapes")[0] == successes + 1


def test_refusals_arrive_as_statuses_with_details(inference: Any) -> None:
    unknown = images_request([picture("heart")], model="cats")
    assert "'cats'" in refusal(lambda: inference.ModelInfer(unknown, timeout=TIMEOUT_S), "NOT_FOUND")
    corrupt = images_request([picture("heart")[:100]])
    refusal(lambda: inference.ModelInfer(corrupt, timeout=TIMEOUT_S), "INVALID_ARGUMENT")
    short = images_request([picture("heart")])
    short.inputs[0].shape[0] = 2
    details = refusal(lambda: inference.ModelInfer(short, timeout=TIMEOUT_S), "INVALID_ARGUMENT")
    assert "element 2 of 2" in details


@pytest.mark.parametrize("method", ["SystemSharedMemoryStatus", "TraceSetting"])
def test_what_is_not_implemented_says_so(inference: Any, method: str) -> None:
    request = getattr(oip, f"{method}Request")()
    details = refusal(lambda: getattr(inference, method)(request, timeout=TIMEOUT_S), "UNIMPLEMENTED")
    assert details == f"{method} is not implemented."


def test_a_long_name_from_a_client_leaves_room_in_the_headers(inference: Any) -> None:
    request = oip.ModelMetadataRequest(name="\N{SNOWMAN}" * 10_000)
    assert "There is no model" in refusal(lambda: inference.ModelMetadata(request, timeout=TIMEOUT_S), "NOT_FOUND")


def test_a_stream_is_answered_in_order_and_survives_bad_requests(
    inference: Any, client: httpx.Client, reference: Reference
) -> None:
    requests = [images_request([picture(shape)], request_id=shape) for shape in SHAPES]
    requests.insert(1, images_request([b"no picture"], request_id="bad"))
    answers = list(inference.ModelStreamInfer(iter(requests), timeout=TIMEOUT_S))
    assert [answer.infer_response.id for answer in answers] == ["heart", "bad", "star", "cross"]
    assert [bool(answer.error_message) for answer in answers] == [False, True, False, False]
    for answer, shape in zip([answers[0], *answers[2:]], SHAPES, strict=True):
        (row,) = probabilities_of(answer.infer_response)
        assert row == pytest.approx(expected(client, reference, shape), abs=TOLERANCE)


@pytest.fixture(scope="module")
def slow_images() -> list[bytes]:
    """Images that take longer than a second together."""
    return [encode(Image.new("RGB", (7000, 7000), "red"), "PNG")] * 8


def test_the_work_of_a_call_ends_with_the_clients_deadline(inference: Any, slow_images: list[bytes]) -> None:
    successes, failures = counts(inference, "colours")
    request = images_request(slow_images, model="colours")
    refusal(lambda: inference.ModelInfer(request, timeout=0.5), "DEADLINE_EXCEEDED")
    await_condition(lambda: counts(inference, "colours")[1] == failures + 1, TIMEOUT_S, "the request is given up")
    assert counts(inference, "colours")[0] == successes


def test_the_work_of_a_stream_ends_when_the_client_cancels(inference: Any, slow_images: list[bytes]) -> None:
    successes, failures = counts(inference, "colours")
    first = images_request([picture("heart")], model="colours")
    answers = inference.ModelStreamInfer(iter([first, images_request(slow_images, model="colours")]))
    assert next(answers).infer_response.model_name == "colours"
    answers.cancel()
    await_condition(lambda: counts(inference, "colours")[1] == failures + 1, TIMEOUT_S, "the request is given up")
    assert counts(inference, "colours")[0] == successes + 1


# TensorFlow Serving


def test_predict_and_classify_answer_as_over_http(prediction: Any, client: httpx.Client, reference: Reference) -> None:
    images = tf.TensorProto(
        dtype=tf.DT_STRING, tensor_shape={"dim": [{"size": len(SHAPES)}]}, string_val=map(picture, SHAPES)
    )
    predict = tfs.PredictRequest(model_spec={"name": "shapes"}, inputs={"image_bytes": images})
    response = prediction.Predict(predict, timeout=TIMEOUT_S)
    rows = np.array(response.outputs["PROBABILITIES"].float_val).reshape(len(SHAPES), -1)
    examples = [
        {"features": {"feature": {"image/encoded": {"bytes_list": {"value": [picture(shape)]}}}}} for shape in SHAPES
    ]
    classify = tfs.ClassificationRequest(model_spec={"name": "shapes"}, input={"example_list": {"examples": examples}})
    result = prediction.Classify(classify, timeout=TIMEOUT_S).result
    for row, classes, shape in zip(rows, result.classifications, SHAPES, strict=True):
        probabilities = expected(client, reference, shape)
        assert row == pytest.approx(probabilities, abs=TOLERANCE)
        assert classes.classes[0].label == shape
        assert classes.classes[0].score == pytest.approx(max(probabilities), abs=TOLERANCE)


def test_a_model_tells_its_signature_and_status(prediction: Any, models: Any, reference: Reference) -> None:
    metadata = tfs.GetModelMetadataRequest(model_spec={"name": "shapes"}, metadata_field=["signature_def"])
    response = prediction.GetModelMetadata(metadata, timeout=TIMEOUT_S)
    signatures = tfs.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert "IMAGE" in signatures.signature_def["serving_default"].inputs
    request = tfs.GetModelStatusRequest(model_spec={"name": "shapes"})
    (status,) = models.GetModelStatus(request, timeout=TIMEOUT_S).model_version_status
    assert (status.version, status.state) == (reference.version, tfs.ModelVersionStatus.AVAILABLE)


def test_refusals_of_tensorflow_serving_arrive_as_statuses(prediction: Any, models: Any) -> None:
    unknown = tfs.PredictRequest(model_spec={"name": "cats"})
    assert "'cats'" in refusal(lambda: prediction.Predict(unknown, timeout=TIMEOUT_S), "NOT_FOUND")
    empty = tfs.PredictRequest(model_spec={"name": "shapes"})
    refusal(lambda: prediction.Predict(empty, timeout=TIMEOUT_S), "INVALID_ARGUMENT")
    refusal(lambda: prediction.Regress(tfs.RegressionRequest(), timeout=TIMEOUT_S), "UNIMPLEMENTED")
    refusal(lambda: models.HandleReloadConfigRequest(tfs.ReloadConfigRequest(), timeout=TIMEOUT_S), "INVALID_ARGUMENT")
