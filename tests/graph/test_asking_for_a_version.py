"""Asking for a version, and being told which one answered, through Serve's proxies: nothing on the way drops a name."""

from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from ray import serve

from deployments.errors import BadRequest, UnknownModel
from deployments.protocols.generated import inference_pb2 as oip
from deployments.protocols.generated import inference_pb2_grpc
from tests.graph.test_grpc_inference import TIMEOUT_S, images_request
from tests.local_graph import Graph
from tests.reference import Reference, picture


@pytest.fixture
def inference(graph: Graph) -> Iterator[Any]:
    with grpc.insecure_channel(graph.grpc_address) as channel:
        yield inference_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture
def names(client: httpx.Client, reference: Reference) -> dict[str, str]:
    """What every answer of the model must be named by."""
    metadata = client.get("/v2/models/shapes").json()
    assert metadata["version_status"] == [{"version": str(reference.version), "state": "AVAILABLE", "reason": ""}]
    return {"x-model-version": str(reference.version), "x-preprocessing-spec": metadata["preprocessing"]["digest"]}


@pytest.mark.parametrize(
    "path", ["/predict", "/predict?version=1", "/", "/v2/models/shapes/infer", "/v2/models/shapes/versions/1/infer"]
)
def test_an_answer_over_http_is_named(client: httpx.Client, names: dict[str, str], path: str) -> None:
    headers = {"x-routing-key": "somebody", "content-type": "image/png"}
    if path.startswith("/v2"):
        headers["inference-header-content-length"] = "0"
    response = client.post(path, content=picture("heart"), headers=headers)
    assert response.status_code == 200, response.text
    assert {name: response.headers[name] for name in names} == names


def test_a_line_of_answers_is_named_before_it_begins(client: httpx.Client, names: dict[str, str]) -> None:
    request = client.build_request(
        "POST", "/predict", content=picture("heart"), headers={"accept": "application/x-ndjson"}
    )
    response = client.send(request, stream=True)
    assert {name: response.headers[name] for name in names} == names
    response.close()


def test_an_answer_over_grpc_is_named_beside_the_requests_id(inference: Any, names: dict[str, str]) -> None:
    _, call = inference.ModelInfer.with_call(
        images_request([picture("heart")]), metadata=[("x-routing-key", "somebody")], timeout=TIMEOUT_S
    )
    trailing = list(call.trailing_metadata())
    assert {key: value for key, value in trailing if key in names} == names
    assert [key for key, _ in trailing].count("request_id") == 1


@pytest.mark.parametrize(("version", "status"), [("7", "NOT_FOUND"), ("canary", "NOT_FOUND")])
def test_a_version_or_label_that_is_not_there_is_not_found_over_grpc(inference: Any, version: str, status: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        inference.ModelMetadata(oip.ModelMetadataRequest(name="shapes", version=version), timeout=TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode[status]


def test_a_handle_asks_for_a_version(graph: Graph, reference: Reference) -> None:
    handle = serve.get_app_handle("aperture")
    answer = handle.predict.remote(picture("heart"), version=reference.version).result(timeout_s=TIMEOUT_S)
    assert answer["version"] == reference.version
    for arguments, error in (
        ({"version": 7}, UnknownModel),
        ({"label": "beta"}, UnknownModel),
        ({"version": 1, "label": "beta"}, BadRequest),
    ):
        with pytest.raises(error):
            handle.predict.remote(picture("heart"), **arguments).result(timeout_s=TIMEOUT_S)
