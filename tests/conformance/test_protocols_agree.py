"""One image through every protocol: the same probabilities of the same labels."""

import base64
import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import ray
import tritonclient.grpc
import tritonclient.http
from ray import serve

from deployments.protocols.generated import (
    inference_pb2,
    inference_pb2_grpc,
    tensorflow_pb2,
    tensorflow_serving_pb2,
    tensorflow_serving_pb2_grpc,
)
from tests.another_hand import LABELS
from tests.conformance.images import encoded, of_classes, of_row, pixels, prepared, probabilities
from tests.conformance.triton import tensor
from tests.local_graph import Graph

Scores = dict[str, float]  # by label
TIMEOUT_S = 30


def post(graph: Graph, path: str, **request: Any) -> Any:
    response = httpx.post(graph.url + path, timeout=TIMEOUT_S, **request)
    assert response.status_code == 200, response.text
    return response.json()


def b64(image: bytes) -> str:
    return base64.b64encode(image).decode()


def predict_raw(graph: Graph, image: bytes) -> Scores:
    return probabilities(post(graph, "/predict?top_k=10", content=image))


def predict_multipart(graph: Graph, image: bytes) -> Scores:
    (result,) = post(graph, "/predict?top_k=10", files={"file": ("heart.jpg", image)})["results"]
    return probabilities(result)


def predict_json(graph: Graph, image: bytes) -> Scores:
    return probabilities(post(graph, "/predict?top_k=10", json={"image": b64(image)}))


def predict_json_list(graph: Graph, image: bytes) -> Scores:
    (result,) = post(graph, "/predict?top_k=10", json={"images": [b64(image)]})["results"]
    return probabilities(result)


def predict_ndjson(graph: Graph, image: bytes) -> Scores:
    headers = {"accept": "application/x-ndjson"}
    response = httpx.post(
        f"{graph.url}/predict?top_k=10", json={"images": [b64(image)]}, headers=headers, timeout=TIMEOUT_S
    )
    result, done = map(json.loads, response.text.splitlines())
    assert (done["done"], done["count"]) == (True, 1)
    return probabilities(result)


def infer_http(graph: Graph, *arguments: Any, **options: Any) -> Scores:
    """By tritonclient: the input's name and values."""
    with tritonclient.http.InferenceServerClient(graph.address) as client:
        result = client.infer("shapes", [tensor(tritonclient.http, *arguments)], **options)
    return of_row(result.as_numpy("PROBABILITIES")[0])


def oip_http_binary(graph: Graph, image: bytes) -> Scores:
    return infer_http(graph, "IMAGE", encoded(image))


def oip_http_pixels(graph: Graph, image: bytes) -> Scores:
    return infer_http(graph, "PIXELS", pixels(image))


def oip_http_prepared(graph: Graph, image: bytes) -> Scores:
    return infer_http(graph, "INPUT", prepared(image))


