"""What every route shares: parameters, the body limit, errors and Server-Timing, over POST /predict."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.types import Message

from deployments.errors import (
    AnimatedImage,
    ApertureError,
    BadRequest,
    BodyTooLarge,
    DeadlineExceeded,
    InferenceFailed,
    ModelNotReady,
    Overloaded,
    TooManyImages,
    UnknownModel,
    UnsupportedFormat,
)
from deployments.protocols.http import asgi_app
from deployments.protocols.predict import routes
from deployments.settings import Limits
from tests.unit.bytes_plane import MAX_BODY_BYTES, BytesPlane, expected_predictions, predict, refusal, send

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
    assert list(stages) == ["admission", "preprocess", "queue", "inference", "response", "total"]
    assert (stages["preprocess"], stages["queue"], stages["inference"]) == (10.0, 2.0, 3.0)


def test_the_stages_add_up_to_the_total() -> None:
    stages = timings(predict(content=b"photo"))
    assert round(sum(stages.values()) - stages["total"], 2) == stages["total"]


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
    assert list(timings(response)) == ["admission", "preprocess", "queue", "inference", "response", "total"]


def test_a_timeout_of_something_else_is_an_internal_error_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    refusal(predict(BytesPlane(TimeoutError("of a socket behind")), content=b"photo"), 500, "internal")
    assert "of a socket behind" in caplog.text


def test_a_body_that_never_ends_is_answered_at_the_deadline() -> None:
    async def trickle() -> AsyncIterator[bytes]:
        yield b"photo"
        await asyncio.Event().wait()

    async def exchange() -> httpx.Response:
        app = asgi_app(routes(BytesPlane()), Limits(request_timeout_s=0.05), request_id=lambda: "test-id")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return await client.post("/predict", content=trickle())

    assert "No answer within 0.05 s" in refusal(asyncio.run(exchange()), 408, "deadline_exceeded")
