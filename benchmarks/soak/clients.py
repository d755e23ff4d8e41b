"""Who asks what and when. Each client goes on until the soak is over, and records what became of every request."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import grpc

from benchmarks.http_client import Connection, Response, Target
from benchmarks.soak.asking import WAYS, Asked, Way
from benchmarks.soak.calling import CALLS, Stubs, call
from benchmarks.soak.ledger import Judgement, judged
from benchmarks.soak.questions import Question, smaller
from benchmarks.soak.rude import grpc_leaver, grpc_misuser, leaver, misuser, too_large
from benchmarks.soak.world import PATIENCE_S, SEVERAL_MAX_BYTES, World, of_status, of_upload
from benchmarks.uploads import upload

# Of those that wait for their answers, and how long each then thinks: half of what two cores can do.
HTTP_CALLERS, GRPC_CALLERS, THINK_S = 4, 2, 0.05
# Between the requests of the others.
HURRY_S, TRICKLE_S, BURST_S = 0.5, 5.0, 20.0
BURST, BURST_DEADLINE_S = 150, 1.0
# Of a request with too little time: from less than a hop takes to what is mostly enough.
HASTE_S = (0.005, 0.3)
# A body that takes three seconds to come.
TRICKLE_CHUNKS, TRICKLE_PAUSE_S = 30, 0.1
CALLS_A_CHANNEL = 50


Client = Callable[[World, random.Random], Coroutine[Any, Any, None]]


async def http_caller(world: World, choose: random.Random) -> None:
    connection: Connection | None = None
    while await world.pause(choose.expovariate(1 / THINK_S)):
        name, way = choose.choice(list(WAYS.items()))
        questions = world.pick(choose, way)
        asked = way.ask(questions)
        connection, judgement = await _exchange(world, connection, asked, way, questions)
        world.ledger.record(name, judgement)
    if connection is not None:
        connection.close()


async def _exchange(
    world: World, connection: Connection | None, asked: Asked, way: Way, questions: Sequence[Question]
) -> tuple[Connection | None, Judgement]:
    """The connection as long as it is of use, and what became of the request."""
    target = Target(world.url + asked.path, asked.headers)
    try:
        async with asyncio.timeout(PATIENCE_S):
            if connection is not None and not connection.is_open:
                connection.close()
                connection = None
            connection, response = await _answer(connection, target, asked.body)
    except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError) as err:
        return None, ("lost", repr(err))
    return connection, _judged(response, asked, way, questions)


async def _answer(connection: Connection | None, target: Target, body: bytes) -> tuple[Connection, Response]:
    """On the connection that is there, or on a new one. As curl does it, what is sent on one that was idle, and that
    the server closes without a byte, is sent once more: it may have been closed before the request came."""
    request = target.encode(body)
    if connection is not None:
        try:
            return connection, await connection.exchange(request)
        except ConnectionError:
            connection.close()
        except asyncio.IncompleteReadError as err:
            connection.close()
            if err.partial:
                raise
        except BaseException:
            connection.close()
            raise
    connection = await Connection.open(target)
    try:
        return connection, await connection.exchange(request)
    except BaseException:
        connection.close()
        raise


def _judged(response: Response, asked: Asked, way: Way, questions: Sequence[Question]) -> Judgement:
    if response.status != 200:
        return of_status(response.status, (), response.body)
    try:
        found = asked.read(response)
    except (ValueError, KeyError, IndexError, TypeError) as err:
        return "wrong", f"{err!r} in {response.body[:300]!r}"
    return judged(questions, found, way.labels, one_by_one=way.one_by_one)


async def grpc_caller(world: World, choose: random.Random) -> None:
    while await world.pause(0):
        async with grpc.aio.insecure_channel(world.grpc_address) as channel:
            stubs = Stubs(channel)
            for _ in range(CALLS_A_CHANNEL):
                name, way = choose.choice(list(CALLS.items()))
                fitting = [each for each in world.questions if len(each.image) <= SEVERAL_MAX_BYTES]
                questions = choose.choices(fitting, k=way.images)
                world.ledger.record(name, await call(way, stubs, questions, PATIENCE_S))
                if not await world.pause(choose.expovariate(1 / THINK_S)):
                    return


async def hurrier(world: World, choose: random.Random) -> None:
    """Has too little time: by the header, or by gRPC's deadline."""
    while await world.pause(choose.expovariate(1 / HURRY_S)):
        seconds = choose.uniform(*HASTE_S)
        way = WAYS["OIP, binary images"]
        questions = world.pick(choose, way)
        asked = way.ask(questions)
        headers = {**asked.headers, "x-request-timeout-seconds": f"{seconds:.3f}"}
        hurried = Asked(asked.path, asked.body, asked.read, headers)
        connection, judgement = await _exchange(world, None, hurried, way, questions)
        if connection is not None:
            connection.close()
        world.ledger.record("hurry over HTTP", judgement)
        async with grpc.aio.insecure_channel(world.grpc_address) as channel:
            fate, detail = await call(CALLS["OIP gRPC, raw"], Stubs(channel), questions[:2], seconds)
        # The client's own deadline is the server's: nothing is lost when it passes.
        world.ledger.record("hurry over gRPC", ("expired" if fate == "lost" else fate, detail))


async def trickler(world: World, choose: random.Random) -> None:
    questions = smaller(world.questions, 100_000)
    while await world.pause(TRICKLE_S):
        asked = WAYS["predict, raw"].ask([choose.choice(questions)])
        sent = await upload(
            Target(world.url + asked.path, asked.headers),
            asked.body,
            timeout_s=PATIENCE_S,
            chunk_bytes=len(asked.body) // TRICKLE_CHUNKS + 1,
            pause_s=TRICKLE_PAUSE_S,
        )
        world.ledger.record("a body that trickles", of_upload(sent.status, (200,), "trickled"))


async def burster(world: World, choose: random.Random) -> None:
    """Beyond capacity for a moment, each request on a connection of its own and with a deadline."""
    way = WAYS["predict, raw"]

    async def one() -> None:
        questions = [choose.choice(fitting)]
        asked = way.ask(questions)
        headers = {**asked.headers, "x-request-timeout-seconds": f"{BURST_DEADLINE_S:g}"}
        hurried = Asked(asked.path, asked.body, asked.read, headers)
        connection, judgement = await _exchange(world, None, hurried, way, questions)
        if connection is not None:
            connection.close()
        world.ledger.record("bursts", judgement)

    fitting = [each for each in world.questions if len(each.image) <= SEVERAL_MAX_BYTES]
    while await world.pause(BURST_S / 2):
        await asyncio.gather(*(one() for _ in range(BURST)))
        await world.pause(BURST_S / 2)


CLIENTS: Sequence[Client] = (
    *(http_caller,) * HTTP_CALLERS,
    *(grpc_caller,) * GRPC_CALLERS,
    *(misuser, grpc_misuser, too_large, leaver, grpc_leaver, hurrier, trickler, burster),
)
