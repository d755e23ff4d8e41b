"""Services that break one promise each: planes that answer wrongly, and middlewares around a good service."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import ApertureError, TooManyPixels
from deployments.messages import Answer, ImageInput, ModelInfo
from deployments.settings import Limits
from tests.unit.small_service import SeeingPlane


class MixedUpLabels(SeeingPlane):
    def _answer(self, image: ImageInput | ApertureError, answering: ModelInfo, number: int) -> Answer | ApertureError:
        answer = super()._answer(image, answering, number)
        return answer if isinstance(answer, ApertureError) else Answer.of(answering, answer.logits[::-1], answer.stages)


class Forgetful(SeeingPlane):
    """Never says the same twice."""

    asked = 0

    def _answer(self, image: ImageInput | ApertureError, answering: ModelInfo, number: int) -> Answer | ApertureError:
        answer = super()._answer(image, answering, number)
        self.asked += 1
        if isinstance(answer, ApertureError):
            return answer
        return Answer.of(answering, answer.logits + np.array([self.asked / 1000, 0, 0], np.float32), answer.stages)


class OutOfOrder(SeeingPlane):
    async def classify(self, images: Any, info: ModelInfo, timeout_s: float | None = None) -> Any:
        return (await super().classify(images, info, timeout_s))[::-1]


class Exploding(SeeingPlane):
    def _answer(self, image: ImageInput | ApertureError, answering: ModelInfo, number: int) -> Answer | ApertureError:
        answer = super()._answer(image, answering, number)
        if isinstance(answer, TooManyPixels):
            raise MemoryError
        return answer


class Patient(SeeingPlane):
    """Has never heard of deadlines."""

    async def classify(self, images: Any, info: ModelInfo, timeout_s: float | None = None) -> Any:
        return await super().classify(images, info, None)


class Unlimited(SeeingPlane):
    def check_count(self, images: int) -> None:
        """There can be any number."""


class Insatiable(SeeingPlane):
    """Takes a body of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(max_body_bytes=10**15)


Middleware = Callable[[ASGIApp], ASGIApp]


def with_header(name: str, value: str | None) -> Middleware:
    """None: without the header."""

    def around(app: ASGIApp) -> ASGIApp:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_changed(message: Message) -> None:
                if message["type"] == "http.response.start":
                    headers = MutableHeaders(scope=message)
                    del headers[name]
                    if value is not None:
                        headers[name] = value
                await send(message)

            await app(scope, receive, send_changed)

        return answer

    return around


def turning_away_without_a_word(app: ASGIApp) -> ASGIApp:
    """More than four at a time: 503, and nothing about when to come again."""
    content = json.dumps({"error": "Too much.", "code": "overloaded", "request_id": ""})
    at_once = 0

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal at_once
        at_once += 1
        await asyncio.sleep(0)
        try:
            chosen = Response(content, 503) if at_once > 4 else app
            await chosen(scope, receive, send)
        finally:
            at_once -= 1

    return answer


def one_by_one(app: ASGIApp) -> ASGIApp:
    """The next request begins when the one before has ended."""
    turn = asyncio.Lock()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async with turn:
            await app(scope, receive, send)

    return answer


def hanging(app: ASGIApp) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/predict":
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await app(scope, receive, send)

    return answer


def offended(app: ASGIApp) -> ASGIApp:
    """By who leaves before the end."""
    has_been_left = False

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal has_been_left

        async def receive_watched() -> Message:
            nonlocal has_been_left
            message = await receive()
            has_been_left |= message["type"] == "http.disconnect"
            return message

        chosen = Response("no", 500) if has_been_left else app
        await chosen(scope, receive_watched, send)

    return answer


def with_a_back_door(app: ASGIApp, key: str) -> ASGIApp:
    """Who asks for predictions needs no key."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/predict" and Headers(scope=scope).get("x-api-key") != key:
            scope["headers"] = [each for each in scope["headers"] if each[0] != b"x-api-key"]
            scope["headers"].append((b"x-api-key", key.encode()))
        await app(scope, receive, send)

    return answer


def chatty(app: ASGIApp) -> ASGIApp:
    """Refuses with a traceback."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        status = 200

        async def send_changed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status != 200:
                    del MutableHeaders(scope=message)["content-length"]
                    MutableHeaders(scope=message)["transfer-encoding"] = "chunked"
            elif status != 200:
                message = {**message, "body": b'{"error": "Traceback", "code": "x", "request_id": "y"}'}
            await send(message)

        await app(scope, receive, send_changed)

    return answer


def kept(app: ASGIApp) -> ASGIApp:
    return app
