"""POST /predict and the envelope around every route, in front of a data plane that answers from the bytes it gets."""

import json
from typing import Any

import numpy as np
import pytest

from deployments.errors import (
    InferenceFailed,
)
from tests.unit.bytes_plane import (
    MAX_IMAGES,
    BytesPlane,
    base64_of,
    expected_predictions,
    logits_of,
    part,
    predict,
    predict_json,
    predict_multipart,
    refusal,
    send,
)

# One raw image


@pytest.mark.parametrize(
    "content_type",
    [None, "image/jpeg", "application/octet-stream", "text/plain", "application/x-www-form-urlencoded", "nonsense"],
    ids=["none", "an image's", "bytes", "text", "that of curl --data-binary", "nonsense"],
)
def test_a_raw_image_is_read_as_it_is_whatever_its_content_type(content_type: str | None) -> None:
    plane, image = BytesPlane(), b"\xff\xd8 a=b&c=%20 \x00"
    response = predict(plane, content=image, headers={"content-type": content_type} if content_type else {})
    assert response.status_code == 200
    assert plane.images == [image]


def test_the_answer_to_one_image_has_the_best_labels_first() -> None:
    assert predict(content=b"photo").json() == {
        "model": "shapes",
        "version": 3,
        "predictions": expected_predictions(b"photo"),
        "request_id": "test-id",
    }


def test_a_refused_image_is_the_answer_when_it_is_alone() -> None:
    assert refusal(predict(content=b"bad"), 422, "corrupt_image") == "The image is corrupt."


def test_an_empty_body_is_refused() -> None:
    assert "empty" in refusal(predict(content=b""), 400, "bad_request")


# Multipart


def test_several_files_are_answered_in_their_order_with_their_names() -> None:
    files = [("file", ("one.jpg", b"first")), ("other", ("two.png", b"second")), ("file", ("one.jpg", b"third"))]
    assert predict(files=files).json() == {
        "model": "shapes",
        "version": 3,
        "results": [
            {"filename": "one.jpg", "predictions": expected_predictions(b"first")},
            {"filename": "two.png", "predictions": expected_predictions(b"second")},
            {"filename": "one.jpg", "predictions": expected_predictions(b"third")},
        ],
        "request_id": "test-id",
    }


def test_one_bad_file_fails_alone() -> None:
    files = [("file", (name, name.encode())) for name in ("first", "bad", "last")]
    response = predict(files=files)
    assert response.status_code == 200
    assert response.json()["results"] == [
        {"filename": "first", "predictions": expected_predictions(b"first")},
        {"filename": "bad", "error": "The image is corrupt.", "code": "corrupt_image"},
        {"filename": "last", "predictions": expected_predictions(b"last")},
    ]


def test_a_file_that_is_spooled_to_disk_arrives_whole() -> None:
    plane = BytesPlane()
    image = bytes(range(256)) * 6000  # Larger than what Starlette keeps in memory.
    response = send("POST", "/predict", plane, max_body_bytes=2_000_000, files={"file": ("large.png", image)})
    assert response.status_code == 200
    assert plane.images == [image]


@pytest.mark.parametrize("charset", ["\0", "punycode", "unicode_escape", "utf-7", "no such thing"], ids=ascii)
def test_the_charset_of_a_multipart_body_does_not_matter(charset: str) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="f"; filename="+2AA-\\ud800"\r\n\r\nphoto\r\n--x--\r\n'
    headers = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    (result,) = predict(content=body, headers=headers).json()["results"]
    assert result["predictions"] == expected_predictions(b"photo")


def test_fields_beside_the_files_are_ignored() -> None:
    plane = BytesPlane()
    assert predict(plane, files={"file": ("a.png", b"image")}, data={"comment": "nice"}).status_code == 200
    assert plane.images == [b"image"]


def test_a_file_name_comes_back_as_it_was_sent() -> None:
    body = part("été.png", b"image") + b"--edge--\r\n"
    assert predict_multipart(body).json()["results"][0]["filename"] == "été.png"


def test_a_form_without_a_file_is_refused() -> None:
    body = b'--edge\r\nContent-Disposition: form-data; name="comment"\r\n\r\nnice\r\n--edge--\r\n'
    assert "no file" in refusal(predict_multipart(body), 400, "bad_request")


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b"", "multipart/form-data; boundary=edge", "ends before its closing boundary"),
        (part("a", b"first") + b"--edge--", "multipart/form-data", "is malformed: Missing boundary"),
        (b"x" + part("a", b"first") + b"--edge--", "multipart/form-data; boundary=edge", "is malformed: Invalid"),
        (b"--edge\r\nno header\r\n\r\n--edge--", "multipart/form-data; boundary=edge", "is malformed: Invalid"),
        (
            b"--edge\r\nContent-Disposition: form-data\r\n\r\nnice\r\n--edge--",
            "multipart/form-data; boundary=edge",
            'is malformed: The Content-Disposition header field "name" must be provided',
        ),
    ],
    ids=["empty", "no boundary announced", "text in front", "part without headers", "part without a name"],
)
def test_a_malformed_form_is_refused_with_what_is_wrong(body: bytes, content_type: str, words: str) -> None:
    assert words in refusal(predict_multipart(body, content_type), 400, "bad_request")


