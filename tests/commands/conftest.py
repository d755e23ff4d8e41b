"""`make serve` as a newcomer has it: real processes, real ports, a cluster of their own."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.awaiting import await_condition, free_port

ROOT = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = 200.0
# A newcomer's: without what the other tests set for their own cluster. Only the ports are not the usual ones.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
    "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
}

# A shell's background jobs ignore the one and `nohup` the other, and so would the processes that these tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Service:
    """A command that serves `config`, by default that of `make serve`, with its output collected as it comes."""

    def __init__(
        self,
        config: Path,
        command: Sequence[str] = (sys.executable, "-m", "scripts.serve"),
        environment: Mapping[str, str] = ENVIRONMENT,
    ) -> None:
        self.config = config
        self.url = f"http://127.0.0.1:{yaml.safe_load(config.read_text())['http_options']['port']}"
        self._process = subprocess.Popen(
            [*command, str(config)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line

    @property
    def process(self) -> "subprocess.Popen[str]":
        return self._process

    def await_ready(self) -> None:
        await_condition(
            lambda: self._process.poll() is not None or "Ready after" in self.output, READY_TIMEOUT_S, "ready"
        )
        assert self._process.poll() is None, self.output

    def stop(self) -> int:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        status = self._process.wait(90)
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return status


def write_config(tmp_path: Path, **model: Any) -> Path:
    """configs/local.yaml on free ports."""
    config = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    config["http_options"]["port"] = free_port()
    config["grpc_options"]["port"] = free_port()
    config["applications"][0]["args"]["models"][0].update(model)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(write_config(tmp_path_factory.mktemp("served")))
    try:
        service.await_ready()
        yield service
    finally:
        service.stop()
