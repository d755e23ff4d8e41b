"""Models that stock clients unload, load and configure: Triton's own, and TensorFlow Serving's protocol."""

from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from deployments.protocols.generated import tensorflow_serving_pb2 as pb
from deployments.protocols.generated import tensorflow_serving_pb2_grpc
from tests.conformance.triton import Transport, Triton, connected
from tests.local_graph import Graph, graph_config
from tests.reference import Reference

MODEL = "colours"
PIXELS = np.zeros((1, 32, 32, 3), np.uint8)
TIMEOUT_S = 30.0


@pytest.fixture(params=["http", "grpc"])
def triton(graph: Graph, request: pytest.FixtureRequest) -> Iterator[Triton]:
    transport: Transport = request.param
    with connected(transport, graph) as connection:
        yield connection
        connection.client.load_model(MODEL)


def state_in_index(triton: Triton) -> str:
    index = triton.describe("model_repository_index")
    (state,) = [
        each["state"] for each in (index if isinstance(index, list) else index["models"]) if each["name"] == MODEL
    ]
    return str(state)


def test_a_model_is_unloaded_and_loaded_again_and_the_service_stays_ready(triton: Triton) -> None:
    triton.client.unload_model(MODEL)
    assert not triton.client.is_model_ready(MODEL)
    assert triton.client.is_server_ready()
    assert state_in_index(triton) in ("UNLOADING", "UNAVAILABLE")
    with pytest.raises(InferenceServerException, match="'colours' is unloaded") as caught:
        triton.infer("PIXELS", PIXELS, MODEL)
    assert triton.status(caught.value) == "NOT_FOUND"
    triton.client.load_model(MODEL)
    assert triton.client.is_model_ready(MODEL)
    assert state_in_index(triton) == "READY"
    assert triton.infer("PIXELS", PIXELS, MODEL).as_numpy("PROBABILITIES").shape[0] == 1


def test_what_a_load_cannot_do_is_said_to_the_client(triton: Triton) -> None:
    with pytest.raises(InferenceServerException, match="takes no parameter 'config'") as caught:
        triton.client.load_model(MODEL, config="{}")
    assert triton.status(caught.value) == "INVALID_ARGUMENT"
    with pytest.raises(InferenceServerException, match="There is no model 'cats'") as caught:
        triton.client.load_model("cats")
    assert triton.status(caught.value) == "NOT_FOUND"


def test_tensorflow_servings_reload_gives_a_model_labels(graph: Graph, reference: Reference) -> None:
    names = [model["name"] for model in graph_config()["applications"][0]["args"]["models"]]
    url = f"{graph.url}/v1/models/shapes/labels/stable"

    def configured(**shapes: Any) -> pb.ReloadConfigRequest:
        configs = [pb.ModelConfig(name=name, **(shapes if name == "shapes" else {})) for name in names]
        return pb.ReloadConfigRequest(config={"model_config_list": {"config": configs}})

    with grpc.insecure_channel(graph.grpc_address) as channel:
        reload = tensorflow_serving_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
        reload(configured(version_labels={"stable": reference.version}), timeout=TIMEOUT_S)
        (status,) = httpx.get(url).json()["model_version_status"]
        assert status["version"] == str(reference.version)
        with pytest.raises(grpc.RpcError) as caught:
            reload(configured(version_labels={"stable": reference.version + 1}), timeout=TIMEOUT_S)
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        reload(configured(base_path="models/shapes"), timeout=TIMEOUT_S)
    assert httpx.get(url).status_code == 404
