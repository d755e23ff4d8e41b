"""Bodies sent piece by piece, with an eye on the answer all the while: how much a server takes before it refuses."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from benchmarks.http_client import Target

CHUNK_BYTES = 2**16


class Uploaded(NamedTuple):
    """`status` is None if no answer came; `sent_bytes` of the body had been handed to the kernel by the answer."""

    status: int | None
    sent_bytes: int
    took_s: float


async def upload(
    target: Target, body: bytes, *, timeout_s: float, chunk_bytes: int = CHUNK_BYTES, pause_s: float = 0.0
) -> Uploaded:
    """POSTs `body` in chunks with `pause_s` after each, and stops sending when an answer begins to come.

    Ends after `timeout_s`, whatever the server does.
    """
    started, sent_bytes, status = time.perf_counter(), 0, None
    try:
        async with asyncio.timeout(timeout_s), _connected(target) as (reader, writer):
            answer: asyncio.Future[Any] = asyncio.ensure_future(reader.readuntil(b"\r\n"))
            try:
                writer.write(target.head(len(body)))
                while sent_bytes < len(body) and not answer.done():
                    chunk = body[sent_bytes : sent_bytes + chunk_bytes]
                    writer.write(chunk)
                    await _drained(writer, answer)
                    sent_bytes += len(chunk)
                    await asyncio.sleep(pause_s)
                status = int((await answer).split(b" ", 2)[1])
            finally:
                answer.cancel()
    except (OSError, ValueError, asyncio.IncompleteReadError):
        pass
    return Uploaded(status, sent_bytes, time.perf_counter() - started)


async def _drained(writer: asyncio.StreamWriter, answer: "asyncio.Future[Any]") -> None:
    """Returns when there is room for more, or when there is an answer: a server that refuses reads no further."""
    drain: asyncio.Future[Any] = asyncio.ensure_future(writer.drain())
    try:
        await asyncio.wait([drain, answer], return_when=asyncio.FIRST_COMPLETED)
        if drain.done() and not answer.done():
            drain.result()
    finally:
        drain.cancel()
        await asyncio.gather(drain, return_exceptions=True)


@asynccontextmanager
async def _connected(target: Target) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await target.connect()
    try:
        yield reader, writer
    finally:
        writer.transport.abort()  # What is still unsent is for nobody.
