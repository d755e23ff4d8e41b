"""Waiting for what other processes do, and ports for them to do it on."""

import random
import socket
import time
from collections.abc import Callable

import httpx

# Above Ray's worker ports (10002 to 19999), below those of Serve's replicas (30000 on) and below the ephemeral ports
# (32768 on), of which any process may take one, Ray's autoscaler always 44217, between the choice and the use.
PORTS = list(range(20000, 30000))
random.shuffle(PORTS)


def free_port() -> int:
    """A port that nobody listens on, never the same twice."""
    while True:
        port = PORTS.pop()
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        return port


def await_condition(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Not within {timeout_s:.0f} s: {what}")
        time.sleep(0.1)


def is_ready(url: str) -> bool:
    """Whether the service at `url` says that every model is warm."""
    try:
        return httpx.get(f"{url}/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False
