"""A steady stream of questions over HTTP and gRPC, each answer checked.

Requests are due at even intervals, whatever became of the earlier ones. The clients behave as good ones do, and no
better: HTTP connections are kept alive; a connection that cannot be opened is tried again until the request's time is
over, since nothing was sent yet; gRPC waits for its connection likewise (wait_for_ready). Nothing that was sent is ever
sent again: what a client with retries would not see counts here.
"""

import asyncio
import itertools
import struct
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

import grpc
import httpx
import numpy as np

from benchmarks.chaos.ledger import Entry, Ledger, Outcome
from benchmarks.chaos.questions import Question
from deployments.protocols.generated import inference_pb2 as oip
from deployments.protocols.generated import inference_pb2_grpc

TIMEOUT_S = 30.0
# One in so many requests goes over gRPC.
GRPC_SHARE = 4
CONNECT_AGAIN_S = 0.2
MAX_CONNECTIONS = 256
REFUSALS = (503, 429)
# The statuses that a server answers with; a client whose connection broke makes up UNAVAILABLE by itself.
GRPC_REFUSALS = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
# How gRPC says that a proxy has answered in place of a server.
PROXY_REFUSED = "status: 503"
# How it says that it has not sent anything.
CONNECTION_REFUSED = "failed to connect to all addresses"
NOT_SENT = "no connection, nothing was sent"


class Checked(NamedTuple):
    outcome: Outcome
    # What came instead of the answer.
    detail: str = ""
    # That the answer names.
    version: int = 0


@dataclass(frozen=True)
class Endpoints:
    url: str
    grpc_address: str
    model: str


@asynccontextmanager
async def load(
    endpoints: Endpoints,
    questions: Sequence[Question],
    per_second: float,
    ledger: Ledger,
    *,
    connect_again: bool = True,
) -> AsyncIterator[None]:
    """`per_second` requests until the block ends, and the answers to all of them before it is left.

    Without `connect_again`, a connection that cannot be opened counts as a refusal at once.
    """
    async with (
        _asking(endpoints, connect_again) as asker,
        _until_left(asker, _stream(asker, questions, per_second, ledger)),
    ):
        yield


@asynccontextmanager
async def closed_loop(
    endpoints: Endpoints, questions: Sequence[Question], http_callers: int, grpc_callers: int, ledger: Ledger
) -> AsyncIterator[asyncio.Event]:
    """Callers each of which asks as soon as it has its answer; every question is asked as often as any other.

    While the event is not set, which it is to begin with, only the first of them asks.
    """
    all_ask = asyncio.Event()
    all_ask.set()
    async with (
        _asking(endpoints, connect_again=True) as asker,
        _until_left(asker, _ask_together(asker, questions, http_callers, grpc_callers, all_ask, ledger)),
    ):
        try:
            yield all_ask
        finally:
            all_ask.set()


@asynccontextmanager
async def _asking(endpoints: Endpoints, connect_again: bool) -> AsyncIterator["_Asker"]:
    limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
    options = [("grpc.max_reconnect_backoff_ms", 1000)]
    async with (
        httpx.AsyncClient(base_url=endpoints.url, timeout=TIMEOUT_S, limits=limits) as client,
        grpc.aio.insecure_channel(endpoints.grpc_address, options=options) as channel,
    ):
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        yield _Asker(client, stub, endpoints.model, connect_again)


