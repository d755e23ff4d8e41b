"""A load generator that disturbs little, in one process and on one event loop. It knows no images and no models.

    closed loop   each of a number of callers sends its next request when the answer to its last one has come: how much
                  a service can do, and how long callers wait who wait for each other
    open loop     requests are due at random moments, whatever became of the earlier ones: how long users wait who know
                  nothing of each other. Latency counts from the moment at which a request was due, so that a service
                  that stalls is charged for everybody whom it kept waiting (no coordinated omission)

Neither runs longer than its duration and one request's timeout.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from benchmarks.http_client import Connection, Target

TIMEOUT_S = 30.0
# Opened before an open loop starts and used in turn, so that a server that spreads connections over its processes can.
WARM_CONNECTIONS = 32
MAX_CONNECTIONS = 256
MAX_REQUESTS = 200_000
OK, TIMEOUT, DISCONNECTED = "200", "timeout", "disconnected"


class Ended(NamedTuple):
    """One request: when it was due after the start of the run, how long it took from then on, and what it ended in."""

    due_s: float
    took_s: float
    status: str


@dataclass(frozen=True)
class Outcome:
    """What came of the requests of one run. `latencies_s` has those answered with 200."""

    elapsed_s: float
    latencies_s: Sequence[float]
    # How many requests ended in each HTTP status, in no answer in time, or in no answer at all.
    statuses: Mapping[str, int]
    # Each of them, in the order in which they ended.
    ended: Sequence[Ended] = ()

    @property
    def per_second(self) -> float:
        """Requests answered with 200 per second."""
        return len(self.latencies_s) / self.elapsed_s

    @property
    def failed(self) -> int:
        return sum(count for status, count in self.statuses.items() if status != OK)

    def percentile_ms(self, percent: float) -> float:
        """Over the requests answered with 200; NaN if there were none."""
        return float(np.percentile(self.latencies_s, percent)) * 1000 if self.latencies_s else float("nan")


async def closed_loop(
    target: Target | str, bodies: Sequence[bytes], callers: int, duration_s: float, *, timeout_s: float = TIMEOUT_S
) -> Outcome:
    """POSTs `bodies` in turn for `duration_s`, never more than `callers` at a time."""
    run = _Run(target, bodies, timeout_s)
    await asyncio.gather(*(_call_until(run, caller, run.started + duration_s) for caller in range(callers)))
    return run.outcome(time.perf_counter() - run.started)


async def open_loop(
    target: Target | str,
    bodies: Sequence[bytes],
    per_second: float,
    duration_s: float,
    *,
    seed: int = 0,
    timeout_s: float = TIMEOUT_S,
    warm_connections: int = WARM_CONNECTIONS,
    max_connections: int = MAX_CONNECTIONS,
) -> Outcome:
    """POSTs `bodies` in turn at the moments of a Poisson process of `per_second`, for `duration_s`.

    A request that finds `max_connections` in use waits for one; that wait counts, and its timeout runs.
    """
    due_s = arrivals(per_second, duration_s, seed)
    run = _Run(target, bodies, timeout_s)
    pool = _Pool(run.target, max_connections)
    await pool.fill(min(warm_connections, max_connections))
    run.started = time.perf_counter()
    calls = [asyncio.create_task(_call_at(run, pool, number, run.started + at_s)) for number, at_s in enumerate(due_s)]
    await asyncio.gather(*calls)
    pool.close()
    return run.outcome(max(duration_s, time.perf_counter() - run.started))


def arrivals(per_second: float, duration_s: float, seed: int) -> list[float]:
    """The moments of a Poisson process in [0, duration_s), in seconds and in order; the same for the same seed."""
    expected = per_second * duration_s
    if expected > MAX_REQUESTS:
        raise ValueError(f"{per_second}/s for {duration_s} s is more than {MAX_REQUESTS} requests.")
    # Six standard deviations above the mean and a few: never too few in practice.
    gaps_s = np.random.default_rng(seed).exponential(1 / per_second, int(expected + 6 * expected**0.5 + 16))
    moments_s = np.cumsum(gaps_s)
    return [float(moment_s) for moment_s in moments_s[moments_s < duration_s]]


@dataclass
class _Run:
    """The requests of one run, and what has become of them so far."""

    target_or_url: Target | str
    bodies: Sequence[bytes]
    timeout_s: float
    started: float = field(default_factory=time.perf_counter)
    ended: list[Ended] = field(default_factory=list)

    def __post_init__(self) -> None:
        url_or_target = self.target_or_url
        self.target = Target(url_or_target) if isinstance(url_or_target, str) else url_or_target
        self.requests = [self.target.encode(body) for body in self.bodies]

    async def send(self, connection: Connection, number: int, due: float) -> None:
        response = await connection.exchange(self.requests[number % len(self.requests)])
        self._end(due, str(response.status))

    @asynccontextmanager
    async def counted(self, due: float) -> AsyncIterator[None]:
        """Ends what is inside `timeout_s` after `due`, and counts what it ended in if that was no answer."""
        try:
            async with asyncio.timeout(due + self.timeout_s - time.perf_counter()):
                yield
        except TimeoutError:
            self._end(due, TIMEOUT)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self._end(due, DISCONNECTED)

    def _end(self, due: float, status: str) -> None:
        self.ended.append(Ended(due - self.started, time.perf_counter() - due, status))

    def outcome(self, elapsed_s: float) -> Outcome:
        statuses = Counter(request.status for request in self.ended)
        return Outcome(elapsed_s, [took_s for _, took_s, status in self.ended if status == OK], statuses, self.ended)


async def _call_until(run: _Run, caller: int, end: float) -> None:
    pool = _Pool(run.target, limit=1)
    number = caller  # Each begins with another body.
    while (due := time.perf_counter()) < end:
        async with run.counted(due), pool.connection() as connection:
            await run.send(connection, number, due)
        number += 1
    pool.close()


async def _call_at(run: _Run, pool: "_Pool", number: int, due: float) -> None:
    await asyncio.sleep(due - time.perf_counter())
    async with run.counted(due), pool.connection() as connection:
        await run.send(connection, number, due)


class _Pool:
    """Up to `limit` connections, opened when none is idle; the one idle for longest goes first, so all take turns."""

    def __init__(self, target: Target, limit: int) -> None:
        self._target, self._slots = target, asyncio.Semaphore(limit)
        self._idle: deque[Connection] = deque()

    async def fill(self, count: int) -> None:
        self._idle.extend(await asyncio.gather(*(Connection.open(self._target) for _ in range(count))))

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        async with self._slots:
            connection = await self._idle_or_new()
            try:
                yield connection
            except BaseException:
                connection.close()  # An answer may still come on it, to a request that nobody waits for.
                raise
            self._idle.append(connection)

    async def _idle_or_new(self) -> Connection:
        while self._idle:
            connection = self._idle.popleft()
            if connection.is_open:
                return connection
            connection.close()
        return await Connection.open(self._target)

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
