"""TensorFlow Serving's REST API: predict requests that are refused, each with what it must be."""

import pytest

from deployments.errors import InferenceFailed
from tests.unit.bytes_plane import (
    MAX_IMAGES,
    BytesPlane,
    refusal,
)
from tests.unit.tfserving_requests import (
    CLASSIFY,
    PREDICT,
    SIDE,
    b64,
    post,
    with_inputs,
)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[" * 60_000, "not valid JSON"),
        ([], "must be an object with instances or inputs"),
        ({}, "has neither"),
        ({"instances": [b64(b"a")], "inputs": [b64(b"a")]}, "has instances and inputs"),
        ({"instances": []}, "instances must be a list with at least one image, not a list"),
        ({"instances": b64(b"a")}, "instances must be a list with at least one image, not an object"),
        ({"inputs": "a"}, "inputs must be a list with at least one image, not 'a'"),
        ({"inputs": {}}, "inputs has one name with its values; this one has 0"),
        ({"inputs": {"IMAGE": [b64(b"a")], "x": []}}, "inputs has one name with its values; this one has 2"),
        ({"inputs": {"IMAGE": b64(b"a")}}, "inputs['IMAGE'] must be a list"),
        ({"inputs": {"x" * 9999: 1}}, "...] must be a list"),
        ({"inputs": [{"IMAGE": b64(b"a")}]}, 'inputs[0] must be an object with the key "b64" alone'),
        ({"instances": [b64(b"a"), {}]}, "instances[1] must have one input by its name; it has 0"),
        ({"instances": [{"a": b64(b"a"), "b": b64(b"b")}]}, "instances[0] must have one input by its name; it has 2"),
        ({"instances": [{"b64": "YQ==", "x": 1}]}, 'instances[0] must be an object with the key "b64" alone'),
        ({"instances": ["YQ=="]}, "instances[0] must be {\"b64\": ...} or nested lists of numbers, not 'YQ=='"),
        ({"instances": [{"IMAGE": "YQ=="}]}, "instances[0] must be"),
        ({"instances": [None]}, "not None"),
        ({"instances": [3]}, "not 3"),
        ({"instances": [{"b64": "####"}]}, 'instances[0]["b64"] must be a base64 string'),
        ({"instances": [{"b64": 3}]}, 'instances[0]["b64"] must be a base64 string'),
        ({"instances": [{"b64": ""}]}, 'instances[0]["b64"] must be a base64 string'),
        ({"instances": [{"INPUT": b64(b"a")}]}, "not 'INPUT' of 'DT_STRING'"),
        ({"instances": [{"IMAGE": [[[1, 2, 3]]]}]}, "not 'IMAGE' of 'DT_UINT8'"),
        ({"instances": [b64(b"a")], "signature_name": "other"}, "there is no 'other'"),
        ({"instances": [b64(b"a")], "signature_name": ["x"]}, "signature_name must be a string, not a list"),
    ],
)
def test_what_is_no_predict_request_is_refused_with_what_it_must_be(body: object, words: str) -> None:
    plane = BytesPlane()
    error = refusal(post(body, plane=plane), 400, "bad_request")
    assert words in error
    assert len(error) < 300
    assert plane.images == []


@pytest.mark.parametrize(
    "pixels",
    [
        "[]",
        "[[[]]]",
        "[[[1, 2]]]",
        "[[[1, 2, 3, 4]]]",
        "[[1, 2, 3]]",
        "[[[[1, 2, 3]]]]",
        "[[[1, 2, 3]], [[1, 2]]]",
        "[[[1, 2, 3], 4]]",
        "[[[1, 2, 256]]]",
        "[[[1, 2, -1]]]",
        "[[[1, 2, 0.5]]]",
        "[[[1, 2, 3.0]]]",
        "[[[1, 2, NaN]]]",
        "[[[1, 2, Infinity]]]",
        "[[[1, 2, true]]]",
        "[[[1, 2, null]]]",
        '[[[1, 2, "3"]]]',
        '[["123"]]',
        '[[{"1": 1, "2": 2, "3": 3}]]',
        "[[[1, 2, 99999999999999999999]]]",
        "[" * 30 + "1" + "]" * 30,
    ],
)
def test_lists_that_are_no_pixels_are_refused(pixels: str) -> None:
    plane = BytesPlane()
    refusal(post(f'{{"instances": [{pixels}]}}'.encode(), plane=plane), 400, "bad_request")
    assert plane.images == []


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e30", "99", "true", '"0"'])
def test_floats_that_no_pixel_can_become_are_refused(value: str) -> None:
    row = "[" + ", ".join(["0"] * (SIDE - 1) + [value]) + "]"
    plane_of_zeros = "[" + ", ".join([row] * SIDE) + "]"
    body = f'{{"instances": [{{"INPUT": [{", ".join([plane_of_zeros] * 3)}]}}]}}'.encode()
    refusal(post(body), 400, "bad_request")


def test_an_input_that_the_model_does_not_take_is_refused() -> None:
    error = refusal(post({"instances": [b64(b"a")]}, plane=with_inputs("INPUT")), 400, "bad_request")
    assert "takes INPUT of DT_FLOAT" in error


@pytest.mark.parametrize("key", ["instances", "inputs", "examples"])
def test_too_many_images_are_refused_before_one_is_decoded(key: str) -> None:
    path = CLASSIFY if key == "examples" else PREDICT
    refusal(post({key: ["nothing"] * (MAX_IMAGES + 1)}, path), 413, "too_many_images")


def test_one_bad_image_fails_its_request_with_its_place() -> None:
    response = post({"instances": [b64(b"fine"), b64(b"bad")]})
    assert refusal(response, 422, "corrupt_image") == "Image 2 of 2: The image is corrupt."


def test_a_failure_of_the_model_is_the_answer() -> None:
    response = post({"instances": [b64(b"a")]}, plane=BytesPlane(failure=InferenceFailed("It failed.")))
    assert refusal(response, 500, "inference_failed") == "It failed."
