"""Waiting for what other processes do, and ports for them to do it on."""

import socket
import time
from collections.abc import Callable

import httpx


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
