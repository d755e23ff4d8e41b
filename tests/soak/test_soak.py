"""`make soak` for a minute, in processes and a cluster of its own: nothing lost, nothing wrong, nothing kept."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.awaiting import free_port
from tests.commands.conftest import ENVIRONMENT, ROOT

# The start, the load, and what is still open afterwards, on a busy machine.
SECONDS, TIMEOUT_S = 60, 420


@pytest.mark.timeout(TIMEOUT_S + 60)
def test_a_soak_loses_nothing_answers_nothing_wrongly_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ports = ["--http-port", str(free_port()), "--grpc-port", str(free_port())]
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes", str(SECONDS / 60), *ports, "--into", str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as soak:
        try:
            told, _ = soak.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            soak.send_signal(signal.SIGINT)  # It stops what it has started.
            told, _ = soak.communicate(timeout=60)
            pytest.fail(f"The soak did not end in time:\n{told}")
    assert soak.returncode == 0, told
    document = json.loads(told.strip().splitlines()[-1])
    assert all(check["holds"] for check in document["checks"])
    assert len(document["kills"]) >= 3
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
