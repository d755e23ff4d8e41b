"""Clients that ask all the time, and what became of every request."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

# Between the answer to a client and its next request: the service shares its cores with nodes that start.
PAUSE_S = 0.1
# Longer than the service's own limit, so that it is never the client who gives up.
TIMEOUT_S = 40.0


@dataclass(frozen=True)
class Request:
    """`sent` in time.monotonic() seconds; without an answer, status is 0 and `body` says why."""

    sent: float
    status: int
    body: str


@dataclass
class Load:
    requests: list[Request] = field(default_factory=list)

    def answered(self, since: float = 0.0) -> int:
        """How many of those sent since then were answered with 200."""
        return sum(request.status == 200 and request.sent >= since for request in list(self.requests))


@contextmanager
def running_load(url: str, image: bytes, clients: int) -> Iterator[Load]:
    """When the block ends, every request has ended, too."""
    load, stopped = Load(), threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
            while not stopped.wait(PAUSE_S):
                load.requests.append(_classified(client, image))

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def _classified(client: httpx.Client, image: bytes) -> Request:
    sent = time.monotonic()
    try:
        answer = client.post("/predict", content=image)
    except httpx.TransportError as lost:
        return Request(sent, 0, repr(lost))
    return Request(sent, answer.status_code, answer.text)
