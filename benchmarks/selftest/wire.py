"""Bytes on a connection, for what no well-behaved client says."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

from benchmarks.http_client import Response, Target, read_response

READ_BYTES = 2**16
# Until a connection is given up on which nothing comes any more, if the service leaves it open.
SILENCE_S = 2.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def answer_to(target: Target, head: bytes, chunks: Iterable[bytes]) -> tuple[Response, int]:
    """Sends until the answer is there; how many bytes of `chunks` were handed to the kernel by then.

    Raises OSError, asyncio.IncompleteReadError or ValueError.
    """
    sent_bytes = 0

    async def send(writer: asyncio.StreamWriter) -> None:
        nonlocal sent_bytes
        writer.write(head)
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
            sent_bytes += len(chunk)

    async with connected(target) as (reader, writer):
        sending = asyncio.create_task(send(writer))
        try:
            return await read_response(reader), sent_bytes
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def all_that_comes(target: Target, sent: bytes) -> bytes:
    """Until the other side closes, or is silent for SILENCE_S."""
    answer = b""
    async with connected(target) as (reader, writer):
        with suppress(OSError, TimeoutError):
            writer.write(sent)
            while True:
                async with asyncio.timeout(SILENCE_S):
                    part = await reader.read(READ_BYTES)
                if not part:
                    break
                answer += part
    return answer


def statuses(answer: bytes) -> list[int]:
    """Of all the responses in it."""
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


@asynccontextmanager
async def connected(target: Target, *, goodbye: bool = True) -> AsyncIterator[Streams]:
    """Without `goodbye` the kernel resets the connection at the end (socket(7), SO_LINGER)."""
    reader, writer = await target.connect()
    try:
        if not goodbye:
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        yield reader, writer
    finally:
        # What is still unsent is for nobody.
        writer.transport.abort()
