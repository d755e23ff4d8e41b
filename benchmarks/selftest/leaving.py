"""Clients that leave cost nobody anything: afterwards the service answers as before."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import grpc

from benchmarks.http_client import Target
from benchmarks.selftest.checks import Topic, demand
from benchmarks.selftest.deployment import Deployment
from benchmarks.selftest.judging import TOLERANCE, agrees, content_of
from benchmarks.selftest.protocols import CALL_S, without_grpc
from benchmarks.selftest.wire import Streams, connected
from benchmarks.soak.asking import WAYS, Asked
from benchmarks.soak.calling import request_of

LEAVING = Topic("leaving")
LEAVERS, IMAGES = 8, 8
AFTERWARDS = "200 afterwards"
# Long enough for a request to be under way, and mostly shorter than IMAGES take.
MOMENT_S = 0.02

Leave = Callable[[Target, Asked], Awaitable[None]]


@LEAVING.claim(AFTERWARDS)
async def who_leaves_in_the_middle_of_the_body_leaves_nothing(deployment: Deployment) -> str:
    async def leave(target: Target, asked: Asked) -> None:
        async with connected(target, goodbye=False) as (_, writer):
            request = target.encode(asked.body)
            writer.write(request[: len(request) // 2])
            await asyncio.sleep(MOMENT_S)

    return await _left(deployment, "predict, multipart", leave)


@LEAVING.claim(AFTERWARDS)
async def who_leaves_before_the_answer_leaves_nothing(deployment: Deployment) -> str:
    async def leave(target: Target, asked: Asked) -> None:
        async with connected(target, goodbye=False) as (_, writer):
            writer.write(target.encode(asked.body))
            await asyncio.sleep(MOMENT_S)

    return await _left(deployment, "predict, multipart", leave)


@LEAVING.claim(AFTERWARDS)
async def who_leaves_in_the_middle_of_the_answer_leaves_nothing(deployment: Deployment) -> str:
    async def leave(target: Target, asked: Asked) -> None:
        async with connected(target) as (reader, writer):
            writer.write(target.encode(asked.body))
            await _first_bytes((reader, writer))

    return await _left(deployment, "predict, NDJSON", leave)


@LEAVING.claim(AFTERWARDS)
async def a_cancelled_call_leaves_nothing(deployment: Deployment) -> str:
    without_grpc(deployment)
    async with deployment.service.stubs() as stubs:
        calls = [
            stubs.inference.ModelInfer(request_of([deployment.question] * IMAGES), timeout=CALL_S)
            for _ in range(LEAVERS)
        ]
        await asyncio.sleep(MOMENT_S)
        for call in calls:
            call.cancel()
            with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await call
    return await _as_before(deployment)


async def _left(deployment: Deployment, way: str, leave: Leave) -> str:
    asked = WAYS[way].ask([deployment.question] * IMAGES)
    target = deployment.service.target(asked.path, asked.headers)
    await asyncio.gather(*(leave(target, asked) for _ in range(LEAVERS)))
    return await _as_before(deployment)


async def _first_bytes(streams: Streams) -> None:
    reader, _ = streams
    demand(bool(await reader.read(1)), "no answer to leave")


async def _as_before(deployment: Deployment) -> str:
    asked = WAYS["predict, raw"].ask([deployment.question])
    response = await deployment.service.ask(asked.path, asked.body, asked.headers)
    content_of(response)
    agrees(asked.read(response), [deployment.question], TOLERANCE)
    return f"200 after {LEAVERS} left"
