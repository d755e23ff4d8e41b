"""Open Inference Protocol over HTTP: what an inference request may look like, and what it is answered."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.messages import Prepared
from tests.unit.bytes_plane import LABELS, BytesPlane, info, logits_of, probabilities_of
from tests.unit.oip_requests import (
    HEADER,
    INFER,
    array_input,
    encoded,
    head_of,
    image_input,
    infer_images,
    outputs_of,
    post,
    post_binary,
    post_json,
    sized,
)

JPEG = b"\xff\xd8 not text \xff\xd9"
PIXELS = np.arange(2 * 5 * 4 * 3, dtype=np.uint8).reshape(2, 5, 4, 3)
BLACK = np.broadcast_to(-np.array([0.485, 0.456, 0.406]) / np.array([0.229, 0.224, 0.225]), (1, 224, 224, 3)).transpose(
    0, 3, 1, 2
)
INPUT = np.ascontiguousarray(BLACK, np.float32)


def logits(*images: Any) -> NDArray[np.float32]:
    return np.stack([logits_of(image) for image in images])


# Inputs


def test_images_as_base64_are_answered_in_json_with_all_outputs() -> None:
    response = post_json({"inputs": [image_input(JPEG, b"two")]})
    assert response.headers["content-type"] == "application/json"
    assert HEADER not in response.headers
    head = head_of(response)
    assert (head["model_name"], head["model_version"]) == ("shapes", "3")
    assert [(each["name"], each["datatype"], each["shape"]) for each in head["outputs"]] == [
        ("PROBABILITIES", "FP32", [2, 7]),
        ("LOGITS", "FP32", [2, 7]),
    ]
    np.testing.assert_array_equal(outputs_of(response)["LOGITS"], logits(JPEG, b"two"))
    np.testing.assert_array_equal(
        outputs_of(response)["PROBABILITIES"], [probabilities_of(JPEG), probabilities_of(b"two")]
    )


def test_images_after_the_json_are_the_same_images() -> None:
    blob = encoded(JPEG, b"two")
    response = post_binary({"inputs": [sized(image_input(JPEG, b"two"), len(blob))]}, blob)
    np.testing.assert_array_equal(outputs_of(response)["LOGITS"], logits(JPEG, b"two"))


@pytest.mark.parametrize("data", [[["dHdv"], ["b25l"]], ["dHdv", "b25l"], ["dHdv\n", "b25\r\nl"]])
def test_images_may_have_a_dimension_of_one_element_each(data: object) -> None:
    plane = BytesPlane()
    tensor = {"name": "IMAGE", "datatype": "BYTES", "shape": [2, 1], "data": data}
    outputs_of(post_json({"inputs": [tensor]}, plane))
    blob = encoded(b"two", b"one")
    outputs_of(post_binary({"inputs": [sized(tensor, len(blob))]}, blob, plane))
    assert plane.images == [b"two", b"one"] * 2


def test_what_kserve_writes_beside_base64_is_taken() -> None:
    tensor = {**image_input(JPEG), "parameters": {"content_type": "base64"}}
    np.testing.assert_array_equal(outputs_of(post_json({"inputs": [tensor]}))["LOGITS"], logits(JPEG))


@pytest.mark.parametrize("flat", [True, False])
def test_pixels_as_json_are_row_major_whether_flat_or_nested(flat: bool) -> None:
    tensor = array_input("PIXELS", PIXELS, PIXELS.ravel().tolist() if flat else PIXELS.tolist())
    np.testing.assert_array_equal(outputs_of(post_json({"inputs": [tensor]}))["LOGITS"], logits(*PIXELS))


def test_pixels_after_the_json_are_row_major() -> None:
    body = {"inputs": [sized(array_input("PIXELS", PIXELS), PIXELS.nbytes)]}
    np.testing.assert_array_equal(outputs_of(post_binary(body, PIXELS.tobytes()))["LOGITS"], logits(*PIXELS))


def test_an_input_that_the_client_preprocessed_reaches_the_model_as_pixels() -> None:
    plane = BytesPlane()
    body = {"inputs": [sized(array_input("INPUT", INPUT), INPUT.nbytes)]}
    outputs_of(post_binary(body, INPUT.astype("<f4").tobytes(), plane))
    (image,) = plane.images
    assert isinstance(image, Prepared)
    np.testing.assert_array_equal(image.pixels, np.zeros((224, 224, 3), np.uint8))


def test_a_body_without_json_is_one_image_answered_in_binary() -> None:
    response = post(JPEG, headers={HEADER: "0"})
    assert response.headers["content-type"] == "application/octet-stream"
    np.testing.assert_array_equal(outputs_of(response)["LOGITS"], logits(JPEG))


def test_a_body_without_json_is_the_input_of_a_model_that_takes_no_other() -> None:
    plane = BytesPlane(models={"shapes": info("shapes", 3, ("INPUT",))})
    outputs = outputs_of(post(INPUT.tobytes(), plane, headers={HEADER: "0"}))
    assert outputs["PROBABILITIES"].shape == (1, 7)


@pytest.mark.parametrize("version", ["3", "03"])
def test_the_version_may_be_named(version: str) -> None:
    head = infer_images([b"x"], path=f"/v2/models/shapes/versions/{version}/infer")
    assert head["model_version"] == "3"


def test_another_model_is_answered_by_that_model() -> None:
    assert infer_images([b"x"], path="/v2/models/others/infer")["model_name"] == "others"


# Outputs


@pytest.mark.parametrize(
    ("outputs", "default", "binary"),
    [
        ([{"name": "LOGITS"}, {"name": "PROBABILITIES"}], False, set()),
        ([{"name": "LOGITS"}, {"name": "PROBABILITIES"}], True, {"LOGITS", "PROBABILITIES"}),
        ([{"name": "LOGITS", "parameters": {"binary_data": True}}, {"name": "PROBABILITIES"}], False, {"LOGITS"}),
        (
            [{"name": "LOGITS", "parameters": {"binary_data": False}}, {"name": "PROBABILITIES"}],
            True,
            {"PROBABILITIES"},
        ),
        ([], True, {"LOGITS", "PROBABILITIES"}),
        ([{"name": "LOGITS", "parameters": {"binary_data": True}}], False, {"LOGITS"}),
    ],
)
def test_each_output_is_binary_if_it_is_asked_to_be(
    outputs: list[dict[str, Any]], default: bool, binary: set[str]
) -> None:
    body = {"inputs": [image_input(JPEG)], "outputs": outputs, "parameters": {"binary_data_output": default}}
    response = post_json(body)
    head, values = head_of(response), outputs_of(response)
    assert {each["name"] for each in head["outputs"] if "data" not in each} == binary
    assert (response.headers["content-type"] == "application/octet-stream") == bool(binary)
    if outputs:
        assert [each["name"] for each in head["outputs"]] == [each["name"] for each in outputs]
    np.testing.assert_array_equal(values["LOGITS"], logits(JPEG))


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(("asked", "answered"), [(1, 1), (3, 3), (7, 7), (8, 7), (2**62, 7)])
def test_classification_names_the_best_classes_first(binary: bool, asked: int, answered: int) -> None:
    wish = {"name": "PROBABILITIES", "parameters": {"classification": asked, "binary_data": binary}}
    response = post_json({"inputs": [image_input(b"a", b"b")], "outputs": [wish]})
    assert head_of(response)["outputs"][0]["shape"] == [2, answered]
    for image, row in zip((b"a", b"b"), outputs_of(response)["PROBABILITIES"], strict=True):
        probabilities = probabilities_of(image)
        best = sorted(range(7), key=lambda index: -probabilities[index])[:answered]
        assert row == [f"{probabilities[i]:f}:{i}:{LABELS[i]}".encode() for i in best]


def test_json_values_are_exactly_those_of_the_model() -> None:
    images = [f"image {number}".encode() for number in range(10)]
    values = outputs_of(post_json({"inputs": [image_input(*images)]}))["PROBABILITIES"]
    np.testing.assert_array_equal(values, [probabilities_of(image) for image in images])


# Parameters


def test_the_id_comes_back_and_is_left_out_if_there_is_none() -> None:
    assert infer_images([b"x"], id="mine-ü")["id"] == "mine-ü"
    assert "id" not in infer_images([b"x"])


@pytest.mark.parametrize(
    ("parameters", "most_s"),
    [({"timeout": 15_000_000}, 15), ({"timeout": 1}, 1e-6), ({"timeout": 0}, 30), ({}, 30), ({"timeout": 10**9}, 30)],
)
def test_the_timeout_is_in_microseconds_and_at_most_the_services_own(parameters: dict[str, int], most_s: float) -> None:
    plane = BytesPlane()
    infer_images([b"x"], plane, parameters=parameters)
    assert [most_s - 10 < (timeout_s or 0) <= most_s for timeout_s in plane.timeouts_s] == [True]


def test_parameters_that_mean_nothing_here_are_ignored() -> None:
    parameters = {"priority": 5, "sequence_id": "a", "sequence_start": True, "triton_x": 1, "anything": {"deep": [1]}}
    infer_images([b"x"], parameters=parameters, unknown_key=[1])


def test_what_is_null_is_not_there() -> None:
    tensor = {**image_input(b"x"), "parameters": None}
    response = post_json({"inputs": [tensor], "outputs": None, "id": None, "parameters": None})
    np.testing.assert_array_equal(outputs_of(response)["LOGITS"], logits(b"x"))
    assert "id" not in head_of(response)


def test_server_timing_tells_the_stages_of_the_slowest_image() -> None:
    response = post_json({"inputs": [image_input(b"a", b"b")]}, path=INFER)
    assert "preprocess;dur=20.00, queue;dur=2.00, inference;dur=3.00" in response.headers["server-timing"]