def oip_http_json(graph: Graph, image: bytes) -> Scores:
    sent = {"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [b64(image)]}
    outputs = post(graph, "/v2/models/shapes/infer", json={"inputs": [sent]})["outputs"]
    (values,) = [output["data"] for output in outputs if output["name"] == "PROBABILITIES"]
    return of_row(np.array(values))


def oip_http_raw(graph: Graph, image: bytes) -> Scores:
    headers = {"inference-header-content-length": "0"}
    response = httpx.post(f"{graph.url}/v2/models/shapes/infer", content=image, headers=headers, timeout=TIMEOUT_S)
    length = int(response.headers["inference-header-content-length"])
    result = tritonclient.http.InferResult.from_response_body(response.content, header_length=length)
    return of_row(result.as_numpy("PROBABILITIES")[0])


def oip_grpc_raw(graph: Graph, image: bytes) -> Scores:
    with tritonclient.grpc.InferenceServerClient(graph.grpc_address) as client:
        result = client.infer("shapes", [tensor(tritonclient.grpc, "IMAGE", encoded(image))])
    return of_row(result.as_numpy("PROBABILITIES")[0])


def oip_grpc_classes(graph: Graph, image: bytes) -> Scores:
    outputs = [tritonclient.grpc.InferRequestedOutput("PROBABILITIES", class_count=len(LABELS))]
    with tritonclient.grpc.InferenceServerClient(graph.grpc_address) as client:
        result = client.infer("shapes", [tensor(tritonclient.grpc, "IMAGE", encoded(image))], outputs=outputs)
    return of_classes(result.as_numpy("PROBABILITIES")[0])


def oip_request(image: bytes) -> Any:
    contents = inference_pb2.InferTensorContents(bytes_contents=[image])
    sent = inference_pb2.ModelInferRequest.InferInputTensor(
        name="IMAGE", datatype="BYTES", shape=[1], contents=contents
    )
    output = inference_pb2.ModelInferRequest.InferRequestedOutputTensor(name="PROBABILITIES")
    return inference_pb2.ModelInferRequest(model_name="shapes", inputs=[sent], outputs=[output])


def oip_grpc_typed(graph: Graph, image: bytes) -> Scores:
    with grpc.insecure_channel(graph.grpc_address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        response = stub.ModelInfer(oip_request(image), timeout=TIMEOUT_S)
    return of_row(np.frombuffer(response.raw_output_contents[0], np.float32))


def oip_grpc_stream(graph: Graph, image: bytes) -> Scores:
    with grpc.insecure_channel(graph.grpc_address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        (response,) = stub.ModelStreamInfer(iter([oip_request(image)]), timeout=TIMEOUT_S)
    return of_row(np.frombuffer(response.infer_response.raw_output_contents[0], np.float32))


def tensorflow_rows(graph: Graph, image: bytes) -> Scores:
    body = {"instances": [{"b64": b64(image)}]}
    (prediction,) = post(graph, "/v1/models/shapes:predict", json=body)["predictions"]
    return of_row(prediction["PROBABILITIES"])


def tensorflow_columns(graph: Graph, image: bytes) -> Scores:
    body = {"inputs": {"IMAGE": [{"b64": b64(image)}]}}
    return of_row(post(graph, "/v1/models/shapes/versions/1:predict", json=body)["outputs"]["PROBABILITIES"][0])


def tensorflow_classify(graph: Graph, image: bytes) -> Scores:
    body = {"examples": [{"image": {"b64": b64(image)}}]}
    (result,) = post(graph, "/v1/models/shapes:classify", json=body)["results"]
    return dict(result)


def tensorflow_grpc_predict(graph: Graph, image: bytes) -> Scores:
    request = tensorflow_serving_pb2.PredictRequest(model_spec={"name": "shapes"}, output_filter=["PROBABILITIES"])
    request.inputs["IMAGE"].CopyFrom(
        tensorflow_pb2.TensorProto(
            dtype=tensorflow_pb2.DT_STRING, tensor_shape={"dim": [{"size": 1}]}, string_val=[image]
        )
    )
    with grpc.insecure_channel(graph.grpc_address) as channel:
        stub = tensorflow_serving_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(request, timeout=TIMEOUT_S)
    return of_row(response.outputs["PROBABILITIES"].float_val)


def tensorflow_grpc_classify(graph: Graph, image: bytes) -> Scores:
    example = tensorflow_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(image)
    request = tensorflow_serving_pb2.ClassificationRequest(model_spec={"name": "shapes"})
    request.input.example_list.examples.append(example)
    with grpc.insecure_channel(graph.grpc_address) as channel:
        stub = tensorflow_serving_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Classify(request, timeout=TIMEOUT_S)
    (classified,) = response.result.classifications
    return {each.label: each.score for each in classified.classes}


def hugging_face_raw(graph: Graph, image: bytes) -> Scores:
    scores = post(graph, "/", content=image, headers={"content-type": "image/jpeg"})
    assert len(scores) == 5
    return {each["label"]: each["score"] for each in scores}


def hugging_face_json(graph: Graph, image: bytes) -> Scores:
    scores = post(graph, "/", json={"inputs": b64(image), "parameters": {"top_k": len(LABELS)}})
    return {each["label"]: each["score"] for each in scores}


def python_handle(graph: Graph, image: bytes) -> Scores:
    handle = serve.get_app_handle("aperture")
    return probabilities(handle.predict.remote(image, top_k=len(LABELS)).result(timeout_s=TIMEOUT_S))


def python_handle_in_a_task(graph: Graph, image: bytes) -> Scores:
    @ray.remote(num_cpus=0)
    def ask(sent: bytes) -> Any:
        handle = serve.get_app_handle("aperture")
        return handle.predict.remote(sent, top_k=10).result(timeout_s=TIMEOUT_S)

    return probabilities(ray.get(ask.remote(image)))


WAYS: list[Callable[[Graph, bytes], Scores]] = [
    *(predict_raw, predict_multipart, predict_json, predict_json_list, predict_ndjson),
    *(oip_http_binary, oip_http_pixels, oip_http_prepared, oip_http_json, oip_http_raw),
    *(oip_grpc_raw, oip_grpc_classes, oip_grpc_typed, oip_grpc_stream),
    *(tensorflow_rows, tensorflow_columns, tensorflow_classify, tensorflow_grpc_predict, tensorflow_grpc_classify),
    *(hugging_face_raw, hugging_face_json, python_handle, python_handle_in_a_task),
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_protocol_gives_the_same_answer(
    graph: Graph, heart: bytes, expected: Scores, way: Callable[[Graph, bytes], Scores]
) -> None:
    scores = way(graph, heart)
    assert len(scores) in (5, len(LABELS))
    assert scores == pytest.approx({label: expected[label] for label in scores}, abs=1e-6)
    assert max(scores, key=scores.__getitem__) == "heart"


def test_one_bad_image_is_refused_alike_by_every_protocol(graph: Graph, heart: bytes) -> None:
    """The same sentence, whatever the envelope."""
    broken = heart[:2000]
    sentence = httpx.post(f"{graph.url}/predict", content=broken, timeout=TIMEOUT_S).json()["error"]
    assert "JPEG" in sentence or "image" in sentence
    for path, request in (
        ("/v2/models/shapes/infer", {"content": broken, "headers": {"inference-header-content-length": "0"}}),
        ("/v1/models/shapes:predict", {"json": {"instances": [{"b64": b64(broken)}]}}),
        ("/", {"content": broken, "headers": {"content-type": "image/jpeg"}}),
    ):
        response = httpx.post(graph.url + path, timeout=TIMEOUT_S, **request)
        assert (response.status_code, response.json()["error"]) == (422, sentence)
    with closing(grpc.insecure_channel(graph.grpc_address)) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(oip_request(broken), timeout=TIMEOUT_S)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, sentence)
