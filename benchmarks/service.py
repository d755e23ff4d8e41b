"""Starts a server, waits until it answers, and counts the CPU seconds of all its processes."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from benchmarks.processes import adopt_orphans, cpu_s, descendants, stop_all

ROOT = Path(__file__).resolve().parent.parent
READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 90.0
# Of whatever has outlived the process that was started.
LEFTOVERS_TIMEOUT_S = 10.0
# HAProxy's own, which Serve does not move on its own, with the variables that do (ray.serve._private.constants).
HAPROXY_PORTS = {"RAY_SERVE_HAPROXY_METRICS_PORT": 9101, "RAY_SERVE_HAPROXY_STATS_PORT": 8404}
LOG_TAIL_BYTES = 4000


@dataclass(frozen=True)
class Service:
    url: str
    # The process that measures; all that is below it is the service.
    parent_id: int

    def cpu_s(self) -> float:
        """User and system time so far of all processes of the service."""
        return cpu_s(descendants(self.parent_id))


@contextmanager
def running(config: dict[str, Any], environment: Mapping[str, str], ready_path: str) -> Iterator[Service]:
    """The service of a Serve config until the block ends. `ready_path` answers 200 once it is ready."""
    ports = [config["http_options"]["port"]]
    if environment.get("RAY_SERVE_ENABLE_HA_PROXY"):
        ports += [int(os.environ.get(variable, port)) for variable, port in HAPROXY_PORTS.items()]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(config, file)
        file.flush()
        command = [str(Path(sys.executable).with_name("serve")), "run", file.name]
        with running_command(command, environment, ports, ready_path) as service:
            yield service


@contextmanager
def running_command(
    command: Sequence[str], environment: Mapping[str, str], ports: Sequence[int], ready_path: str
) -> Iterator[Service]:
    """What `command` starts, until the block ends; it serves HTTP on the first of `ports`. Nothing may run below this
    process besides.

    Raises RuntimeError if one of the ports is taken (the answers would be another program's) or none answers in time.
    """
    for port in ports:
        _refuse_taken(port)
    adopt_orphans()
    url = f"http://127.0.0.1:{ports[0]}"
    with tempfile.TemporaryFile() as log:
        # SIGINT is ignored in a shell's background jobs, and children inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _await_ready(process, f"{url}{ready_path}", log)
            yield Service(url, os.getpid())
        finally:
            _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_TIMEOUT_S)
    finally:
        stop_all(descendants(os.getpid()), LEFTOVERS_TIMEOUT_S)


def _await_ready(process: "subprocess.Popen[bytes]", url: str, log: IO[bytes]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.HTTPError, OSError):
            time.sleep(0.5)
    log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
    said = log.read().decode(errors="replace")
    raise RuntimeError(f"{url} did not answer within {READY_TIMEOUT_S:.0f} s. The end of what was printed:\n{said}")


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as err:
            raise RuntimeError(f"Port {port} is taken by another program; stop that first.") from err
