"""A load generator that disturbs little: raw HTTP/1.1 on kept-alive connections, one asyncio task a caller.

Closed loop: each of `callers` sends its next request when the answer to its last one has come.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np


@dataclass(frozen=True)
class Outcome:
    """What `callers` saw in `elapsed_s` seconds. `failed` counts every status but 200."""

    callers: int
    elapsed_s: float
    latencies_s: Sequence[float]
    failed: int

    @property
    def per_second(self) -> float:
        return len(self.latencies_s) / self.elapsed_s

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.latencies_s, percent)) * 1000


async def closed_loop(url: str, bodies: Sequence[bytes], callers: int, duration_s: float) -> Outcome:
    """POSTs `bodies` in turn to `url` for `duration_s`."""
    started = time.perf_counter()
    runs = [
        _call_until(url, [*bodies[caller % len(bodies) :], *bodies], started + duration_s) for caller in range(callers)
    ]
    results = await asyncio.gather(*runs)
    latencies_s = [latency_s for latencies, _ in results for latency_s in latencies]
    return Outcome(callers, time.perf_counter() - started, latencies_s, sum(failed for _, failed in results))


async def _call_until(url: str, bodies: Sequence[bytes], end: float) -> tuple[list[float], int]:
    address = urlsplit(url)
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    latencies_s: list[float] = []
    failed = number = 0
    while (sent := time.perf_counter()) < end:
        # HAProxy closes connections when its configuration changes, and says so in the answer before.
        reader, writer = connection or await asyncio.open_connection(address.hostname, address.port)
        body = bodies[number % len(bodies)]
        number += 1
        head = f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        status, stays_open = await _read_response(reader)
        if status == 200:
            latencies_s.append(time.perf_counter() - sent)
        else:
            failed += 1
        connection = (reader, writer) if stays_open else None
        if not stays_open:
            writer.close()
    if connection is not None:
        connection[1].close()
    return latencies_s, failed


async def _read_response(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """The status of the next response, and whether the connection stays open. The body is read and thrown away."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = next((line for line in head.split(b"\r\n") if line.startswith(b"content-length:")), None)
    if length is not None:
        await reader.readexactly(int(length.split(b":")[1]))
    else:  # chunked
        while (size := int(await reader.readuntil(b"\r\n"), 16)) > 0:
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    return int(head.split(b" ", 2)[1]), b"\r\nconnection: close" not in head
