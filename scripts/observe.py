"""Shows the figures of the service on this machine: `python -m scripts.observe`, or `make observe`.

Starts Prometheus, and Grafana where it is installed, on free ports of 127.0.0.1, with what observability/ says and
their data in .cache/observability. Ctrl-C ends both; whatever else runs on this machine is left alone.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "observability"
# Where each listens by default; another port where that one is taken.
PROMETHEUS_PORT, GRAFANA_PORT = 9090, 3000
# Where HAProxy tells its figures unless RAY_SERVE_HAPROXY_METRICS_PORT says otherwise (ray.serve._private.constants).
HAPROXY_PORT = 9101
# ray._private.ray_constants.PROMETHEUS_SERVICE_DISCOVERY_FILE, in Ray's directory for temporary files.
DISCOVERY_FILE = "ray/prom_metrics_service_discovery.json"
# Of grafana.com's packages; one that was unpacked has its own beside its program.
GRAFANA_HOME = Path("/usr/share/grafana")
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.2

NO_PROMETHEUS = (
    "Prometheus is not installed: `apt install prometheus` on Debian and Ubuntu, else prometheus.io/download "
    "(`prometheus` has to be on the PATH)."
)
NO_GRAFANA = (
    "Grafana is not installed, so there are no dashboards, only Prometheus' own page. Debian has no package of it; "
    "grafana.com/grafana/download has one (`grafana` has to be on the PATH)."
)


def main() -> int:
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        print(NO_PROMETHEUS, file=sys.stderr)
        return 1
    folder = ROOT / ".cache/observability"
    folder.mkdir(parents=True, exist_ok=True)
    watched = Watched.by(os.environ)
    with _Programs() as programs:
        url = programs.start(prometheus_program(prometheus, watched, folder, free_port(PROMETHEUS_PORT)))
        home = None
        if grafana := shutil.which("grafana"):
            home = programs.start(grafana_program(grafana, url, folder, free_port(GRAFANA_PORT)))
        print(_what_there_is(watched, url, home), flush=True)
        return programs.wait()


@dataclass(frozen=True)
class Watched:
    """Where the service tells its figures: the file in which Ray lists its nodes, and HAProxy's host:port."""

    discovery_file: Path
    haproxy: str

    @staticmethod
    def by(environment: Mapping[str, str]) -> "Watched":
        folder = Path(environment.get("RAY_TMPDIR", "/tmp"))
        port = environment.get("RAY_SERVE_HAPROXY_METRICS_PORT", HAPROXY_PORT)
        return Watched(folder / DISCOVERY_FILE, f"127.0.0.1:{port}")


@dataclass(frozen=True)
class Program:
    """`ready`: a path that it answers with 200 once it can be used."""

    name: str
    command: list[str]
    url: str
    ready: str
    environment: dict[str, str] = field(default_factory=dict)


def prometheus_program(executable: str, watched: Watched, folder: Path, port: int) -> Program:
    """Writes its configuration into `folder`, where its data go, too."""
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(prometheus_config(watched), sort_keys=False))
    command = [executable, f"--config.file={config}", f"--storage.tsdb.path={folder / 'prometheus'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=15d", "--log.level=warn"]
    return Program("Prometheus", command, f"http://127.0.0.1:{port}", "/-/ready")


def prometheus_config(watched: Watched) -> dict[str, Any]:
    """observability/prometheus.yml, with absolute paths and the addresses of `watched`."""
    config: dict[str, Any] = yaml.safe_load((SOURCES / "prometheus.yml").read_text())
    config["rule_files"] = [str(SOURCES / name) for name in config["rule_files"]]
    ray, haproxy = config["scrape_configs"]
    ray["file_sd_configs"][0]["files"] = [str(watched.discovery_file)]
    haproxy["static_configs"][0]["targets"] = [watched.haproxy]
    return config


def grafana_program(executable: str, prometheus_url: str, folder: Path, port: int) -> Program:
    """Whoever opens it may look at everything and change nothing; it asks no other site for anything."""
    beside = Path(executable).resolve().parents[1]
    home = beside if (beside / "conf/defaults.ini").is_file() else GRAFANA_HOME
    environment = {
        "APERTURE_PROMETHEUS_URL": prometheus_url,
        "APERTURE_DASHBOARDS": str(SOURCES / "grafana/dashboards"),
        "GF_PATHS_PROVISIONING": str(SOURCES / "grafana/provisioning"),
        "GF_PATHS_DATA": str(folder / "grafana"),
        "GF_PATHS_LOGS": str(folder / "grafana"),
        "GF_LOG_MODE": "file",
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_SERVER_HTTP_PORT": str(port),
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
        "GF_AUTH_DISABLE_LOGIN_FORM": "true",
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": str(SOURCES / "grafana/dashboards/aperture.json"),
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
        "GF_NEWS_NEWS_FEED_ENABLED": "false",
        "GF_PLUGINS_PREINSTALL_DISABLED": "true",
        "GF_SECURITY_DISABLE_GRAVATAR": "true",
    }
    command = [executable, "server", f"--homepath={home}"]
    return Program("Grafana", command, f"http://127.0.0.1:{port}", "/api/health", environment)


def free_port(wanted: int) -> int:
    """`wanted` if nobody has it on 127.0.0.1, else any."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            # What has just been ended leaves connections behind that nobody listens to any more.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("No port of 127.0.0.1 is free.")


class _Programs:
    """The children: started here, and ended with whatever ends the `with`."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._is_to_stop = False

    def __enter__(self) -> "_Programs":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, program: Program) -> str:
        """Its URL, once it answers. Ends this program if that does not come about."""
        # A session of its own, so that Ctrl-C reaches it once, from us.
        self._running[program.name] = process = subprocess.Popen(
            program.command, env={**os.environ, **program.environment}, start_new_session=True
        )
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not answers(program.url + program.ready):
            if self._is_to_stop:
                sys.exit(0)
            if process.poll() is not None:
                sys.exit(f"{program.name} ended with status {process.returncode}; what it said is above.")
            if time.monotonic() > deadline:
                sys.exit(f"{program.name} did not answer within {READY_TIMEOUT_S:.0f} s.")
            time.sleep(POLL_S)
        return program.url

    def wait(self) -> int:
        """0 after a signal; 1 if one of them ends by itself."""
        while not self._is_to_stop:
            for name, process in self._running.items():
                if process.poll() is not None:
                    print(f"{name} ended with status {process.returncode}.", file=sys.stderr)
                    return 1
            time.sleep(POLL_S)
        return 0

    def _on_signal(self, *_: object) -> None:
        self._is_to_stop = True


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def _what_there_is(watched: Watched, prometheus_url: str, grafana_url: str | None) -> str:
    lines = [f"Prometheus: {prometheus_url}, its alerts: {prometheus_url}/alerts"]
    lines.append(f"Grafana: {grafana_url}/d/aperture" if grafana_url else NO_GRAFANA)
    if not watched.discovery_file.exists():
        lines.append(
            f"No service runs on this machine, as {watched.discovery_file} is not there; one that starts is seen."
        )
    return "\n".join(["", *lines, "", "Ctrl-C ends what this has started.", ""])


if __name__ == "__main__":
    sys.exit(main())
