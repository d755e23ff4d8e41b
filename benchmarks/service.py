"""Starts `serve run` on a config, waits until it answers, and counts the CPU seconds of all its processes."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 90.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Service:
    url: str
    process_id: int

    def cpu_s(self) -> float:
        """User and system time so far of the process and everything it has started that still runs."""
        return sum(_cpu_s(process_id) for process_id in _tree(self.process_id))


@contextmanager
def running(config: dict[str, Any], environment: Mapping[str, str], ready_path: str) -> Iterator[Service]:
    """The service of `config` until the block ends. `ready_path` answers 200 once it is ready."""
    url = f"http://127.0.0.1:{config['http_options']['port']}"
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file, tempfile.TemporaryFile() as log:
        yaml.safe_dump(config, file)
        file.flush()
        command = [str(Path(sys.executable).with_name("serve")), "run", file.name]
        # SIGINT is ignored in a shell's background jobs, and children inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _await_ready(process, f"{url}{ready_path}")
            yield Service(url, process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(STOP_TIMEOUT_S)


def _await_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.HTTPError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"{url} did not answer within {READY_TIMEOUT_S:.0f} s.")


def _tree(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for process_id in found:
        found.extend(parents.get(process_id, []))
    return found


def _cpu_s(process_id: int) -> float:
    fields = _stat(process_id)
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S if fields else 0.0


def _stat(process_id: int) -> list[str]:
    """The fields of /proc/PID/stat behind the command, state first (proc(5)); empty once the process is gone."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
