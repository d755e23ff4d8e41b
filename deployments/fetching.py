"""Images by URL: off by default, since a service that fetches what it is told to reaches where its clients cannot.

Switched on, a URL is fetched when all of this holds:

    URL          https (http by setting), the scheme's own port, no credentials; a host name, not an address
    host         on the list of the settings, once lower-cased, IDNA-encoded and without its trailing dot
    addresses    all that the name resolves to are public; the connection goes to one of these, without a second lookup
    TLS          the certificate is valid for the name; trust is the system's, or that of SSL_CERT_FILE
    answer       200, not a redirect; neither compressed nor larger than a body may be; complete within timeout_s

Nothing of the client's request or of the environment (proxies, netrc, cookies) goes along. Query strings may hold
tokens, so that neither logs nor errors have them.
"""

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from deployments.errors import ApertureError, BadRequest, BodyTooLarge, FetchFailed, UrlRefused
from deployments.settings import ImageUrls

logger = logging.getLogger("ray.serve")

Address = IPv4Address | IPv6Address

# Of each Fetcher; further ones wait, within their timeout_s. Each holds at most one image of max_body_bytes.
MAX_CONNECTIONS: Final = 16
# getaddrinfo cannot be cancelled, so that slow name servers occupy these threads and no others.
RESOLVER_THREADS: Final = 4
CHUNK_BYTES: Final = 2**16
# Most servers and proxies take no longer ones: RFC 9110, section 4.1, asks for 8000 octets at least.
MAX_URL_CHARACTERS: Final = 8000
HEADERS: Final = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "aperture"}

