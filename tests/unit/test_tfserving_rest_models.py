"""TensorFlow Serving's REST API: paths, the status of models and their metadata."""

import pytest

from tests.unit.bytes_plane import (
    BytesPlane,
    refusal,
    send,
)
from tests.unit.tfserving_requests import (
    CLASSIFY,
    PREDICT,
    assert_outputs,
    b64,
    post,
)

# Paths


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/shapes:predict",
        "/V1/MODELS/shapes:PREDICT",
        "/v1/models/shapes/versions/3:predict",
        "/v1/Models/shapes/Versions/003:Predict",
    ],
)
def test_paths_are_matched_regardless_of_case_with_the_version_or_without(path: str) -> None:
    assert_outputs(post({"instances": [b64(b"photo")]}, path).json()["predictions"][0], b"photo")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/nothing{}",
        "/v1/models/SHAPES{}",
        "/v1/models/shapes/versions/2{}",
        f"/v1/models/shapes/versions/{'9' * 5000}{{}}",
        "/v1/models/shapes/labels/stable{}",
    ],
)
@pytest.mark.parametrize(
    ("method", "action"), [("POST", ":predict"), ("POST", ":classify"), ("GET", ""), ("GET", "/metadata")]
)
def test_an_unknown_model_version_or_label_is_not_found(path: str, method: str, action: str) -> None:
    refusal(send(method, path.format(action)), 404, "unknown_model")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/v1/models/:predict",
        "/v1/models/shapes:explain",
        "/v1/models/shapes:predict/",
        "/v1/models/shapes:predict%0A",
        "/v1/models/shapes/versions/latest:predict",
        "/v1/models/shapes/versions/\u0663:predict",
        "/v1/models/shapes/versions/3/labels/a:predict",
        "/v1/models/a/b:predict",
    ],
    ids=ascii,
)
def test_other_paths_are_not_there(path: str) -> None:
    refusal(send("POST", path), 404, "not_found")


@pytest.mark.parametrize(("method", "path"), [("GET", PREDICT), ("POST", "/v1/models/shapes"), ("PUT", CLASSIFY)])
def test_another_method_is_not_allowed(method: str, path: str) -> None:
    refusal(send(method, path), 405, "method_not_allowed")


# Status and metadata


@pytest.mark.parametrize("path", ["/v1/models/shapes", "/v1/models/shapes/versions/3"])
def test_the_version_that_is_served_is_available(path: str) -> None:
    assert send("GET", path).json() == {
        "model_version_status": [
            {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }


@pytest.mark.parametrize(("path", "version"), [("/v1/models/shapes", "0"), ("/v1/models/shapes/versions/3", "3")])
def test_a_model_that_is_not_warm_is_loading(path: str, version: str) -> None:
    response = send("GET", path, BytesPlane(models={"shapes": None}))
    assert response.status_code == 200
    (entry,) = response.json()["model_version_status"]
    assert (entry["version"], entry["state"]) == (version, "LOADING")


@pytest.mark.parametrize(("method", "path"), [("POST", PREDICT), ("GET", "/v1/models/shapes/metadata")])
def test_a_model_that_is_not_warm_answers_nothing_else(method: str, path: str) -> None:
    refusal(send(method, path, BytesPlane(models={"shapes": None})), 503, "model_not_ready")


def test_the_metadata_has_the_signature_as_tensorflow_serving_prints_it() -> None:
    body = send("GET", "/v1/models/shapes/versions/3/metadata").json()
    assert body["model_spec"] == {"name": "shapes", "signature_name": "", "version": "3"}
    signature = body["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    shape_of = {
        name: (each["dtype"], [dim["size"] for dim in each["tensor_shape"]["dim"]])
        for name, each in (signature["inputs"] | signature["outputs"]).items()
    }
    assert shape_of == {
        "IMAGE": ("DT_STRING", ["-1"]),
        "PIXELS": ("DT_UINT8", ["-1", "-1", "-1", "3"]),
        "INPUT": ("DT_FLOAT", ["-1", "3", "224", "224"]),
        "PROBABILITIES": ("DT_FLOAT", ["-1", "7"]),
        "LOGITS": ("DT_FLOAT", ["-1", "7"]),
    }
    assert signature["inputs"]["IMAGE"]["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}


def test_where_the_time_went_is_in_the_headers() -> None:
    timing = post({"instances": [b64(b"photo")]}).headers["server-timing"]
    assert "preprocess;dur=10.00" in timing
