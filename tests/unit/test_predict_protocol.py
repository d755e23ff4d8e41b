"""POST /predict and the envelope around every route, in front of a data plane that answers from the bytes it gets."""

import asyncio
import base64
import hashlib
import json
import logging
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.types import Message

from deployments.errors import (
    AnimatedImage,
    ApertureError,
    BadRequest,
    BodyTooLarge,
    CorruptImage,
    DeadlineExceeded,
    InferenceFailed,
    ModelNotReady,
    Overloaded,
    TooManyImages,
    UnknownModel,
    UnsupportedFormat,
)
from deployments.messages import Answer, ImageInput, Logits, ModelInfo, Stages
from deployments.protocols.http import asgi_app
from deployments.protocols.predict import DEFAULT_TOP_K, routes
from deployments.settings import Limits, PreprocessingSpec

LABELS = ("circle", "square", "triangle", "star", "heart", "cross", "ring")
MAX_IMAGES = 16
MAX_BODY_BYTES = 1_000_000


def logits_of(image: ImageInput) -> Logits:
    """Logits that belong to these bytes, or these pixels of this shape, and to no others."""
    content = image if isinstance(image, bytes) else repr(image.shape).encode() + image.tobytes()
    digest = hashlib.sha256(content).digest()
    return np.array([byte / 64 for byte in digest[: len(LABELS)]], dtype=np.float32)


def probabilities_of(image: ImageInput) -> Logits:
    exponentials = np.exp(logits_of(image))
    return np.asarray(exponentials / exponentials.sum(), dtype=np.float32)


def expected_predictions(image: ImageInput, top_k: int = DEFAULT_TOP_K) -> list[dict[str, Any]]:
    probabilities = probabilities_of(image)
    best = sorted(range(len(LABELS)), key=lambda index: -probabilities[index])[:top_k]
    return [{"label": LABELS[i], "index": i, "probability": float(probabilities[i])} for i in best]


def info(name: str, version: int) -> ModelInfo:
    return ModelInfo(name, version, LABELS, PreprocessingSpec(), "dummy", "dummy", "cpu")


