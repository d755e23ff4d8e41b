"""A web site on 127.0.0.1 that answers as it is told to, a name server that says what it should, and visits to it."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from ipaddress import ip_address
from unittest.mock import patch

import trustme

from deployments.errors import ApertureError
from deployments.fetching import Address, Fetcher, is_public
from deployments.settings import ImageUrls

NAME = "images.example.org"
URL = f"https://{NAME}/heart.png"
HERE = "127.0.0.1"
MAX_BODY_BYTES = 100_000

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Visit:
    """What became of each URL, the heads of the requests that arrived, and the names that were looked up."""

    outcomes: list[bytes | ApertureError] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    lookups: list[str] = field(default_factory=list)
    connections: int = 0

    @property
    def outcome(self) -> bytes | ApertureError:
        (outcome,) = self.outcomes
        return outcome


def ok(body: bytes, *headers: str) -> bytes:
    return answer("200 OK", *headers, f"Content-Length: {len(body)}", body=body)


def answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


def allow_here(address: Address) -> bool:
    return address == ip_address(HERE) or is_public(address)


def visit(
    talk: bytes | Talk,
    *urls: str,
    settings: ImageUrls | None = None,
    addresses: Sequence[Sequence[str]] = ((HERE,),),
    is_allowed_address: Callable[[Address], bool] = allow_here,
    certified: str = NAME,
    trusted: bool = True,
    speaks_tls: bool = True,
) -> Visit:
    """Fetches `urls`, or URL, one after the other. The last of `addresses` answers all further lookups."""
    settings = settings or ImageUrls(allowed_hosts=(NAME,), timeout_s=20.0)
    fetcher = Fetcher(settings, MAX_BODY_BYTES, is_allowed_address, _client_context() if trusted else True)
    tls = _server_context(certified) if speaks_tls else None
    return asyncio.run(_visit(talk, urls or (URL,), fetcher, addresses, tls))


async def _visit(
    talk: bytes | Talk,
    urls: Sequence[str],
    fetcher: Fetcher,
    addresses: Sequence[Sequence[str]],
    tls: ssl.SSLContext | None,
) -> Visit:
    seen = Visit()
    # Clients that hang up in the middle do not say goodbye.
    shutdown_timeout_s = None if tls is None else 0.1
    server = await asyncio.start_server(
        partial(_serve, seen, talk), HERE, 0, ssl=tls, ssl_shutdown_timeout=shutdown_timeout_s
    )
    try:
        with name_server(seen.lookups, addresses, server.sockets[0].getsockname()[1]):
            for url in urls:
                seen.outcomes.append(await fetcher.fetch(url))
    finally:
        await fetcher.close()
        server.close()
    return seen


async def _serve(seen: Visit, talk: bytes | Talk, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    seen.connections += 1
    try:
        while True:
            seen.heads.append(await reader.readuntil(b"\r\n\r\n"))
            if not isinstance(talk, bytes):
                await talk(reader, writer)
                return
            writer.write(talk)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    finally:
        writer.close()


@contextmanager
def name_server(lookups: list[str], addresses: Sequence[Sequence[str]], port: int) -> Iterator[None]:
    """Answers all lookups of this process, whatever their port, with `port`."""

    def look_up(host: str, *args: object, **options: object) -> list[tuple[object, ...]]:
        found = addresses[min(len(lookups), len(addresses) - 1)]
        lookups.append(host)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [_address_info(address, port) for address in found]

    with patch.object(socket, "getaddrinfo", look_up):
        yield


def _address_info(address: str, port: int) -> tuple[object, ...]:
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)


@cache
def _authority() -> trustme.CA:
    return trustme.CA()


@cache
def _server_context(name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _authority().issue_cert(name).configure_cert(context)
    return context


@cache
def _client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    _authority().configure_trust(context)
    return context
