"""Answers to POST /predict as newline-delimited JSON, one line for each image as soon as it is ready.

    {"index": 1, "filename": "b.jpg", "predictions": [{"label", "index", "probability"}, ...]}
    {"index": 0, "filename": "a.jpg", "error": "...", "code": "..."}
    {"model": "shapes", "version": 1, "request_id": "...", "done": true, "count": 2}

`index` is the place in the request; `filename` is there for files. What ends without a line that has "done": true is
incomplete; if that is for an error, its line has "error" and no "index".
"""

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Send

from deployments.errors import ApertureError
from deployments.messages import Answer, DataPlane, ImageInput, ModelInfo
from deployments.records import current

logger = logging.getLogger("ray.serve")

MEDIA_TYPE: Final = "application/x-ndjson"
# Of the time that is left for the request. At its end the stream would break off without a word about the others.
TIMEOUT_SHARE: Final = 0.98

Render = Callable[[int, Answer | ApertureError], dict[str, Any]]
Lines = AsyncGenerator[bytes, None]


def is_accepted(request: Request) -> bool:
    """Whether the client asks for this format by name."""
    ranges = ",".join(request.headers.getlist("accept")).lower().split(",")
    return any(each.split(";")[0].strip() == MEDIA_TYPE for each in ranges)


async def streamed(
    plane: DataPlane,
    request: Request,
    images: Sequence[ImageInput | ApertureError],
    info: ModelInfo,
    render: Render,
) -> StreamingResponse:
    """Begins with the first line, so that what fails the request before it is an ordinary error response."""
    outcomes = plane.classify_each(images, info, request.state.patience.left_s() * TIMEOUT_SHARE)
    done = {"model": info.name, "version": info.version, "request_id": request.state.request_id, "done": True}
    lines = _lines(outcomes, render, {**done, "count": len(images)})
    return _Stream(_begun(await anext(lines), lines, request.state.request_id), media_type=MEDIA_TYPE)


class _Stream(StreamingResponse):
    """Closes its lines when it ends for any reason, and with them the work on images that nobody waits for."""

    async def stream_response(self, send: Send) -> None:
        assert isinstance(self.body_iterator, AsyncGenerator)
        async with aclosing(self.body_iterator):
            await super().stream_response(send)


async def _lines(
    outcomes: AsyncGenerator[tuple[int, Answer | ApertureError], None], render: Render, done: dict[str, Any]
) -> Lines:
    async with aclosing(outcomes):
        async for index, outcome in outcomes:
            yield _line({"index": index, **render(index, outcome)})
    yield _line(done)


async def _begun(first: bytes, others: Lines, request_id: str) -> Lines:
    """The status code is sent by now: an error becomes a line."""
    async with aclosing(others):
        yield first
        try:
            async for line in others:
                yield line
        except ApertureError as error:
            yield _failure(error, request_id)
        except Exception:
            logger.exception("Request %s failed in the middle of its answer", request_id)
            yield _failure(ApertureError("The request failed because of an internal error."), request_id)


def _failure(error: ApertureError, request_id: str) -> bytes:
    current().fail(error)
    return _line({"error": error.message, "code": error.code, "request_id": request_id})


def _line(content: dict[str, Any]) -> bytes:
    return orjson.dumps(content) + b"\n"
