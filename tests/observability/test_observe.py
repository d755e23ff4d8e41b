"""`make observe` without a service: a real Prometheus is started, said where, and ended."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from scripts.observe import NO_PROMETHEUS, ROOT
from tests.awaiting import await_condition
from tests.observability.conftest import START_TIMEOUT_S

COMMAND = [sys.executable, "-m", "scripts.observe"]


@pytest.fixture
def observing(executable: str) -> "Iterator[subprocess.Popen[str]]":
    with subprocess.Popen(COMMAND, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_it_says_where_prometheus_is_and_ctrl_c_ends_it(observing: "subprocess.Popen[str]") -> None:
    assert observing.stdout is not None
    url = next(filter(None, (re.search(r"Prometheus: (http://127\.0\.0\.1:\d+)", line) for line in observing.stdout)))[
        1
    ]
    assert {rule["health"] for rule in rules(url)} <= {"ok", "unknown"}
    assert len(rules(url)) > 20
    observing.send_signal(signal.SIGINT)
    assert observing.wait(START_TIMEOUT_S) == 0
    await_condition(lambda: not is_there(url), START_TIMEOUT_S, "Prometheus has ended")


def rules(url: str) -> list[dict[str, str]]:
    groups = httpx.get(f"{url}/api/v1/rules", timeout=30).json()["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def is_there(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def test_without_prometheus_it_says_how_to_get_it() -> None:
    done = subprocess.run(COMMAND, cwd=ROOT, env={**os.environ, "PATH": ""}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, NO_PROMETHEUS + "\n")
