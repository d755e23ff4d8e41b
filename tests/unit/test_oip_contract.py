"""Open Inference Protocol over HTTP: what the service says of itself and of its models, as Triton's clients read it."""

from typing import Any

import pytest

from deployments.messages import ModelInfo
from tests.unit.bytes_plane import LABELS, MAX_IMAGES, BytesPlane, info, refusal, send

LOADING: dict[str, ModelInfo | None] = {"shapes": info("shapes", 3), "slow": None}


def get(path: str, plane: BytesPlane | None = None) -> Any:
    response = send("GET", path, plane)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_server_names_itself_and_the_extensions_that_it_speaks(path: str) -> None:
    metadata = get(path)
    assert metadata.keys() == {"name", "version", "extensions"}
    assert metadata["name"] == "aperture"
    assert set(metadata["extensions"]) == {
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "statistics",
    }


def test_the_server_is_ready_once_every_model_is() -> None:
    assert get("/v2/health/ready") == {"ready": True}
    response = send("GET", "/v2/health/ready", BytesPlane(models=LOADING))
    assert (response.status_code, response.json()) == (503, {"ready": False})
    assert get("/v2/health/live", BytesPlane(models=LOADING)) == {"live": True}


@pytest.mark.parametrize("path", ["/v2/models/shapes", "/v2/models/shapes/versions/3", "/v2/models/sh%61pes"])
def test_model_metadata_has_the_tensors_with_the_number_of_images_first(path: str) -> None:
    metadata = get(path)
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("shapes", ["3"], "dummy_dummy")
    assert metadata["inputs"] == [
        {"name": "IMAGE", "datatype": "BYTES", "shape": [-1]},
        {"name": "PIXELS", "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
        {"name": "INPUT", "datatype": "FP32", "shape": [-1, 3, 224, 224]},
    ]
    assert metadata["outputs"] == [
        {"name": "PROBABILITIES", "datatype": "FP32", "shape": [-1, 7]},
        {"name": "LOGITS", "datatype": "FP32", "shape": [-1, 7]},
    ]


def test_model_metadata_has_what_only_this_service_knows_beside() -> None:
    metadata = get("/v2/models/shapes")
    assert metadata["labels"] == list(LABELS)
    assert (metadata["device"], metadata["precision"]) == ("cpu", "fp32")
    assert metadata["preprocessing"]["crop_size"] == 224
    assert len(metadata["preprocessing"]["digest"]) == 16


def test_the_config_of_a_model_with_one_input_is_what_image_client_needs() -> None:
    plane = BytesPlane(models={"net": info("net", 1, ("INPUT",))})
    config, metadata = get("/v2/models/net/config", plane), get("/v2/models/net", plane)
    assert config["input"] == [
        {"name": "INPUT", "data_type": "TYPE_FP32", "format": "FORMAT_NCHW", "dims": [3, 224, 224]}
    ]
    assert config["max_batch_size"] == MAX_IMAGES
    assert metadata["inputs"] == [{"name": "INPUT", "datatype": "FP32", "shape": [-1, 3, 224, 224]}]
    assert [each["dims"] for each in config["output"]] == [[7], [7]]


@pytest.mark.parametrize("path", ["/v2/models/shapes/config", "/v2/models/shapes/versions/3/config"])
def test_the_config_says_that_of_several_inputs_each_may_be_left_out(path: str) -> None:
    config = get(path)
    assert [(each["name"], each["data_type"], each["format"], each["dims"]) for each in config["input"]] == [
        ("IMAGE", "TYPE_STRING", "FORMAT_NONE", [1]),
        ("PIXELS", "TYPE_UINT8", "FORMAT_NHWC", [-1, -1, 3]),
        ("INPUT", "TYPE_FP32", "FORMAT_NCHW", [3, 224, 224]),
    ]
    assert all(each["optional"] for each in config["input"])


@pytest.mark.parametrize("path", ["/v2/models/shapes/stats", "/v2/models/shapes/versions/3/stats"])
def test_statistics_count_images_and_batches_as_perf_analyzer_reads_them(path: str) -> None:
    (statistics,) = get(path)["model_stats"]
    assert (statistics["name"], statistics["version"]) == ("shapes", "3")
    assert statistics["last_inference"] == 1700000000000
    assert (statistics["inference_count"], statistics["execution_count"]) == (9, 3)
    inference = statistics["inference_stats"]
    assert inference["success"] == {"count": 2, "ns": 5000}
    assert inference["queue"] == {"count": 2, "ns": 1000}
    durations = ("fail", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
    assert all(inference[name].keys() == {"count", "ns"} for name in durations)
    assert [(each["batch_size"], each["compute_infer"]) for each in statistics["batch_stats"]] == [
        (1, {"count": 1, "ns": 900}),
        (4, {"count": 2, "ns": 3000}),
    ]


def test_statistics_of_all_models_leave_out_those_that_are_not_ready() -> None:
    assert [each["name"] for each in get("/v2/models/stats")["model_stats"]] == ["shapes", "others"]
    assert [each["name"] for each in get("/v2/models/stats", BytesPlane(models=LOADING))["model_stats"]] == ["shapes"]


@pytest.mark.parametrize(
    ("content", "states"),
    [
        (b"", [("shapes", "3", "READY"), ("slow", "", "LOADING")]),
        (b"{}", [("shapes", "3", "READY"), ("slow", "", "LOADING")]),
        (b'{"ready": true}', [("shapes", "3", "READY")]),
    ],
)
def test_the_repository_index_has_the_state_of_every_model(content: bytes, states: list[tuple[str, str, str]]) -> None:
    response = send("POST", "/v2/repository/index", BytesPlane(models=LOADING), content=content)
    assert [(each["name"], each["version"], each["state"]) for each in response.json()] == states


@pytest.mark.parametrize("content", [b"{", b"[]", b"1", b'{"ready": 1}'])
def test_the_repository_index_refuses_another_wish(content: bytes) -> None:
    refusal(send("POST", "/v2/repository/index", content=content), 400, "bad_request")


@pytest.mark.parametrize(("version", "status"), [("", 200), ("/versions/3", 200), ("/versions/03", 200)])
def test_a_warm_model_is_ready(version: str, status: int) -> None:
    assert get(f"/v2/models/shapes{version}/ready") == {"name": "shapes", "ready": True}


def test_a_model_that_is_not_warm_is_known_and_not_ready() -> None:
    plane = BytesPlane(models=LOADING)
    response = send("GET", "/v2/models/slow/ready", plane)
    assert (response.status_code, response.json()) == (503, {"name": "slow", "ready": False})
    refusal(send("GET", "/v2/models/slow", plane), 503, "model_not_ready")


@pytest.mark.parametrize("suffix", ["", "/ready", "/config", "/stats"])
def test_a_model_or_version_that_is_not_there_is_not_found(suffix: str) -> None:
    refusal(send("GET", f"/v2/models/cats{suffix}"), 404, "unknown_model")
    refusal(send("GET", f"/v2/models/shapes/versions/4{suffix}"), 404, "unknown_model")
    refusal(send("GET", f"/v2/models/sh%2Fapes{suffix}"), 404, "not_found")
    refusal(send("GET", f"/v2/models/shapes/versions/latest{suffix}"), 400, "bad_request")


@pytest.mark.parametrize("path", ["/v2/repository/models/shapes/load", "/v2/systemsharedmemory/status", "/v2/logging"])
def test_what_is_not_offered_is_not_found(path: str) -> None:
    refusal(send("POST", path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v2/models/shapes/infer"), ("POST", "/v2"), ("DELETE", "/v2/models/shapes")]
)
def test_another_method_is_not_allowed(method: str, path: str) -> None:
    refusal(send(method, path), 405, "method_not_allowed")
