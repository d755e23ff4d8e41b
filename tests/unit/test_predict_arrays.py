"""POST /predict with arrays of floats in JSON."""

import numpy as np
import pytest

from deployments.errors import InferenceFailed
from tests.unit.bytes_plane import (
    BytesPlane,
    logits_of,
    predict_json,
    refusal,
)


def test_one_array_reaches_the_model_as_pixels() -> None:
    plane = BytesPlane()
    pixels = np.arange(3 * 8 * 32, dtype=np.uint8).reshape(8, 32, 3)  # Every level, a whole number of times.
    response = predict_json({"input_data": (pixels.transpose(2, 0, 1) / 255).tolist()}, plane)
    (received,) = plane.images
    assert isinstance(received, np.ndarray)
    assert received.dtype == np.dtype("uint8")
    assert received.flags.c_contiguous
    np.testing.assert_array_equal(received, pixels)
    assert response.json() == {"output": [logits_of(pixels).tolist()]}


def test_several_arrays_are_answered_in_their_order() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    response = predict_json({"input_data": (pixels.transpose(0, 3, 1, 2) / 255).tolist()})
    assert response.json() == {"output": [logits_of(image).tolist() for image in pixels]}


def test_levels_are_rounded_to_the_nearest() -> None:
    plane = BytesPlane()
    predict_json({"input_data": [[[100.4 / 255]], [[100.6 / 255]], [[1.0]]]}, plane)
    np.testing.assert_array_equal(plane.images[0], [[[100, 101, 255]]])


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "-0.001", "1.001", "255", "1e300"])
def test_a_level_outside_zero_to_one_is_refused(value: str) -> None:
    body = f'{{"input_data": [[[0.5, {value}]], [[0, 1]], [[0, 1]]]}}'.encode()
    assert refusal(predict_json(body), 400, "bad_request") == "input_data must be floats in [0, 1]."


@pytest.mark.parametrize(
    "value",
    [
        "[[[0, 1]], [[0]], [[0, 1]]]",
        '"pixels"',
        '[[["a"]], [[0]], [[0]]]',
        '{"0": 1}',
        "[" * 70,
        '[[["0.5"]], [["0"]], [["0"]]]',
        "[[[true]], [[false]], [[true]]]",
        "[[[null]], [[0]], [[0]]]",
    ],
    ids=[
        "ragged",
        "text",
        "text inside",
        "an object",
        "70 dimensions",
        "numbers as text",
        "booleans",
        "a null",
    ],
)
def test_input_data_that_is_no_array_of_numbers_is_refused(value: str) -> None:
    body = f'{{"input_data": {value}{"]" * (value.count("[") - value.count("]"))}}}'.encode()
    error = refusal(predict_json(body), 400, "bad_request")
    assert error == "input_data must be a rectangular list of numbers."


@pytest.mark.parametrize(
    "shape", [(3,), (3, 4), (4, 4, 3), (2, 1, 4, 4), (1, 1, 3, 4, 4), (3, 0, 4), (0, 3, 4, 4)], ids=str
)
def test_an_array_of_another_shape_is_refused_with_the_shapes_that_are_taken(shape: tuple[int, ...]) -> None:
    error = refusal(predict_json({"input_data": np.zeros(shape).tolist()}), 400, "bad_request")
    assert "(3, H, W) or (N, 3, H, W)" in error


def test_an_array_that_fails_fails_its_request() -> None:
    body = {"input_data": np.zeros((3, 4, 4)).tolist()}
    plane = BytesPlane(failure=InferenceFailed("The model failed on this image."))
    assert "The model failed" in refusal(predict_json(body, plane), 500, "inference_failed")
