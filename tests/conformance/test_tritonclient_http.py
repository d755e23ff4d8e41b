"""tritonclient.http: tensors as JSON or as bytes, compressed bodies, the image alone, many requests at once."""

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tritonclient.http import InferenceServerClient, InferResult
from tritonclient.utils import InferenceServerException

from tests.another_hand import LABELS
from tests.conformance.images import encoded, of_classes, of_row, pixels, prepared
from tests.conformance.triton import Triton, connected
from tests.local_graph import Graph
from tests.reference import encode, picture

ALGORITHMS = ["gzip", "deflate"]


@pytest.fixture
def triton(graph: Graph) -> Iterator[Triton]:
    with connected("http", graph, concurrency=4) as connection:
        yield connection


@pytest.mark.parametrize("binary_in", [True, False], ids=["bytes in", "JSON in"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["bytes out", "JSON out"])
@pytest.mark.parametrize("kind", [pixels, prepared])
def test_tensors_travel_as_json_or_as_bytes(
    triton: Triton, binary_in: bool, binary_out: bool, kind: Any, heart: bytes, expected: dict[str, float]
) -> None:
    values: NDArray[Any] = kind(heart)
    name = "PIXELS" if values.dtype == np.uint8 else "INPUT"
    inputs = [triton.input(name, values, binary_data=binary_in)]
    outputs = [triton.output(each, binary_data=binary_out) for each in ("PROBABILITIES", "LOGITS")]
    result = triton.client.infer("shapes", inputs, outputs=outputs)
    assert [("data" in output) for output in result.get_response()["outputs"]] == [not binary_out] * 2
    assert of_row(result.as_numpy("PROBABILITIES")[0]) == pytest.approx(expected, abs=1e-6)
    assert result.as_numpy("LOGITS").shape == (1, len(LABELS))


def test_an_output_in_json_and_another_as_bytes(triton: Triton, heart: bytes) -> None:
    outputs = [
        triton.output("PROBABILITIES", binary_data=False, class_count=2),
        triton.output("LOGITS", binary_data=True),
    ]
    result = triton.infer("IMAGE", encoded(heart), outputs=outputs)
    best, *_ = result.as_numpy("PROBABILITIES")[0]  # Text, since JSON has no bytes.
    assert best.endswith(":heart")
    assert result.as_numpy("LOGITS").shape == (1, len(LABELS))


@pytest.mark.parametrize("sent", [None, *ALGORITHMS])
@pytest.mark.parametrize("answered", [None, *ALGORITHMS])
def test_bodies_may_be_compressed_either_way(
    triton: Triton, sent: str | None, answered: str | None, heart: bytes, expected: dict[str, float]
) -> None:
    result = triton.infer(
        "PIXELS",
        pixels(heart),
        request_compression_algorithm=sent,
        response_compression_algorithm=answered,
    )
    assert of_row(result.as_numpy("PROBABILITIES")[0]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_large_answers_come_compressed_if_that_is_asked_for(
    client: httpx.Client, triton: Triton, heart: bytes, algorithm: str
) -> None:
    body, length = InferenceServerClient.generate_request_body(
        [triton.input("IMAGE", encoded(*[heart] * 40))], outputs=[triton.output("LOGITS", binary_data=False)]
    )
    headers = {"inference-header-content-length": str(length), "accept-encoding": algorithm}
    response = client.post("/v2/models/shapes/infer", content=body, headers=headers)
    assert response.status_code == 200
    assert response.headers["content-encoding"] == algorithm
    assert int(response.headers["content-length"]) < len(response.content)
    assert len(response.json()["outputs"][0]["data"]) == 40 * len(LABELS)


def test_a_body_may_be_the_image_alone(client: httpx.Client, heart: bytes, expected: dict[str, float]) -> None:
    response = client.post("/v2/models/shapes/infer", content=heart, headers={"inference-header-content-length": "0"})
    length = int(response.headers["inference-header-content-length"])
    result = InferResult.from_response_body(response.content, header_length=length)
    assert of_row(result.as_numpy("PROBABILITIES")[0]) == pytest.approx(expected, abs=1e-6)


def test_bodies_of_the_client_can_be_sent_by_other_means(
    client: httpx.Client, triton: Triton, heart: bytes, expected: dict[str, float]
) -> None:
    body, length = InferenceServerClient.generate_request_body([triton.input("IMAGE", encoded(heart))])
    response = client.post(
        "/v2/models/shapes/infer", content=body, headers={"Inference-Header-Content-Length": str(length)}
    )
    header = int(response.headers["Inference-Header-Content-Length"])
    result = InferenceServerClient.parse_response_body(response.content, header_length=header)
    assert of_row(result.as_numpy("PROBABILITIES")[0]) == pytest.approx(expected, abs=1e-6)


def test_requests_in_flight_together_keep_their_answers(triton: Triton) -> None:
    pending = [triton.client.async_infer("shapes", [triton.input("IMAGE", encoded(picture(each)))]) for each in LABELS]
    answers = [of_row(each.get_result().as_numpy("PROBABILITIES")[0]) for each in pending]
    assert [max(answer, key=answer.__getitem__) for answer in answers] == list(LABELS)


def test_a_request_in_flight_that_fails_says_why(triton: Triton) -> None:
    pending = triton.client.async_infer("shapes", [triton.input("IMAGE", encoded(b"nothing"))])
    with pytest.raises(InferenceServerException) as caught:
        pending.get_result()
    assert caught.value.status() == "415"


def test_errors_of_every_route_are_what_the_client_parses(triton: Triton) -> None:
    for call, arguments in (
        ("get_model_metadata", ("cats",)),
        ("get_model_config", ("cats",)),
        ("get_inference_statistics", ("cats",)),
        ("get_trace_settings", ()),
        ("get_log_settings", ()),
        ("get_system_shared_memory_status", ()),
        ("get_cuda_shared_memory_status", ()),
    ):
        with pytest.raises(InferenceServerException) as caught:
            getattr(triton.client, call)(*arguments)
        assert caught.value.status() in ("404", "501"), call
        assert "decoding the response" not in caught.value.message()


def test_statistics_of_all_models_come_together(triton: Triton) -> None:
    every = triton.client.get_inference_statistics()["model_stats"]
    assert {each["name"] for each in every} == {"shapes", "colours", "slow", "tensors"}
    (one,) = triton.client.get_inference_statistics("colours", "1")["model_stats"]
    assert one["name"] == "colours"


def test_large_images_pass(triton: Triton, heart: bytes) -> None:
    large = encode(Image.open(io.BytesIO(heart)).resize((1500, 1500)), "BMP")
    assert len(large) > 6_000_000
    classes = triton.infer("IMAGE", encoded(large), outputs=[triton.output("PROBABILITIES", class_count=1)])
    assert list(of_classes(classes.as_numpy("PROBABILITIES")[0])) == ["heart"]


def test_metadata_is_json(client: httpx.Client) -> None:
    for path in ("/v2", "/v2/models/shapes", "/v2/models/shapes/versions/1/config", "/v2/models/stats"):
        response = client.get(path)
        assert response.headers["content-type"] == "application/json"
        assert json.loads(response.content)
