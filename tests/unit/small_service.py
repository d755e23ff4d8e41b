"""A whole service in one process, on a real socket: the routes and the decoder of the real one, and a model of colours.

What Serve adds, a middleware adds here: the id of each request.
"""

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.access import AccessControl
from deployments.engines.dummy import LABELS, DummyEngine
from deployments.errors import ApertureError, DeadlineExceeded
from deployments.imaging import preprocess
from deployments.messages import Answer, ImageInput, ModelInfo, Pixels, Prepared, Stages
from deployments.protocols import huggingface
from deployments.protocols.authentication import guarded
from deployments.protocols.http import asgi_app
from deployments.protocols.oip import rest as oip_rest
from deployments.protocols.openapi import pages
from deployments.protocols.predict import routes as predict_routes
from deployments.protocols.tfserving import rest as tfserving_rest
from deployments.settings import Access, Limits, ModelSettings
from tests.awaiting import await_condition
from tests.unit import rpc_server
from tests.unit.bytes_plane import MAX_IMAGES, BytesPlane

COLOURS = ModelSettings(name="colours", engine="dummy")
# Room for the tensor of an image of the model.
MAX_BODY_BYTES = 2 * 2**20
START_S = 20.0

request_id: ContextVar[str] = ContextVar("request_id")


class SeeingPlane(BytesPlane):
    """Answers by the picture, where BytesPlane goes by the bytes of its file."""

    def __init__(self, labels: Sequence[str] = LABELS) -> None:
        self._engine = DummyEngine(COLOURS)
        super().__init__(models={COLOURS.name: replace(self._engine.info(), labels=tuple(labels))})
        self.limits = Limits(max_body_bytes=MAX_BODY_BYTES, max_images=MAX_IMAGES)

    async def classify(
        self, images: Sequence[ImageInput | ApertureError], info: ModelInfo, timeout_s: float | None = None
    ) -> list[Answer | ApertureError]:
        if timeout_s is not None and timeout_s <= 0:
            raise DeadlineExceeded("The deadline passed before the request was answered.")
        return await super().classify(images, info, timeout_s)

    def _answer(self, image: ImageInput | ApertureError, answering: ModelInfo, number: int) -> Answer | ApertureError:
        if isinstance(image, ApertureError):
            return image
        started = time.monotonic()
        try:
            view = image.pixels if isinstance(image, Prepared) else self._view(image, answering)
        except ApertureError as refusal:
            return refusal
        decoded = time.monotonic()
        (logits,) = self._engine.infer([view])
        return Answer.of(answering, logits, Stages(decoded - started, 0.0, time.monotonic() - decoded))

    def _view(self, image: bytes | Pixels, answering: ModelInfo) -> Pixels:
        return preprocess(image, answering.preprocessing, self.limits)


class Identified:
    """Names requests as Serve does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = Headers(scope=scope).get("x-request-id") or str(uuid.uuid4())
        request_id.set(name)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        await self._app(scope, receive, send_named)


def application(plane: SeeingPlane, access: AccessControl | None = None) -> ASGIApp:
    protocols = (predict_routes, oip_rest.routes, tfserving_rest.routes, huggingface.routes, pages.routes)
    routes: Sequence[Route] = [route for each in protocols for route in each(plane)]
    door = access or AccessControl(Access())
    return Identified(asgi_app(guarded(routes, door), plane.limits, request_id=request_id.get))


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Its URL."""
    config = uvicorn.Config(app, "127.0.0.1", 0, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        await_condition(lambda: server.started, START_S, "the server listens")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def listening_for_calls(plane: SeeingPlane, access: AccessControl | None = None) -> Iterator[str]:
    """Its address for gRPC."""
    address: Future[str] = Future()
    loop, ended = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with rpc_server.listening(plane, access) as listens_at:
            address.set_result(listens_at)
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        yield address.result(START_S)
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()
