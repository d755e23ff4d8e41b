"""POST /predict and the envelope around every route, in front of a data plane that answers from the bytes it gets."""

import json
from typing import Any

import pytest

from tests.unit.bytes_plane import (
    MAX_IMAGES,
    BytesPlane,
    base64_of,
    expected_predictions,
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


BAD_BASE64 = pytest.mark.parametrize("encoded", ["####", "YQ=", "YQ", "été", "data:,YQ=="], ids=ascii)


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
    [b"", b"{", b"{'image': 1}", b"\xff\xfe\x00", b"[" * 60_000, b'{"image":' * 6000, b"9" * 10_000],
    ids=["empty", "unclosed", "Python's quotes", "no text", "60000 brackets", "6000 braces", "10000 digits"],
)
def test_a_body_that_is_not_json_is_refused(body: bytes) -> None:
    assert "The body is not valid JSON" in refusal(predict_json(body), 400, "bad_request")


@pytest.mark.parametrize("body", [None, [1], "photo", 3, True], ids=repr)
def test_json_that_is_no_object_is_refused(body: object) -> None:
    assert "must be an object" in refusal(predict_json(body), 400, "bad_request")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "it has no key"),
        ({"picture": "YWJj"}, "'picture'"),
        ({"image": "YWJj", "images": ["YWJj"]}, "'image', 'images'"),
        ({"image_url": "https://a/", "image_urls": []}, "'image_url', 'image_urls'"),
        ({"x" * 1000: 1}, "'xxx"),
        ({"\N{SNOWMAN}": 1}, r"'\u2603'"),
        (dict.fromkeys("abcdefgh", 1), "'a', 'b', 'c', 'd', 'e'."),
    ],
    ids=["no key", "another key", "two forms", "two of URLs", "a long key", "a key in Unicode", "many keys"],
)
def test_json_needs_exactly_one_form(body: dict[str, Any], words: str) -> None:
    error = refusal(predict_json(body), 400, "bad_request")
    assert "exactly one of image" in error
    assert words in error
    assert len(error) < 400


# Versions


def test_a_version_that_is_served_is_answered() -> None:
    assert predict(content=b"photo", query={"model": "others", "version": "4"}).json()["version"] == 4


@pytest.mark.parametrize("version", ["2", "", "latest"])
def test_another_version_is_not_found_before_the_image_costs_anything(version: str) -> None:
    plane = BytesPlane()
    error = refusal(predict(plane, content=b"photo", query={"version": version}), 404, "unknown_model")
    assert repr(version) in error
    assert plane.images == []
