"""How long the client of a request waits, counted from the request's arrival, and what is left of it.

    x-request-timeout-seconds    seconds, as an HTTP header or gRPC metadata; the name is Ray Serve's
    timeout                      microseconds, a parameter of requests of the Open Inference Protocol (oip/)

The shorter of the two holds, request_timeout_s of the limits is the most, and default_timeout_s is for those that say
nothing. What is not a positive number is refused: a client that asks for a bound and gets another one in silence would
wait for what it has given up on, and 0 or infinity, which switch Serve's own timeout off, switch off nothing here.
"""

import math
import time
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from deployments.deadlines import budget_s
from deployments.errors import BadRequest
from deployments.protocols.json_bodies import quoted
from deployments.settings import Limits

TIMEOUT_HEADER: Final = "x-request-timeout-seconds"
# What deployments/edge.py makes of it on the way in, so that Serve does not end the request in words of its own.
INNER_TIMEOUT_HEADER: Final = "x-aperture-timeout-seconds"
HEADERS: Final = frozenset({TIMEOUT_HEADER.encode(), INNER_TIMEOUT_HEADER.encode()})
# Long enough for any number in decimals, and short enough to parse whatever a client sends.
MAX_CHARACTERS: Final = 32
CHARACTERS: Final = frozenset("0123456789.eE+-")

# When the headers came, in time.monotonic(), where something in this process saw them before the request had its turn.
arrived_at: ContextVar[float] = ContextVar("arrived_at")


@dataclass(frozen=True, slots=True)
class Patience:
    """`arrived`: in time.monotonic(). `asked_s`: what the client asked for, if anything, however long."""

    arrived: float
    asked_s: float | None
    limits: Limits

    @property
    def most_s(self) -> float:
        """Of the whole request, until something else is known."""
        return min(self.limits.request_timeout_s, self.asked_s or math.inf)

    def left_s(self, parameter_s: float | None = None) -> float:
        """Seconds until the deadline, at least zero; `parameter_s` is what the request itself says."""
        wishes = [wish for wish in (self.asked_s, parameter_s) if wish is not None]
        default_s = self.limits.default_timeout_s or math.inf
        timeout_s = min(self.limits.request_timeout_s, *(wishes or [default_s]))
        return budget_s(self.arrived + timeout_s)


def patience_of(values: Sequence[str], limits: Limits) -> Patience:
    """Of a request that is beginning, with the values of its headers. Raises BadRequest."""
    return Patience(arrived_at.get(time.monotonic()), _asked_s(values), limits)


def timeouts_in(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """Under the client's name, and under the one that the edge gives it on its way past Serve."""
    return [value.decode("latin-1") for name, value in headers if name in HEADERS]


def _asked_s(values: Sequence[str]) -> float | None:
    if not values:
        return None
    if len(values) > 1:
        raise BadRequest(f"{TIMEOUT_HEADER} may be there once, not {len(values)} times.")
    (text,) = values
    seconds = _number(text.strip())
    if not 0 < seconds < math.inf:  # Also for NaN.
        raise BadRequest(f"{TIMEOUT_HEADER} must be a positive number of seconds, not {quoted(text)}.")
    return seconds


def _number(text: str) -> float:
    if len(text) > MAX_CHARACTERS or not CHARACTERS.issuperset(text):
        return math.nan
    try:
        return float(text)
    except ValueError:
        return math.nan
