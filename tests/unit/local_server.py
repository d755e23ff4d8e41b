"""A server on 127.0.0.1 for tests of the load generator: it answers as it is told to, and counts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"
LAST = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
HANG_UP = b""

Respond = Callable[[int], Awaitable[bytes]]


class LocalServer:
    """`respond` gets the number of the request, from 0, and returns the bytes of the answer, or HANG_UP."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self.url = ""
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                answer = await self._answer(reader)
                writer.write(answer)
                if answer in (LAST, HANG_UP):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(int(length.split(b":")[1]))
        self.heads.append(head)
        self.bodies.append(body)
        return await self._respond(len(self.bodies) - 1)


@asynccontextmanager
async def serving(respond: Respond) -> AsyncIterator[LocalServer]:
    local = LocalServer(respond)
    handlers: set[asyncio.Task[None]] = set()

    def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.ensure_future(local.handle(reader, writer)))

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    local.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predict"
    try:
        yield local
    finally:
        server.close()
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
