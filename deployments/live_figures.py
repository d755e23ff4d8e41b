"""What the service is doing now, for whoever looks: the last minute of all replicas together.

The replicas are asked only when somebody asks here, and once a second at most, however many look.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from deployments.recent import MinuteOfRequests, Second, summed_minute


@dataclass(frozen=True, slots=True)
class Polled:
    """What replicas have said of the minute before a second, each for itself; and how many there are, by deployment."""

    requests: Sequence[MinuteOfRequests]
    batches: Sequence[Counter[int]]
    replicas: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LiveFigures:
    """`seconds`: the last whole ones, the oldest first. Quantiles are of requests that did not fail, None without any.

    `batch_sizes`: batches by how many images they had.
    """

    now_ms: int
    seconds: Sequence[Second]
    p50_ms: float | None
    p99_ms: float | None
    batch_sizes: Mapping[int, int]
    replicas: Mapping[str, int]


class LiveView:
    """`poll` asks the replicas for the minute before a second since 1970. For one event loop."""

    def __init__(self, poll: Callable[[int], Awaitable[Polled]], clock: Callable[[], float] = time.time) -> None:
        self._poll = poll
        self._clock = clock
        self._second = 0
        self._polling: asyncio.Task[LiveFigures] | None = None

    async def figures(self) -> LiveFigures:
        """Raises what `poll` raises."""
        second = int(self._clock())
        if self._polling is None or (self._polling.done() and self._second != second):
            self._second = second
            # Its own, since others wait for it who stay when this caller leaves.
            self._polling = asyncio.create_task(self._polled(second))
        return await asyncio.shield(self._polling)

    async def _polled(self, second: int) -> LiveFigures:
        polled = await self._poll(second)
        minute = summed_minute(polled.requests)
        return LiveFigures(
            now_ms=round(self._clock() * 1000),
            seconds=minute.seconds,
            p50_ms=_quantile_ms(minute, 0.5),
            p99_ms=_quantile_ms(minute, 0.99),
            batch_sizes=dict(sorted(sum(polled.batches, Counter()).items())),
            replicas=polled.replicas,
        )


def _quantile_ms(minute: MinuteOfRequests, share: float) -> float | None:
    if not minute.latencies.count:
        return None
    return round(1000 * minute.latencies.quantile(share), 3)
