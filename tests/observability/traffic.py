"""Requests of every kind, so that everything that is counted of them is counted."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import grpc
import httpx
from PIL import Image
from ray import serve

from deployments.protocols.generated import inference_pb2_grpc, tensorflow_serving_pb2_grpc
from deployments.protocols.generated import tensorflow_serving_pb2 as tfs
from tests.faulty_graph import picture_of
from tests.graph.test_grpc_inference import images_request
from tests.local_graph import SLOW_S, Graph
from tests.reference import picture

TIMEOUT_S = 30
# For the model `slow`: all of them at once would take longer than they have.
IMPATIENT = 8
# Images on trial: too few to say anything of the canary, and enough to tell by half of them that it disagrees.
FEW, MANY = 2, 24

_colours = count()


def ask_everything(graph: Graph, trial: str, on_trial: int) -> None:
    """Takes some seconds, most of them for the model that is slow."""
    with httpx.Client(base_url=graph.url, timeout=TIMEOUT_S) as client:
        ask_by_http(client)
        ask_too_much(client)
    ask_by_grpc(graph)
    serve.get_app_handle("aperture").predict.remote(picture("heart")).result(timeout_s=TIMEOUT_S)
    with httpx.Client(base_url=trial, timeout=TIMEOUT_S) as client:
        ask_on_trial(client, on_trial)


def ask_by_http(client: httpx.Client) -> None:
    heart = picture("heart")
    encoded = base64.b64encode(heart).decode()
    files = [("file", ("a.png", heart)), ("file", ("b.png", picture("star")))]
    client.post("/predict", content=heart).raise_for_status()
    client.post("/predict", files=files).raise_for_status()
    client.post("/", content=heart).raise_for_status()
    client.post("/v1/models/shapes:predict", json={"instances": [{"b64": encoded}]}).raise_for_status()
    tensor = {"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [encoded]}
    client.post("/v2/models/shapes/infer", json={"inputs": [tensor]})
    assert client.post("/predict", content=heart[:100]).status_code == 422
    assert client.post("/predict?model=nobody", content=heart).status_code == 404


def ask_too_much(client: httpx.Client) -> None:
    """Some are answered; the others are refused as too many, or run out of time."""

    def ask(timeout_s: float) -> int:
        headers = {"x-request-timeout-seconds": f"{timeout_s:g}"}
        return client.post("/predict?model=slow", content=picture("star"), headers=headers).status_code

    assert ask(TIMEOUT_S) == 200
    with ThreadPoolExecutor(IMPATIENT) as threads:
        assert set(threads.map(ask, [2 * SLOW_S] * IMPATIENT)) <= {200, 408, 503}
    assert ask(SLOW_S / 2) == 408


def ask_by_grpc(graph: Graph) -> None:
    # Of two applications.
    metadata = (("application", "aperture"),)
    classification = tfs.ClassificationRequest(model_spec={"name": "shapes"})
    example = classification.input.example_list.examples.add()
    example.features.feature["image/encoded"].bytes_list.value.append(picture("heart"))
    with grpc.insecure_channel(graph.grpc_address) as channel:
        infer = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        infer(images_request([picture("heart")]), metadata=metadata, timeout=TIMEOUT_S)
        classify = tensorflow_serving_pb2_grpc.PredictionServiceStub(channel).Classify
        classify(classification, metadata=metadata, timeout=TIMEOUT_S)


def ask_on_trial(client: httpx.Client, count: int) -> None:
    images = [new_picture() for _ in range(count)]
    for image in [*images, images[-1], images[-1]]:
        client.post("/predict", content=image).raise_for_status()
    batch = [images[0], picture_of("throw"), images[1]]
    body = {"images": [base64.b64encode(image).decode() for image in batch]}
    results = client.post("/predict", json=body).raise_for_status().json()["results"]
    assert [result.get("code") for result in results] == [None, "inference_failed", None]


def new_picture() -> bytes:
    """Of another colour than all before, so that no cache has it."""
    number = next(_colours)
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (250, number // 200, number % 200)).save(file, "PNG")
    return file.getvalue()
