"""Clients that behave badly: requests that must be refused, and callers that leave."""

import asyncio
import random
import socket
import struct
from contextlib import suppress

import grpc

from benchmarks.http_client import Target
from benchmarks.soak.asking import WAYS
from benchmarks.soak.calling import Stubs, of_error, request_of
from benchmarks.soak.ledger import Judgement
from benchmarks.soak.misuse import misuses, wrong_calls
from benchmarks.soak.questions import MODEL, smaller
from benchmarks.soak.world import PATIENCE_S, World, of_upload
from benchmarks.uploads import upload
from deployments.protocols.generated import inference_pb2_grpc

# Between the requests of each.
MISUSE_S, LEAVE_S = 0.4, 0.4
TOO_LARGE_BYTES = 50 * 2**20
# Of the pictures that these clients send.
PIXELS = 100_000


async def misuser(world: World, choose: random.Random) -> None:
    """Each request on a connection of its own, since a refusal may end it."""
    questions = smaller(world.questions, PIXELS)
    while await world.pause(MISUSE_S):
        bad = choose.choice(misuses(choose.choice(questions).image, MODEL))
        target = Target(world.url + bad.path, bad.headers, bad.method)
        status = (await upload(target, bad.body, timeout_s=PATIENCE_S)).status
        world.ledger.record("misuse over HTTP", of_upload(status, bad.statuses, bad.what))


async def grpc_misuser(world: World, choose: random.Random) -> None:
    questions = smaller(world.questions, PIXELS)
    while await world.pause(10 * MISUSE_S):
        async with grpc.aio.insecure_channel(world.grpc_address) as channel:
            calls = await wrong_calls(Stubs(channel), choose.choice(questions), PATIENCE_S)
            for what, (awaited, right) in calls.items():
                judgement: Judgement = ("wrong", f"{what}: answered")
                try:
                    await awaited
                except grpc.aio.AioRpcError as err:
                    judgement = ("answered", "") if err.code() == right else of_error(err)
                world.ledger.record("misuse over gRPC", judgement)


async def too_large(world: World, choose: random.Random) -> None:
    body = bytes(TOO_LARGE_BYTES)
    while await world.pause(10 * MISUSE_S):
        sent = await upload(Target(f"{world.url}/predict"), body, timeout_s=PATIENCE_S)
        world.ledger.record("50 MB", of_upload(sent.status, (413,), "50 MB"))


async def leaver(world: World, choose: random.Random) -> None:
    """Hangs up in the middle of its request, or of the wait for the answer, now and then without a goodbye."""
    way = WAYS["predict, multipart"]
    while await world.pause(choose.expovariate(1 / LEAVE_S)):
        asked = way.ask(world.pick(choose, way))
        target = Target(world.url + asked.path, asked.headers)
        request = target.encode(asked.body)
        uploading = choose.random() < 0.5
        with suppress(OSError):
            _, writer = await target.connect()
            if choose.random() < 0.5:
                # The kernel then resets the connection (socket(7), SO_LINGER).
                connection: socket.socket = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.write(request[: len(request) // 2] if uploading else request)
            await asyncio.sleep(choose.uniform(0, 0.15))
            writer.transport.abort()
        world.ledger.record("left while sending" if uploading else "left while waiting", ("left", ""))


async def grpc_leaver(world: World, choose: random.Random) -> None:
    questions = smaller(world.questions, PIXELS)
    while await world.pause(choose.expovariate(1 / LEAVE_S)):
        async with grpc.aio.insecure_channel(world.grpc_address) as channel:
            stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            streamed = choose.random() < 0.5
            if streamed:
                call = stub.ModelStreamInfer(timeout=PATIENCE_S)
                with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await call.write(request_of(choose.choices(questions, k=4)))
            else:
                call = stub.ModelInfer(request_of(choose.choices(questions, k=4)), timeout=PATIENCE_S)
            await asyncio.sleep(choose.uniform(0, 0.05))
            call.cancel()
        world.ledger.record("left a stream" if streamed else "left a call", ("left", ""))
