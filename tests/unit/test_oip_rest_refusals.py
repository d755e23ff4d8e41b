"""Open Inference Protocol over HTTP: whatever else a client sends is refused with a sentence, and soon."""

import json
from typing import Any

import pytest

from deployments.errors import DeadlineExceeded
from tests.unit.bytes_plane import MAX_IMAGES, BytesPlane, info, refusal
from tests.unit.oip_requests import (
    IMAGE,
    INPUT,
    PIXELS,
    image_input,
    post,
    post_binary,
    post_json,
    refused,
    refused_binary,
    sized,
)

# The body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'"text"',
        b"[" * 60_000,
        b'{"inputs":' + b"[" * 5000,
        b"[" * 9000 + b"NaN",
    ],
    ids=lambda body: repr(body[:9]),
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    assert "JSON" in refused(body)


@pytest.mark.parametrize(
    "inputs", [None, {}, "IMAGE", [], [1], [None], [[]], [{}], [IMAGE, IMAGE], [IMAGE, PIXELS], [{}] * 9999]
)
def test_anything_but_one_input_is_refused(inputs: object) -> None:
    refused({"inputs": inputs})


def test_a_request_without_inputs_is_refused() -> None:
    assert "inputs must be a list" in refused({"id": "1"})


# Names and datatypes


@pytest.mark.parametrize("name", ["image", "", "LOGITS", "X" * 100_000, "\ud800", None, 5, ["IMAGE"], {}])
def test_an_input_that_the_model_does_not_have_is_refused(name: object) -> None:
    refused({"inputs": [{**IMAGE, "name": name}]})


def test_an_input_that_the_model_does_not_announce_is_refused() -> None:
    plane = BytesPlane(models={"shapes": info("shapes", 3, ("PIXELS", "INPUT"))})
    assert "PIXELS or INPUT" in refused({"inputs": [IMAGE]}, plane=plane)


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "INT64", "bytes", "X" * 100_000, None, 1, []])
@pytest.mark.parametrize("tensor", [IMAGE, PIXELS])
def test_another_datatype_is_refused(tensor: dict[str, Any], datatype: object) -> None:
    assert "datatype" in refused({"inputs": [{**tensor, "datatype": datatype}]})


# Shapes


@pytest.mark.parametrize(
    "shape",
    [
        *(None, 1, "1", {}, [], [0], [-1], [True], [1.0], ["1"], [None], [[1]], [1, 2], [2], [1, 1, 1]),
        *([2**62, 2**62], [2**64 - 1], [2**63], [10**4000], [-(2**63)], [2**31, 2**33], [1] * 1_000_00),
    ],
    ids=lambda shape: repr(shape)[:24],
)
def test_a_shape_that_is_not_the_images_is_refused(shape: object) -> None:
    """Also where the product of the dimensions overflows, or there are a hundred thousand."""
    body = {"inputs": [{**IMAGE, "shape": shape}]}
    response = post_json(body)
    assert response.status_code in (400, 413), response.text
    assert len(response.json()["error"]) < 400


@pytest.mark.parametrize(
    "shape",
    [
        [1, 2, 1, 3],
        [1, 1, 1, 3],
        [1, 1, 2, 4],
        [1, 0, 2, 3],
        [1, -1, -2, 3],
        [1, 2**62, 2**62, 3],
        [1, 2**32, 2**32, 3],
    ],
)
def test_pixels_of_another_shape_are_refused(shape: list[int]) -> None:
    tensor = {**PIXELS, "shape": shape}
    if shape != [1, 2, 1, 3]:  # The only other one with as many elements.
        refused({"inputs": [{**tensor, "data": [0] * 6}]})
        refused_binary({"inputs": [sized(tensor, 6)]}, bytes(6))
    refused_binary({"inputs": [sized(tensor, 7)]}, bytes(7))


@pytest.mark.parametrize("shape", [[1, 3, 224, 223], [1, 224, 224, 3], [3, 224, 224]])
def test_an_input_that_is_not_of_the_models_size_is_refused(shape: list[int]) -> None:
    assert "[-1, 3, 224, 224]" in refused({"inputs": [{**INPUT, "shape": shape}]})


