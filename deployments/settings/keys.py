"""API keys as an operator writes them down, and where a service without any may listen.

A key is 256 random bits. What is kept of it is its SHA-256: nobody finds the key of a hash by guessing, which is what
slow hashes make slower for passwords, and a fast one costs each request microseconds. The keys are lines, as
`python -m scripts.api_key` prints them:

    # name       SHA-256 of the key         scopes           requests a second/at once; without it, any number
    mobile-app   sha256:64 hex digits       classify         20/40
    dashboard    sha256:64 hex digits       read

All lines hold at once, of one name or of many, so that a new key is there before the old one goes.
"""

import hashlib
import ipaddress
import re
import secrets
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from deployments.errors import ConfigError
from deployments.settings.requests import Access

# classify: inference. read: metadata, statistics and documentation, which a key of any scope may see, since clients
# read the metadata before they classify. admin: what changes the service.
Scope = Literal["classify", "read", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

# By which scanners of code and logs can tell that a text is one of these keys.
KEY_PREFIX: Final = "aperture_"
KEY_BYTES: Final = 32
# Each request is compared with all of them, in less than half a millisecond.
MAX_KEYS: Final = 1000
MAX_RATE: Final = 999_999
NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"
LINE: Final = re.compile(
    rf"(?P<name>{NAME})\s+sha256:(?P<digest>[0-9a-f]{{64}})\s+(?P<scopes>[a-z,]+)"
    # Of as many digits as MAX_RATE.
    r"(\s+(?P<requests_per_s>\d{1,6}(\.\d{1,3})?)/(?P<burst>\d{1,6}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst`: requests at once after a pause. Both hold for each Ingress replica by itself."""

    requests_per_s: float
    burst: int


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    digest: bytes = field(repr=False)
    scopes: frozenset[Scope] = frozenset({"classify"})
    rate: Rate | None = None

    def line(self) -> str:
        """The key as `parse_keys` reads it."""
        scopes = ",".join(scope for scope in SCOPES if scope in self.scopes)
        words = [self.name, f"sha256:{self.digest.hex()}", scopes]
        if self.rate is not None:
            words.append(f"{self.rate.requests_per_s:.3f}".rstrip("0").rstrip(".") + f"/{self.rate.burst}")
        return " ".join(words)


def new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def digest_of(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def parse_keys(text: str, source: str) -> tuple[Key, ...]:
    """The keys of such lines. Raises ConfigError with the number of the first faulty line, and nothing of its text."""
    keys: dict[bytes, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        key = _key_of(content, f"Line {number} of {source}")
        if key.digest in keys:
            raise ConfigError(f"Line {number} of {source} has a key that a line above has, too.")
        keys[key.digest] = key
    if not 1 <= len(keys) <= MAX_KEYS:
        raise ConfigError(f"There are {len(keys)} keys in {source}, where at least one must be and at most {MAX_KEYS}.")
    return tuple(keys.values())


def _key_of(line: str, where: str) -> Key:
    match = LINE.fullmatch(line)
    if match is None:
        raise ConfigError(
            f"{where} must be a name, sha256: with the 64 hex digits of the key's hash, scopes, and perhaps "
            f"REQUESTS_PER_S/BURST, which is what python -m scripts.api_key prints; a key itself never stands there."
        )
    named = match["scopes"].split(",")
    scopes = frozenset(scope for scope in SCOPES if scope in named)
    if len(scopes) < len(named):
        raise ConfigError(f"{where} has a scope twice, or one that is none of {', '.join(SCOPES)}.")
    rate = None if match["burst"] is None else Rate(float(match["requests_per_s"]), int(match["burst"]))
    if rate is not None and (rate.requests_per_s <= 0 or rate.burst < 1):
        raise ConfigError(f"{where} has a rate that lets nothing through.")
    return Key(match["name"], bytes.fromhex(match["digest"]), scopes, rate)


def is_loopback(host: str | None) -> bool:
    """Whether `host` is an address of this machine that others do not reach. None is every address."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return False
    # IPv4 in IPv6, as sockets for both have it.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def check_exposure(access: Access, host: str | None) -> None:
    """Raises ConfigError if a service without keys would listen on `host` for others than this machine."""
    if access.asks_for_keys or access.open_to_all or is_loopback(host):
        return
    raise ConfigError(
        f"The service would listen on http_options.host {host!r} and serve whoever comes; name API keys in args with "
        f"access.keys_file or access.keys_env, or make the host '127.0.0.1', or set access.open_to_all to true where "
        f"something in front asks who they are."
    )
