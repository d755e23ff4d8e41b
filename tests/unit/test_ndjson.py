"""POST /predict with newline-delimited JSON: each image's answer as soon as it is there."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from starlette.types import Message

from deployments.errors import ApertureError, Overloaded
from deployments.messages import Answer, ImageInput, ModelInfo
from deployments.protocols.http import asgi_app
from deployments.protocols.predict import routes
from deployments.settings import Limits
from tests.unit.bytes_plane import (
    MAX_IMAGES,
    BytesPlane,
    base64_of,
    expected_predictions,
    predict,
    refusal,
)

ACCEPT = {"accept": "application/x-ndjson"}
PATIENCE_S = 10.0


def lines_of(content: bytes) -> list[dict[str, Any]]:
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]


# What is answered


def test_files_are_answered_as_they_become_ready_and_a_bad_one_fails_alone() -> None:
    files = [("file", (f"{name}.jpg", name.encode())) for name in ("first", "bad", "last")]
    response = predict(files=files, headers=ACCEPT)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    assert lines_of(response.content) == [  # The plane answers the last image first.
        {"index": 2, "filename": "last.jpg", "predictions": expected_predictions(b"last")},
        {"index": 1, "filename": "bad.jpg", "error": "The image is corrupt.", "code": "corrupt_image"},
        {"index": 0, "filename": "first.jpg", "predictions": expected_predictions(b"first")},
        {"model": "shapes", "version": 3, "request_id": "test-id", "done": True, "count": 3},
    ]


def test_images_in_json_have_no_file_names_and_keep_their_parameters() -> None:
    body = {"images": [base64_of(b"first"), "####"]}
    response = predict(json=body, headers=ACCEPT, query={"top_k": "2", "model": "others"})
    bad, fine, done = lines_of(response.content)
    assert (bad["index"], bad["code"]) == (1, "bad_request")
    assert fine == {"index": 0, "predictions": expected_predictions(b"first", 2)}
    assert (done["model"], done["version"], done["count"]) == ("others", 4, 2)


@pytest.mark.parametrize(
    "request_of",
    [{"content": b"photo"}, {"json": {"image": base64_of(b"photo")}}, {"json": {"images": [base64_of(b"photo")]}}],
    ids=["raw", "image", "images"],
)
def test_a_single_image_is_a_stream_of_one(request_of: dict[str, Any]) -> None:
    only, done = lines_of(predict(headers=ACCEPT, **request_of).content)
    assert only == {"index": 0, "predictions": expected_predictions(b"photo")}
    assert (done["done"], done["count"]) == (True, 1)


@pytest.mark.parametrize(
    "accept",
    [
        "application/x-ndjson",
        "Application/X-NDJSON; q=0.9",
        "text/html, application/x-ndjson",
        "x, application/x-ndjson;",
    ],
)
def test_the_format_may_be_one_of_those_that_a_client_accepts(accept: str) -> None:
    response = predict(content=b"photo", headers={"accept": accept})
    assert response.headers["content-type"] == "application/x-ndjson"


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/*", "", "application/x-ndjson-seq"])
def test_whoever_does_not_ask_for_it_by_name_gets_json(accept: str) -> None:
    assert predict(content=b"photo", headers={"accept": accept}).headers["content-type"] == "application/json"


# What is refused as a whole, before the stream begins


def test_too_many_images_are_refused_with_a_status() -> None:
    response = predict(json={"images": ["YQ=="] * (MAX_IMAGES + 1)}, headers=ACCEPT)
    refusal(response, 413, "too_many_images")


def test_an_unknown_model_is_not_found_with_a_status() -> None:
    refusal(predict(content=b"photo", headers=ACCEPT, query={"model": "nothing"}), 404, "unknown_model")


def test_a_bad_body_is_refused_with_a_status() -> None:
    refusal(predict(content=b"", headers=ACCEPT), 400, "bad_request")


def test_a_failure_before_the_first_answer_is_a_status() -> None:
    response = predict(BytesPlane(failure=Overloaded("Try again.")), content=b"photo", headers=ACCEPT)
    assert refusal(response, 503, "overloaded") == "Try again."


# What happens on the way


class SteppedPlane(BytesPlane):
    """Answers image after image, each when `ready` lets it; then fails, if there is a failure."""

    def __init__(self, ending: Exception | None = None, request_timeout_s: float = PATIENCE_S) -> None:
        super().__init__()
        self.ready = asyncio.Semaphore(0)
        self.closed = asyncio.Event()
        self.limits = Limits(request_timeout_s=request_timeout_s)
        self._ending = ending

    def classify_each(
        self, images: Sequence[ImageInput | ApertureError], info: ModelInfo, timeout_s: float | None = None
    ) -> AsyncGenerator[tuple[int, Answer | ApertureError], None]:
        self.timeouts_s.append(timeout_s)
        self.answers = self._each(images, info)  # Kept, so that no garbage collection closes it.
        return self.answers

    async def _each(
        self, images: Sequence[ImageInput | ApertureError], info: ModelInfo
    ) -> AsyncGenerator[tuple[int, Answer | ApertureError], None]:
        try:
            for index, answer in enumerate(await self.classify(images, info)):
                await self.ready.acquire()
                yield index, answer
            if self._ending is not None:
                raise self._ending
        finally:
            self.closed.set()


class Exchange:
    """One request for two images, message by message."""

    def __init__(self, plane: SteppedPlane, asgi_version: str = "2.3") -> None:
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.gone = asyncio.Event()
        self._received = 0
        headers = [(b"accept", b"application/x-ndjson"), (b"content-type", b"application/json")]
        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": "/predict",
            "query_string": b"",
            "headers": headers,
        }
        scope["asgi"] = {"spec_version": asgi_version}
        app = asgi_app(routes(plane), plane.limits, request_id=lambda: "test-id")
        self.was_closed_at_the_end = False

        async def run() -> None:
            await app(scope, self._receive, self._send)
            self.was_closed_at_the_end = plane.closed.is_set()

        self.task = asyncio.create_task(run())

    async def line(self) -> dict[str, Any]:
        message = await asyncio.wait_for(self.sent.get(), PATIENCE_S)
        (line,) = lines_of(message["body"])
        return line

    async def _receive(self) -> Message:
        self._received += 1
        if self._received == 1:
            body = json.dumps({"images": [base64_of(b"first"), base64_of(b"second")]}).encode()
            return {"type": "http.request", "body": body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self.gone.is_set():
            raise OSError("The connection is closed.")
        await self.sent.put(message)


def test_an_answer_is_sent_while_the_others_are_not_ready_yet() -> None:
    async def watch() -> None:
        plane = SteppedPlane()
        exchange = Exchange(plane)
        plane.ready.release()
        assert (await asyncio.wait_for(exchange.sent.get(), PATIENCE_S))["status"] == 200
        assert (await exchange.line())["index"] == 0
        assert not plane.closed.is_set()
        plane.ready.release()
        assert (await exchange.line())["index"] == 1
        assert (await exchange.line())["done"]
        await asyncio.wait_for(exchange.task, PATIENCE_S)
        assert await exchange.sent.get() == {"type": "http.response.body", "body": b"", "more_body": False}

    asyncio.run(watch())


@pytest.mark.parametrize(
    "asgi_version", ["2.3", "2.4"]
)  # Servers of the former tell by a message, later ones by OSError.
def test_a_client_that_leaves_ends_the_work_on_its_other_images(asgi_version: str) -> None:
    async def leave() -> None:
        plane = SteppedPlane()
        exchange = Exchange(plane, asgi_version)
        plane.ready.release()
        await asyncio.wait_for(exchange.sent.get(), PATIENCE_S)
        await exchange.line()
        exchange.gone.set()
        if asgi_version == "2.4":
            plane.ready.release()
        await asyncio.wait_for(exchange.task, PATIENCE_S)
        assert exchange.was_closed_at_the_end

    asyncio.run(leave())


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (Overloaded("Try again."), {"error": "Try again.", "code": "overloaded", "request_id": "test-id"}),
        (
            RuntimeError("secret text"),
            {
                "error": "The request failed because of an internal error.",
                "code": "internal",
                "request_id": "test-id",
            },
        ),
    ],
    ids=["of the data plane", "unexpected"],
)
def test_a_failure_in_the_middle_is_the_last_line(ending: Exception, expected: dict[str, Any]) -> None:
    async def fail() -> None:
        plane = SteppedPlane(ending)
        exchange = Exchange(plane)
        plane.ready.release()
        plane.ready.release()
        await asyncio.wait_for(exchange.sent.get(), PATIENCE_S)
        assert [(await exchange.line())["index"] for _ in range(2)] == [0, 1]
        assert await exchange.line() == expected
        assert not (await exchange.sent.get())["more_body"]

    asyncio.run(fail())


def test_the_data_plane_has_less_time_than_the_request_so_that_the_stream_ends_with_a_line() -> None:
    async def watch() -> None:
        plane = SteppedPlane(request_timeout_s=5)
        exchange = Exchange(plane)
        plane.ready.release()
        await asyncio.wait_for(exchange.sent.get(), PATIENCE_S)
        assert plane.timeouts_s[0] is not None
        assert 4 < plane.timeouts_s[0] < 4.95
        exchange.gone.set()
        await exchange.task

    asyncio.run(watch())


def test_a_data_plane_that_ignores_its_timeout_does_not_outlive_that_of_the_request() -> None:
    async def hang() -> None:
        plane = SteppedPlane(request_timeout_s=0.2)
        exchange = Exchange(plane)
        plane.ready.release()
        await asyncio.wait_for(exchange.task, PATIENCE_S)
        assert plane.closed.is_set()
        messages = [exchange.sent.get_nowait() for _ in range(exchange.sent.qsize())]
        # The server sees that the response has no end, and breaks the connection off.
        assert [message.get("more_body") for message in messages] == [None, True]

    asyncio.run(hang())