def test_more_images_than_allowed_are_refused_before_they_are_looked_at() -> None:
    tensor = {"name": "IMAGE", "datatype": "BYTES", "shape": [100_000]}
    # None of these would pass the look.
    assert post_binary({"inputs": [sized(tensor, 5)]}, b"photo").status_code == 413
    refused({"inputs": [{**tensor, "data": ["%"] * 100_000}]}, 413, "too_many_images")
    assert "not 100000" in refused({"inputs": [{**tensor, "shape": [MAX_IMAGES], "data": ["%"] * 100_000}]})


# Outputs and parameters


@pytest.mark.parametrize("outputs", ["LOGITS", {"name": "LOGITS"}, [1], [None], [{}], [{"name": 1}]], ids=repr)
def test_outputs_that_are_no_list_of_names_are_refused(outputs: object) -> None:
    refused({"inputs": [IMAGE], "outputs": outputs})


@pytest.mark.parametrize("names", [["logits"], ["X" * 100_000], ["LOGITS"] * 2, ["LOGITS"] * 9999])
def test_outputs_that_the_model_does_not_have_or_only_once_are_refused(names: list[str]) -> None:
    refused({"inputs": [IMAGE], "outputs": [{"name": name} for name in names]})


WRONG_FLAGS = [{"binary_data": wrong} for wrong in (1, "true", None)]
WRONG_COUNTS = [{"classification": wrong} for wrong in (-1, -(2**63), "1", 1.0, True, None, [0])]


@pytest.mark.parametrize("parameters", [1, "x", [], *WRONG_FLAGS, *WRONG_COUNTS], ids=repr)
def test_parameters_of_an_output_of_the_wrong_kind_are_refused(parameters: object) -> None:
    refused({"inputs": [IMAGE], "outputs": [{"name": "LOGITS", "parameters": parameters}]})


WRONG_TIMEOUTS = [{"timeout": wrong} for wrong in (-1, 0.5, "1000", True, None, [1])]
WRONG_DEFAULTS = [{"binary_data_output": wrong} for wrong in (1, "true", None)]


@pytest.mark.parametrize("parameters", [1, "x", [], *WRONG_TIMEOUTS, *WRONG_DEFAULTS], ids=repr)
def test_parameters_of_the_wrong_kind_are_refused(parameters: object) -> None:
    refused({"inputs": [IMAGE], "parameters": parameters})


@pytest.mark.parametrize("wrong", [1, True, ["a"], {}], ids=repr)
def test_an_id_that_is_no_text_is_refused(wrong: object) -> None:
    refused({"inputs": [IMAGE], "id": wrong})


def test_a_timeout_of_any_size_is_a_timeout() -> None:
    plane = BytesPlane()
    text = json.dumps({"inputs": [IMAGE], "parameters": {"timeout": 0, "x": 1}}).replace(
        '"timeout": 0', '"timeout": 1' + "0" * 400
    )
    assert post(text.replace('"x": 1', '"x": NaN').encode(), plane).status_code == 200
    assert [20 < (timeout_s or 0) <= 30 for timeout_s in plane.timeouts_s] == [True]


def test_half_a_surrogate_pair_is_no_id() -> None:
    # NaN sends the body to the parser that takes both.
    text = json.dumps({"inputs": [IMAGE], "id": "\ud800", "parameters": {"x": float("nan")}})
    assert "id must be" in refused(text.encode())


# The model, and what comes back from it


@pytest.mark.parametrize(
    "path", ["/v2/models/cats/infer", "/v2/models/shapes/versions/4/infer", "/v2/models/a%2Fb/infer"]
)
def test_a_model_or_version_that_is_not_there_is_not_found(path: str) -> None:
    assert post_json({"inputs": [IMAGE]}, path=path).status_code == 404


@pytest.mark.parametrize("version", ["latest", "-1", "1.0", "٣", "9" * 5000])
def test_a_version_that_is_no_number_is_refused(version: str) -> None:
    assert "is a number" in refusal(
        post_json({}, path=f"/v2/models/shapes/versions/{version}/infer"), 400, "bad_request"
    )


def test_a_corrupt_image_is_the_answer_for_all_and_says_which_it_is() -> None:
    sentence = refusal(post_json({"inputs": [image_input(b"good", b"bad")]}), 422, "corrupt_image")
    assert "Image 2 of 2" in sentence


def test_a_failure_of_the_data_plane_has_its_own_status() -> None:
    plane = BytesPlane(failure=DeadlineExceeded("late"))
    assert refusal(post_json({"inputs": [IMAGE]}, plane), 408, "deadline_exceeded") == "late"
