"""HTTP/1.1 over asyncio streams, as little of it as a load generator needs: requests on connections that stay open.

It knows bodies of a stated length and chunked ones, and TLS; no redirects or compression.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit


class Response(NamedTuple):
    status: int
    body: bytes
    # The status line and the headers, in lower case.
    head: bytes = b""

    def header(self, name: str) -> str | None:
        """The value of the first header of that name, in lower case."""
        start = f"{name}:".encode()
        lines = (line for line in self.head.split(b"\r\n") if line.startswith(start))
        line = next(lines, None)
        return None if line is None else line[len(start) :].strip().decode("latin-1")


@dataclass(frozen=True)
class Target:
    """Where requests go, and the headers that each of them carries besides Host and Content-Length."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"

    def encode(self, body: bytes) -> bytes:
        """The bytes of one request, made before the clock starts."""
        return self.head(len(body)) + body

    def head(self, body_bytes: int) -> bytes:
        """What goes before a body of that length."""
        address = urlsplit(self.url)
        path = f"{address.path or '/'}{f'?{address.query}' if address.query else ''}"
        headers = {"Host": address.netloc, "Content-Length": str(body_bytes), **self.headers}
        lines = [f"{self.method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = urlsplit(self.url)
        encrypted = address.scheme == "https"
        port = address.port or (443 if encrypted else 80)
        return await asyncio.open_connection(address.hostname, port, ssl=encrypted or None)


class Connection:
    """One request at a time. Raises OSError, asyncio.IncompleteReadError or ValueError when the server hangs up or
    speaks something else; the connection is of no use after that, nor after a cancelled request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._stays_open = True

    @classmethod
    async def open(cls, target: Target) -> "Connection":
        return cls(*await target.connect())

    @property
    def is_open(self) -> bool:
        """False once the server has said or shown that it takes no further request here."""
        return self._stays_open and not self._reader.at_eof()

    async def exchange(self, request: bytes) -> Response:
        self._writer.write(request)
        response = await read_response(self._reader)
        # HAProxy closes connections when its configuration changes, and says so in the answer before.
        self._stays_open = b"\r\nconnection: close" not in response.head
        return response

    def close(self) -> None:
        self._writer.close()


async def read_response(reader: asyncio.StreamReader) -> Response:
    """The next one. Raises asyncio.IncompleteReadError or ValueError."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    return Response(int(head.split(b" ", 2)[1]), await _read_body(reader, head), head)


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    length = next((line for line in head.split(b"\r\n") if line.startswith(b"content-length:")), None)
    if length is not None:
        return await reader.readexactly(int(length.split(b":")[1]))
    chunks = []
    while (size := int(await reader.readuntil(b"\r\n"), 16)) > 0:
        chunks.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(chunks)
