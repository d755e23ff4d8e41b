"""How the service is asked: over HTTP/1.1 on connections of its own, and over gRPC; both with the API key, if any.

A service that says when to come again is asked again then, as any client may, but not for long.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc

from benchmarks.http_client import Connection, Response, Target
from benchmarks.soak.calling import Stubs

KEY_HEADER = "x-api-key"
COME_AGAIN = (429, 503)
# Of one request, how often it is sent again, and the longest wait before.
TRIES, MOST_WAIT_S = 3, 2.0


class Service:
    """`key` goes with every request, unless that has another one."""

    def __init__(self, url: str, grpc_address: str | None, key: str | None) -> None:
        self.url, self.grpc_address, self.key = url.rstrip("/"), grpc_address, key
        # Requests that were sent again, since the service had said so.
        self.sent_again = 0

    def target(self, path: str, headers: Mapping[str, str] | None = None, method: str = "POST") -> Target:
        return Target(self.url + path, {**self._key_headers(), **(headers or {})}, method)

    async def ask(
        self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, method: str = "POST"
    ) -> Response:
        """Raises OSError, asyncio.IncompleteReadError or ValueError where no answer comes."""
        target = self.target(path, headers, method)
        for _ in range(TRIES):
            response = await exchange(target, body)
            after = response.header("retry-after")
            if response.status not in COME_AGAIN or after is None or not after.isdigit():
                return response
            self.sent_again += 1
            await asyncio.sleep(min(int(after), MOST_WAIT_S))
        return await exchange(target, body)

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        return await self.ask(path, headers=headers, method="GET")

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        address = self.grpc_address or ""
        if address.startswith("https://"):
            opened = grpc.aio.secure_channel(address.removeprefix("https://"), grpc.ssl_channel_credentials())
        else:
            opened = grpc.aio.insecure_channel(address)
        async with opened as channel:
            yield channel

    @asynccontextmanager
    async def stubs(self) -> AsyncIterator[Stubs]:
        """Those of both inference services, on a connection of their own."""
        async with self.channel() as channel:
            stubs, metadata = Stubs(channel), tuple(self._key_headers().items())
            stubs.inference = WithMetadata(stubs.inference, metadata)
            stubs.prediction = WithMetadata(stubs.prediction, metadata)
            yield stubs

    def _key_headers(self) -> dict[str, str]:
        return {} if self.key is None else {KEY_HEADER: self.key}


class WithMetadata:
    """A stub all of whose calls carry the same metadata, besides their own."""

    def __init__(self, stub: Any, metadata: Sequence[tuple[str, str]]) -> None:
        self._stub, self._metadata = stub, metadata

    def __getattr__(self, name: str) -> Any:
        return partial(self._call, getattr(self._stub, name))

    def _call(self, method: Any, *args: Any, metadata: Sequence[tuple[str, str]] = (), **options: Any) -> Any:
        return method(*args, metadata=(*self._metadata, *metadata), **options)


async def exchange(target: Target, body: bytes = b"") -> Response:
    """One request on a connection of its own. Raises OSError, asyncio.IncompleteReadError or ValueError."""
    connection = await Connection.open(target)
    try:
        return await connection.exchange(target.encode(body))
    finally:
        connection.close()