@asynccontextmanager
async def _until_left(asker: "_Asker", asking: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(asking)
    try:
        yield
    finally:
        asker.is_open = False
        await task


async def _stream(asker: "_Asker", questions: Sequence[Question], per_second: float, ledger: Ledger) -> None:
    started = time.monotonic()
    number = 0
    async with asyncio.TaskGroup() as calls:
        while asker.is_open:
            due = started + number / per_second
            await asyncio.sleep(due - time.monotonic())
            question, over_grpc = questions[number % len(questions)], number % GRPC_SHARE == 0
            calls.create_task(_record(asker, question, over_grpc, due, ledger))
            number += 1


async def _ask_together(
    asker: "_Asker",
    questions: Sequence[Question],
    http_callers: int,
    grpc_callers: int,
    all_ask: asyncio.Event,
    ledger: Ledger,
) -> None:
    always = asyncio.Event()
    always.set()
    async with asyncio.TaskGroup() as together:
        for number in range(http_callers + grpc_callers):
            asked = itertools.cycle([*questions[number:], *questions[:number]])
            may_ask = all_ask if number > 0 else always
            together.create_task(_ask_on(asker, asked, number >= http_callers, may_ask, ledger))


async def _ask_on(
    asker: "_Asker", questions: Iterator[Question], over_grpc: bool, may_ask: asyncio.Event, ledger: Ledger
) -> None:
    for question in questions:
        await may_ask.wait()
        if not asker.is_open:
            return
        await _record(asker, question, over_grpc, time.monotonic(), ledger)


async def _record(asker: "_Asker", question: Question, over_grpc: bool, due: float, ledger: Ledger) -> None:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            checked = await (asker.over_grpc(question) if over_grpc else asker.over_http(question))
    except TimeoutError:
        checked = Checked("lost", f"no answer within {TIMEOUT_S:.0f} s")
    ledger.entries.append(Entry("gRPC" if over_grpc else "HTTP", due, time.monotonic(), *checked))


class _Asker:
    def __init__(
        self,
        client: httpx.AsyncClient,
        stub: inference_pb2_grpc.GRPCInferenceServiceStub,
        model: str,
        connect_again: bool,
    ) -> None:
        self._client, self._stub, self._model, self._connect_again = client, stub, model, connect_again
        self.is_open = True

    async def over_http(self, question: Question) -> Checked:
        request_id = str(uuid.uuid4())
        try:
            response = await self._post(question.picture, request_id)
        except httpx.ConnectError as err:
            return Checked("refused", f"{NOT_SENT}: {err}")
        except httpx.TransportError as err:
            return Checked("lost", f"{type(err).__name__}: {err}")
        if response.status_code != 200:
            is_honest = response.status_code in REFUSALS and "retry-after" in response.headers
            return Checked("refused" if is_honest else "other", f"{response.status_code} {response.text[:200]}")
        answer = response.json()
        found = {each["label"]: each["probability"] for each in answer["predictions"]}
        version = answer.get("version", 0)
        is_named = response.headers.get("x-model-version", str(version)) == str(version)
        if answer["request_id"] != request_id or not is_named or not question.is_answered_by(found, version):
            return Checked("wrong", response.text[:200])
        return Checked("answered", version=version)

    async def _post(self, picture: bytes, request_id: str) -> httpx.Response:
        parameters: dict[str, str | int] = {"model": self._model, "top_k": 1000}
        while True:
            try:
                return await self._client.post(
                    "/predict", params=parameters, content=picture, headers={"x-request-id": request_id}
                )
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if not self._connect_again:
                    raise
                await asyncio.sleep(CONNECT_AGAIN_S)

    async def over_grpc(self, question: Question) -> Checked:
        request = oip.ModelInferRequest(
            model_name=self._model,
            id=str(uuid.uuid4()),
            inputs=[{"name": "IMAGE", "datatype": "BYTES", "shape": [1]}],
            outputs=[{"name": "PROBABILITIES"}],
            raw_input_contents=[struct.pack("<I", len(question.picture)) + question.picture],
        )
        try:
            response = await self._stub.ModelInfer(request, timeout=TIMEOUT_S, wait_for_ready=self._connect_again)
        except grpc.aio.AioRpcError as err:
            return _grpc_failure(err)
        probabilities = np.frombuffer(response.raw_output_contents[0], "<f4").tolist()
        # Another model's answer has another length.
        found = dict(zip(question.answer, probabilities, strict=False))
        is_whole = len(probabilities) == len(question.answer)
        version = int(response.model_version or 0)
        if response.id != request.id or not is_whole or not question.is_answered_by(found, version):
            return Checked("wrong", f"version {version}: {probabilities}")
        return Checked("answered", version=version)


def _grpc_failure(err: grpc.aio.AioRpcError) -> Checked:
    detail = f"{err.code().name} {err.details()}"
    if err.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Checked("lost", detail)
    if err.code() not in GRPC_REFUSALS:
        return Checked("other", detail)
    if CONNECTION_REFUSED in (err.details() or ""):
        return Checked("refused", f"{NOT_SENT}: {detail}")
    # Only a server or a proxy sends metadata; without any, the client speaks of its own connection.
    is_from_server = PROXY_REFUSED in (err.details() or "") or bool(err.trailing_metadata() or err.initial_metadata())
    return Checked("refused" if is_from_server else "lost", detail)