class BytesPlane:
    """Two models; an image that begins with "bad" is corrupt, and `failure` fails the whole request."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.images: list[ImageInput] = []
        self._failure = failure
        self._models = {"shapes": info("shapes", 3), "others": info("others", 4)}

    async def classify(
        self, images: Sequence[ImageInput | ApertureError], model: str | None
    ) -> list[Answer | ApertureError]:
        self.images.extend(image for image in images if not isinstance(image, ApertureError))
        if self._failure is not None:
            raise self._failure
        answering = self.info_of(model)
        return [self._answer(image, answering, number) for number, image in enumerate(images)]

    def _answer(self, image: ImageInput | ApertureError, answering: ModelInfo, number: int) -> Answer | ApertureError:
        if isinstance(image, ApertureError):
            return image
        if isinstance(image, bytes) and image.startswith(b"bad"):
            return CorruptImage("The image is corrupt.")
        stages = Stages(preprocess_s=0.01 * (number + 1), queue_s=0.002, inference_s=0.003)
        return Answer(answering, logits_of(image), probabilities_of(image), stages)

    def check_count(self, images: int) -> None:
        if images > MAX_IMAGES:
            raise TooManyImages(f"{images} images")

    def info_of(self, model: str | None) -> ModelInfo:
        if model not in (None, *self._models):
            raise UnknownModel(f"There is no model {model!r}.")
        return self._models[model or "shapes"]

    def ready_models(self) -> dict[str, ModelInfo | None]:
        return dict(self._models)


def send(
    method: str, path: str, plane: BytesPlane | None = None, max_body_bytes: int = MAX_BODY_BYTES, **request: Any
) -> httpx.Response:
    app = asgi_app(routes(plane or BytesPlane()), Limits(max_body_bytes=max_body_bytes), request_id=lambda: "test-id")

    async def exchange() -> httpx.Response:
        # The transport raises whatever escapes the application.
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return await client.request(method, path, **request)

    return asyncio.run(exchange())


def predict(plane: BytesPlane | None = None, query: dict[str, str] | None = None, **request: Any) -> httpx.Response:
    return send("POST", "/predict", plane, params=query, **request)


def predict_json(body: object, plane: BytesPlane | None = None, query: dict[str, str] | None = None) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return predict(plane, query, content=content, headers={"content-type": "application/json"})


def predict_multipart(content: bytes, content_type: str = "multipart/form-data; boundary=edge") -> httpx.Response:
    return predict(content=content, headers={"content-type": content_type})


def part(name: str, data: bytes) -> bytes:
    head = f'--edge\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n"


def base64_of(image: bytes) -> str:
    return base64.b64encode(image).decode()


def refusal(response: httpx.Response, status: int, code: str) -> str:
    """The error text of a refusal, whose body must have the three keys of every error and no more."""
    body = response.json()
    assert (response.status_code, body["code"], body["request_id"]) == (status, code, "test-id")
    assert body.keys() == {"error", "code", "request_id"}
    assert isinstance(body["error"], str)
    return body["error"]


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


# Parameters


def test_five_labels_are_answered_by_default() -> None:
    assert len(predict(content=b"photo").json()["predictions"]) == 5


@pytest.mark.parametrize(("top_k", "count"), [("1", 1), ("7", 7), ("8", 7), ("1000", 7), ("999999999", 7)])
def test_top_k_labels_are_answered_or_all_there_are(top_k: str, count: int) -> None:
    predictions = predict(content=b"photo", query={"top_k": top_k}).json()["predictions"]
    assert predictions == expected_predictions(b"photo", count)


def test_top_k_holds_for_each_of_several_images() -> None:
    results = predict(files=[("file", ("a", b"a")), ("file", ("b", b"b"))], query={"top_k": "2"}).json()["results"]
    assert [len(result["predictions"]) for result in results] == [2, 2]


@pytest.mark.parametrize(
    "top_k", ["0", "-1", "abc", "1.5", "", " 1", "\u0663", "9" * 5000], ids=lambda top_k: top_k[:8]
)
def test_a_top_k_that_is_no_positive_integer_is_refused(top_k: str) -> None:
    error = refusal(predict(content=b"photo", query={"top_k": top_k}), 400, "bad_request")
    assert "top_k must be an integer of at least 1" in error


@pytest.mark.parametrize(
    "request_of",
    [
        {"content": b"photo"},
        {"files": {"file": ("a.png", b"photo")}},
        {"json": {"image": "YWJj"}},
        {"json": {"images": ["YWJj"]}},
        {"json": {"input_data": [[[0]], [[0]], [[0]]]}},
    ],
    ids=["raw", "multipart", "image", "images", "input_data"],
)
def test_a_bad_top_k_is_refused_before_the_image_costs_anything(request_of: dict[str, Any]) -> None:
    plane = BytesPlane()
    refusal(predict(plane, query={"top_k": "0"}, **request_of), 400, "bad_request")
    assert plane.images == []


def test_the_model_is_chosen_by_its_name() -> None:
    body = predict(content=b"photo", query={"model": "others"}).json()
    assert (body["model"], body["version"]) == ("others", 4)


def test_several_images_go_to_the_model_that_was_chosen() -> None:
    body = predict(files={"file": ("a.png", b"photo")}, query={"model": "others"}).json()
    assert (body["model"], body["version"]) == ("others", 4)


def test_an_unknown_model_is_not_found() -> None:
    error = refusal(predict(content=b"photo", query={"model": "nothing"}), 404, "unknown_model")
    assert "'nothing'" in error


# The body limit


class Upload:
    """A body without an end, in chunks of 1000 bytes, that counts what was taken of it."""

    def __init__(self) -> None:
        self.chunks = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.chunks += 1
            yield b"x" * 1000


def test_a_body_of_exactly_the_limit_is_answered() -> None:
    assert send("POST", "/predict", max_body_bytes=1000, content=b"x" * 1000).status_code == 200


def test_a_body_of_one_byte_more_is_refused_with_the_limit() -> None:
    response = send("POST", "/predict", max_body_bytes=1000, content=b"x" * 1001)
    assert "1000 bytes" in refusal(response, 413, "body_too_large")


def test_a_body_that_is_announced_too_large_is_not_read_at_all() -> None:
    upload = Upload()
    headers = {"content-length": "10001"}
    response = send("POST", "/predict", max_body_bytes=10_000, content=upload, headers=headers)
    refusal(response, 413, "body_too_large")
    assert upload.chunks == 0


@pytest.mark.parametrize(
    "content_type", ["image/jpeg", "application/json", "multipart/form-data; boundary=x"], ids=["raw", "JSON", "form"]
)
def test_reading_a_chunked_body_stops_at_the_limit(content_type: str) -> None:
    upload = Upload()
    headers = {"content-type": content_type}
    response = send("POST", "/predict", max_body_bytes=10_000, content=upload, headers=headers)
    refusal(response, 413, "body_too_large")
    assert upload.chunks == 11


@pytest.mark.parametrize("announced", ["5", "-1", "many"])
def test_a_wrong_announcement_does_not_lift_the_limit(announced: str) -> None:
    upload = Upload()
    headers = {"content-length": announced}
    response = send("POST", "/predict", max_body_bytes=10_000, content=upload, headers=headers)
    refusal(response, 413, "body_too_large")
    assert upload.chunks == 11


def test_a_body_that_is_too_large_never_reaches_the_data_plane() -> None:
    plane = BytesPlane()
    send("POST", "/predict", plane, max_body_bytes=1000, content=b"x" * 1001)
    assert plane.images == []


def test_a_client_that_leaves_in_the_middle_of_its_body_gets_no_answer() -> None:
    plane, sent = BytesPlane(), []
    incoming: list[Message] = [
        {"type": "http.request", "body": b"half of", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return incoming.pop(0)

    async def respond(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": []}
    asyncio.run(asgi_app(routes(plane), Limits(), request_id=lambda: "test-id")(scope, receive, respond))
    assert (sent, plane.images) == ([], [])


# Errors


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadRequest, 400),
        (UnknownModel, 404),
        (DeadlineExceeded, 408),
        (BodyTooLarge, 413),
        (TooManyImages, 413),
        (UnsupportedFormat, 415),
        (AnimatedImage, 422),
        (InferenceFailed, 500),
        (Overloaded, 503),
        (ModelNotReady, 503),
    ],
)
def test_an_error_of_the_data_plane_becomes_its_status_code_and_text(error: type[ApertureError], status: int) -> None:
    response = predict(BytesPlane(failure=error("What the client may know.")), content=b"photo")
    assert refusal(response, status, error.code) == "What the client may know."


def test_an_unexpected_exception_tells_the_client_nothing() -> None:
    response = predict(BytesPlane(failure=RuntimeError("secret text")), content=b"photo")
    assert "internal error" in refusal(response, 500, "internal")
    assert "secret" not in response.text
    assert "RuntimeError" not in response.text


def test_an_unexpected_exception_is_in_the_log_under_the_requests_id(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="ray.serve"):
        predict(BytesPlane(failure=RuntimeError("secret text")), content=b"photo")
    assert "test-id" in caplog.text
    assert "secret text" in caplog.text


def test_an_unknown_path_is_a_json_error() -> None:
    assert "/nothing" in refusal(send("POST", "/nothing"), 404, "not_found")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_another_method_is_a_json_error_with_those_allowed(method: str) -> None:
    response = send(method, "/predict")
    assert method in refusal(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


# Server-Timing


def timings(response: httpx.Response) -> dict[str, float]:
    entries = response.headers["server-timing"].split(", ")
    # https://www.w3.org/TR/server-timing/, as browsers read it.
    matches = [re.fullmatch(r"([a-z]+);dur=(\d+\.\d+)", entry) for entry in entries]
    return {match[1]: float(match[2]) for match in matches if match} if all(matches) else {}


def test_every_stage_of_an_answer_is_timed_in_milliseconds() -> None:
    stages = timings(predict(content=b"photo"))
    assert list(stages) == ["admission", "preprocess", "queue", "inference", "total"]
    assert (stages["preprocess"], stages["queue"], stages["inference"]) == (10.0, 2.0, 3.0)


def test_the_slowest_of_several_images_is_timed() -> None:
    files = [("file", (name, name.encode())) for name in ("one", "two", "three")]
    assert timings(predict(files=files))["preprocess"] == 30.0


def test_without_an_answer_the_stages_behind_admission_are_zero() -> None:
    stages = timings(predict(content=b"bad"))
    assert [stages[name] for name in ("preprocess", "queue", "inference")] == [0, 0, 0]
    assert 0 < stages["admission"] <= stages["total"]


@pytest.mark.parametrize(
    ("path", "content", "failure"),
    [
        ("/nothing", b"photo", None),
        ("/predict", b"", None),
        ("/predict", b"x" * (MAX_BODY_BYTES + 1), None),
        ("/predict", b"photo", RuntimeError()),
    ],
    ids=["not found", "bad request", "too large", "internal error"],
)
def test_an_error_is_timed_too(path: str, content: bytes, failure: Exception | None) -> None:
    response = send("POST", path, BytesPlane(failure), content=content)
    assert response.is_error
    assert list(timings(response)) == ["admission", "preprocess", "queue", "inference", "total"]