@pytest.mark.parametrize("missing", [1, 4, 9, 12, 30], ids=lambda missing: f"{missing} bytes short")
def test_a_form_that_breaks_off_is_refused_and_loses_no_file_silently(missing: int) -> None:
    whole = part("a", b"first") + part("b", b"second, which is long enough to break off in") + b"--edge--"
    assert "closing boundary" in refusal(predict_multipart(whole[:-missing]), 400, "bad_request")


# JSON


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_an_image_in_json_is_answered_like_a_raw_one(content_type: str) -> None:
    content = json.dumps({"image": base64_of(b"photo")}).encode()
    response = predict(content=content, headers={"content-type": content_type})
    assert response.json() == predict(content=b"photo").json()


def test_images_in_json_are_answered_in_their_order_and_a_bad_one_fails_alone() -> None:
    response = predict_json({"images": [base64_of(image) for image in (b"first", b"bad", b"last")]})
    assert response.status_code == 200
    assert response.json() == {
        "model": "shapes",
        "version": 3,
        "results": [
            {"predictions": expected_predictions(b"first")},
            {"error": "The image is corrupt.", "code": "corrupt_image"},
            {"predictions": expected_predictions(b"last")},
        ],
        "request_id": "test-id",
    }


BAD_BASE64 = pytest.mark.parametrize("encoded", ["####", "YQ=", "YQ", "été", "\ud800"], ids=ascii)


@BAD_BASE64
def test_bad_base64_is_refused(encoded: str) -> None:
    assert "must be a base64 string" in refusal(predict_json({"image": encoded}), 400, "bad_request")


@BAD_BASE64
def test_bad_base64_among_others_fails_alone(encoded: str) -> None:
    fine, bad, also_fine = predict_json({"images": [base64_of(b"1"), encoded, base64_of(b"2")]}).json()["results"]
    assert bad["code"] == "bad_request"
    assert [fine["predictions"], also_fine["predictions"]] == [expected_predictions(b"1"), expected_predictions(b"2")]


@pytest.mark.parametrize("encoded", ["YW Jj", "YWJj\n", "YW\r\nJj"], ids=ascii)
def test_the_line_breaks_of_base64_tools_are_ignored(encoded: str) -> None:
    assert predict_json({"image": encoded}).json()["predictions"] == expected_predictions(b"abc")


def test_too_many_images_are_refused_before_one_is_decoded() -> None:
    plane = BytesPlane()
    refusal(predict(plane, json={"images": ["####"] * (MAX_IMAGES + 1)}), 413, "too_many_images")
    assert plane.images == []


@pytest.mark.parametrize("value", [None, 3, "", [], {"b64": "YWJj"}], ids=repr)
def test_an_image_that_is_no_base64_string_is_refused(value: object) -> None:
    assert "must be a base64 string" in refusal(predict_json({"image": value}), 400, "bad_request")


@pytest.mark.parametrize("value", [None, "YWJj", [], {"0": "YWJj"}], ids=repr)
def test_images_that_are_no_list_with_an_image_are_refused(value: object) -> None:
    assert "images must be a list" in refusal(predict_json({"images": value}), 400, "bad_request")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"{'image': 1}", b"\xff\xfe\x00", b"[" * 100_000, b'{"image":' * 100_000, b"9" * 10_000],
    ids=["empty", "unclosed", "Python's quotes", "no text", "100000 brackets", "100000 braces", "10000 digits"],
)
def test_a_body_that_is_not_json_is_refused(body: bytes) -> None:
    assert refusal(predict_json(body), 400, "bad_request") == "The body is not valid JSON."


@pytest.mark.parametrize("body", [None, [1], "photo", 3, True], ids=repr)
def test_json_that_is_no_object_is_refused(body: object) -> None:
    assert "must be an object" in refusal(predict_json(body), 400, "bad_request")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "it has no key"),
        ({"picture": "YWJj"}, "'picture'"),
        ({"image": "YWJj", "images": ["YWJj"]}, "'image', 'images'"),
        ({"\ud800": 1}, r"'\ud800'"),
    ],
    ids=["no key", "another key", "two forms", "a key that is no text"],
)
def test_json_needs_exactly_one_form(body: dict[str, Any], words: str) -> None:
    error = refusal(predict_json(body), 400, "bad_request")
    assert "exactly one of image" in error
    assert words in error


# Arrays


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
        f"[[[1{'0' * 400}]]]",
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
        "an integer of 400 digits",
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
    "shape", [(), (3,), (3, 4), (4, 4, 3), (2, 1, 4, 4), (1, 1, 3, 4, 4), (3, 0, 4), (0, 3, 4, 4)], ids=str
)
def test_an_array_of_another_shape_is_refused_with_the_shapes_that_are_taken(shape: tuple[int, ...]) -> None:
    error = refusal(predict_json({"input_data": np.zeros(shape).tolist()}), 400, "bad_request")
    assert "(3, H, W) or (N, 3, H, W)" in error


def test_an_array_that_fails_fails_its_request() -> None:
    body = {"input_data": np.zeros((3, 4, 4)).tolist()}
    plane = BytesPlane(failure=InferenceFailed("The model failed on this image."))
    assert "The model failed" in refusal(predict_json(body, plane), 500, "inference_failed")
