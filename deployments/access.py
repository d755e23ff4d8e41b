"""Who may call: each request's API key is looked up, asked for its scope, and counted.

The keys come from a file, which is followed while the service runs, or from an environment variable; settings/keys.py
says what stands there. Without keys everybody may call, where the settings let that be.
"""

import asyncio
import hmac
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import Final

from deployments.errors import ConfigError, Forbidden, QuotaExceeded, Unauthenticated
from deployments.settings import Access
from deployments.settings.keys import Key, Rate, Scope, digest_of, is_loopback, parse_keys

logger = logging.getLogger("ray.serve")

# Ours have 52; longer ones are not even hashed.
MAX_KEY_CHARACTERS: Final = 256
MAX_FILE_BYTES: Final = 2**20
# How soon a changed file is noticed.
POLL_S: Final = 2.0


class AccessControl:
    """Admits the requests of one Ingress replica, or says why not. `clock`: monotonic, in seconds."""

    def __init__(self, access: Access, clock: Callable[[], float] = time.monotonic, poll_s: float = POLL_S) -> None:
        """Raises ConfigError if the keys cannot be read."""
        self._access = access
        self._clock = clock
        self._poll_s = poll_s
        self._text = ""
        self._buckets: dict[Key, _Bucket | None] = {}
        self._follower: asyncio.Task[None] | None = None
        if access.asks_for_keys:
            self._take(_text_of(access))

    @property
    def asks_for_keys(self) -> bool:
        return self._access.asks_for_keys

    def start(self) -> None:
        """Begins to follow the file of keys, if there is one. Needs a running event loop."""
        if self._access.keys_file is not None:
            self._follower = asyncio.create_task(self._follow())

    def admit(self, presented: Sequence[str], scope: Scope, requests: int = 1) -> Key | None:
        """Lets the holder of a key make `requests` of that scope. `presented`: what the request has for a key.

        Returns the key, or None where none is asked for. Raises Unauthenticated, Forbidden or QuotaExceeded.
        """
        if not self.asks_for_keys:
            return None
        key = self.holder(presented)
        if scope != "read" and scope not in key.scopes:
            raise Forbidden(f"This needs an API key with the scope {scope}; yours has {', '.join(sorted(key.scopes))}.")
        bucket = self._buckets[key]
        if bucket is not None:
            bucket.take(requests, self._clock())
        return key

    def admit_peer(self, host: str) -> None:
        """For listeners that other machines reach whatever http_options.host says. Raises Unauthenticated."""
        if not (self.asks_for_keys or self._access.open_to_all or is_loopback(host)):
            raise Unauthenticated(
                "This service has no API keys, and without them it serves only the machine that it runs on, on its "
                "loopback address."
            )

    def holder(self, presented: Sequence[str]) -> Key:
        """The key itself. Raises Unauthenticated."""
        if not presented:
            raise Unauthenticated("This service asks for an API key: 'Authorization: Bearer KEY' or 'x-api-key: KEY'.")
        found: Key | None = None
        if len(presented) == 1 and len(presented[0]) <= MAX_KEY_CHARACTERS:
            digest = digest_of(presented[0])
            # All of them, each in constant time: how long it takes says nothing about any.
            for key in self._buckets:
                if hmac.compare_digest(digest, key.digest):
                    found = key
        if found is None:
            raise Unauthenticated("The API key is none that this service knows.")
        return found

    def _take(self, text: str) -> None:
        """From now on the keys in `text` hold; one that held before has used what it has used. Raises ConfigError."""
        keys, now = parse_keys(text, _source_of(self._access)), self._clock()
        self._buckets = {
            key: self._buckets.get(key) or (None if key.rate is None else _Bucket(key.rate, now)) for key in keys
        }
        self._text = text

    async def _follow(self) -> None:
        """Takes what the file says when it changes. A file that cannot be read or has a fault changes nothing."""
        complaint = ""
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                text = await asyncio.to_thread(_text_of, self._access)
                if text != self._text:
                    self._take(text)
                    logger.info("The API keys have changed; there are %d", len(self._buckets))
                complaint = ""
            except Exception as err:
                # Nothing of what another exception says, which may be what was read.
                reason = str(err) if isinstance(err, ConfigError) else type(err).__name__
                if reason != complaint:
                    logger.error("The API keys stay as they were: %s", reason)
                complaint = reason


def check_keys(access: Access) -> None:
    """Raises ConfigError if the settings name keys that cannot be read."""
    if access.asks_for_keys:
        parse_keys(_text_of(access), _source_of(access))


def _source_of(access: Access) -> str:
    return f"access.keys_file {access.keys_file!r}" if access.keys_file else f"access.keys_env {access.keys_env!r}"


def _text_of(access: Access) -> str:
    """The lines of keys. Blocks. Raises ConfigError."""
    if access.keys_file is None:
        text = os.environ.get(access.keys_env or "")
        if text is None:
            raise ConfigError(f"{_source_of(access)} is no variable in the environment of the Ingress.")
        return text
    try:
        # From anything else, like a pipe, reading might never end.
        if not stat.S_ISREG(os.stat(access.keys_file).st_mode):
            raise ConfigError(f"{_source_of(access)} is not a file.")
        with open(access.keys_file, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError(f"{_source_of(access)} is larger than {MAX_FILE_BYTES} bytes.")
        return content.decode()
    except OSError as err:
        raise ConfigError(f"{_source_of(access)} cannot be read: {err.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{_source_of(access)} is not text in UTF-8.") from None


class _Bucket:
    """A token bucket: a token for each request, filled evenly up to the burst."""

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate.burst)
        self._filled = now

    def take(self, requests: int, now: float) -> None:
        """Raises QuotaExceeded."""
        rate = self._rate
        self._tokens = min(rate.burst, self._tokens + (now - self._filled) * rate.requests_per_s)
        self._filled = now
        if self._tokens < requests:
            raise QuotaExceeded(
                f"The API key is over its rate of {rate.requests_per_s:g} requests a second; try again.",
                (requests - self._tokens) / rate.requests_per_s,
            )
        self._tokens -= requests