# What follows the host is sent as it stands. Backslashes, which some parsers take for slashes, are in no part.
URL_SYNTAX: Final = re.compile(
    r"(?P<scheme>[Hh][Tt][Tt][Pp][Ss]?)://(?P<host>[^\x00-\x1f\x7f\s/?#\\@:%\[\]]+)(:(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[!\"$->@-\[\]-~]*)?(\?(?P<query>[!\"$-\[\]-~]*))?(#[!-\[\]-~]*)?"
)
HOST_NAME: Final = re.compile(r"([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
DEFAULT_PORTS: Final = {"http": "80", "https": "443"}

# IANA's registries iana-ipv4-special-registry and iana-ipv6-special-registry, where `ipaddress` of Python 3.11 and
# later patch releases differ from them or from each other, and what clouds serve at addresses that look public.
NOT_PUBLIC: Final = (
    IPv4Network("192.0.0.0/24"),  # IETF protocol assignments, and the metadata of some clouds
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv4Network("168.63.129.16/32"),  # Azure's platform, which only its own machines reach
    IPv6Network("2001::/23"),  # IETF protocol assignments, Teredo among them
    IPv6Network("2001:db8::/32"),  # documentation
    IPv6Network("2002::/16"),  # 6to4, which embeds an IPv4 address
    IPv6Network("3fff::/20"),  # documentation
)
# All that is assigned for use on the Internet; mapped, translated, local and multicast addresses are outside.
IPV6_UNICAST: Final = IPv6Network("2000::/3")
# RFC 6052: how networks without IPv4 reach it; the last 32 bits are the IPv4 address.
NAT64: Final = IPv6Network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether packets to `address` leave for the Internet, whatever network this service is in."""
    if isinstance(address, IPv6Address):
        if address in NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in IPV6_UNICAST or address.scope_id is not None:
            return False
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not any(address in network for network in NOT_PUBLIC)


class Fetcher:
    """Its connections live as long as its process, or until `close`. One event loop uses it.

    `is_allowed_address` and `trust` are for tests, whose servers are at 127.0.0.1; no setting reaches them.
    """

    def __init__(
        self,
        settings: ImageUrls | None,
        max_body_bytes: int,
        is_allowed_address: Callable[[Address], bool] = is_public,
        trust: ssl.SSLContext | bool = True,
    ) -> None:
        self._settings = settings
        self._max_body_bytes = max_body_bytes
        self._resolver = CheckingResolver(is_allowed_address)
        self._trust = trust
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, url: str) -> bytes | ApertureError:
        """The body that `url` answers with, or why it is not fetched.

        BadRequest or UrlRefused before anything is sent, FetchFailed, or BodyTooLarge.
        """
        if self._settings is None:
            return UrlRefused("This service fetches no images; send the image itself.")
        try:
            return await self._fetch(checked_url(url, self._settings), self._settings.timeout_s)
        except ApertureError as refusal:
            return refusal

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        await self._resolver.close()

    async def _fetch(self, url: URL, timeout_s: float) -> bytes:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._body(url)
        except TimeoutError:
            raise FetchFailed(f"{_host(url)} has not delivered the image within {timeout_s:g} s.") from None
        except (aiohttp.ClientError, OSError) as err:
            logger.info("An image could not be fetched from %s: %s", url.raw_host, type(err).__name__)
            raise FetchFailed(f"{_host(url)} has not delivered the image: {_reason(err)}.") from None

    async def _body(self, url: URL) -> bytes:
        async with self._opened().get(url, allow_redirects=False) as response:
            self._check_head(response, url)
            body = bytearray()
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                body += chunk
                if len(body) > self._max_body_bytes:
                    raise self._too_large()
            return bytes(body)

    def _check_head(self, response: aiohttp.ClientResponse, url: URL) -> None:
        if 300 <= response.status < 400:
            raise FetchFailed(f"{_host(url)} redirects with the status {response.status}, which is not followed.")
        if response.status != 200:
            raise FetchFailed(f"{_host(url)} has answered with the status {response.status} in place of 200.")
        if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise FetchFailed(f"{_host(url)} has sent the image compressed, though identity was asked for.")
        if (response.content_length or 0) > self._max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"The image at the URL is larger than the {self._max_body_bytes} bytes that this service accepts."
        )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:  # Not in the constructor, since it needs a running event loop.
            connector = aiohttp.TCPConnector(
                resolver=self._resolver, use_dns_cache=False, limit=MAX_CONNECTIONS, ssl=self._trust
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # `_fetch` has one for everything.
                headers=HEADERS,
            )
        return self._session


class CheckingResolver(AbstractResolver):
    """Names to addresses, all of which are allowed. The connection goes to these, so that no later answer counts."""

    def __init__(self, is_allowed_address: Callable[[Address], bool]) -> None:
        self._is_allowed_address = is_allowed_address
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolver")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises UrlRefused, or OSError if there is no address."""
        # The final dot: names are absolute, so that the search domains of a cluster are not tried.
        look_up = partial(socket.getaddrinfo, f"{host}.", port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        addresses = [(str(sockaddr[0]), int(sockaddr[1]), family) for family, *_, sockaddr in found]
        if not addresses:
            raise OSError("The name has no address.")
        if not all(self._is_allowed_address(ip_address(address)) for address, _, _ in addresses):
            raise UrlRefused(f"The host {_short(host)} has an address that is not public.")
        flags, proto = socket.AI_NUMERICHOST, socket.IPPROTO_TCP
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=proto, flags=flags)
            for address, port, family in addresses
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def checked_url(url: str, settings: ImageUrls) -> URL:
    """`url` as it is fetched, made of the very parts that were checked. Raises BadRequest or UrlRefused."""
    parts = URL_SYNTAX.fullmatch(url) if len(url) <= MAX_URL_CHARACTERS else None
    if parts is None:
        raise BadRequest(
            f"An image URL is https://HOST/PATH of at most {MAX_URL_CHARACTERS} characters, with a host name, without "
            "credentials, and with spaces and characters beyond ASCII percent-encoded."
        )
    scheme, host = parts["scheme"].lower(), _normalised(parts["host"])
    if scheme == "http" and not settings.allow_http:
        raise UrlRefused("Images are fetched by https only.")
    if host is None or not _is_listed(host, settings.allowed_hosts):
        raise UrlRefused(f"No images are fetched from the host {_short(parts['host'])}.")
    if parts["port"] not in (None, DEFAULT_PORTS[scheme]):
        raise UrlRefused(f"Images are fetched from port {DEFAULT_PORTS[scheme]} only, not from {parts['port']}.")
    return URL.build(
        scheme=scheme, host=host, path=parts["path"] or "/", query_string=parts["query"] or "", encoded=True
    )


def _normalised(host: str) -> str | None:
    """Lower case, IDNA-encoded and without its trailing dot; None if that is no name of at least two labels."""
    try:
        name = URL.build(scheme="https", host=host).raw_host or ""
    except ValueError:  # UnicodeError is one.
        return None
    name = name.removesuffix(".")
    return name if len(name) <= 253 and HOST_NAME.fullmatch(name) else None


def _is_listed(host: str, allowed_hosts: Sequence[str]) -> bool:
    names = [name.lower() for name in allowed_hosts]
    return any(host == name or (name.startswith("*.") and host.endswith(name[1:])) for name in names)


def _reason(err: Exception) -> str:
    if isinstance(err, aiohttp.ClientConnectorDNSError):
        return "its name does not resolve"
    if isinstance(err, aiohttp.ClientSSLError):
        return "its certificate or its TLS is not acceptable"
    if isinstance(err, aiohttp.ClientConnectorError):
        return "no connection"
    return "the answer is incomplete or is not HTTP"


def _host(url: URL) -> str:
    return f"The host {_short(url.raw_host or '')}"


def _short(host: str) -> str:
    return repr(host if len(host) <= 100 else f"{host[:97]}...")
