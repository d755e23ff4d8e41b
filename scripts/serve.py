"""Starts `serve run CONFIG`, says when it is ready and what to try next: `python -m scripts.serve configs/local.yaml`.

Serve's own command never says that it is ready and never ends when the application fails to deploy; this one does both.
Ctrl-C, SIGTERM, or closing the terminal, stops everything that it started, once what is in flight is answered; a second
one does not wait for that.
"""

import atexit
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from ray.serve.schema import ServeDeploySchema

from deployments.access import check_keys
from deployments.errors import ConfigError
from deployments.settings import Access, Settings
from deployments.settings.keys import is_loopback
from scripts.check_config import check_config
from scripts.ray_env import haproxy_folder, production_profile
from scripts.service import Service

# Where HAProxy tells its state, with the variables that move them (ray.serve._private.constants).
HAPROXY_PORTS = {"RAY_SERVE_HAPROXY_METRICS_PORT": 9101, "RAY_SERVE_HAPROXY_STATS_PORT": 8404}
# Ray's dashboard with Serve's REST API (ray._private.ray_constants).
DASHBOARD_PORT = 8265
SAMPLE_PICTURE = "examples/pictures/heart.jpg"
POLL_S = 0.5
# The first start on a cold disk, with a download of weights, takes minutes; nothing takes longer than this.
READY_TIMEOUT_S = 900.0
# Serve itself says after 30 s in the same state what a deployment lacks.
STILL_S = 30.0
CONFIG_ERROR = f"{ConfigError.__module__}.{ConfigError.__name__}: "
SERVE = Path(sys.executable).with_name("serve")


def main() -> int:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "configs/local.yaml")
    try:
        config = check_config(path)
        # For this user alone. Names of sockets are short, and Serve adds 57 characters.
        folder = tempfile.mkdtemp(prefix="aperture-", dir="/tmp")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        profile = production_profile(on_one_machine=is_loopback(config.http_options.host))
        environment = {**profile, **haproxy_folder(folder), **os.environ}
        if "RAY_ADDRESS" not in environment:  # Else the keys may be where the cluster is, and not here.
            check_keys(_access(config))
        _refuse_taken_ports(config, environment)
    except ConfigError as err:
        print(f"{path}: {err}", file=sys.stderr)
        return 1
    dashboard = _dashboard(environment)
    service = Service([str(SERVE), "run", str(path)], environment)
    problem = _await_ready(service.process, config, dashboard)
    if problem is not None:
        print(f"\nNot ready: {problem}", file=sys.stderr)
        service.stop()
        return 1
    return service.wait(drain_s=_settings(config).limits.request_timeout_s)


def _await_ready(server: "subprocess.Popen[bytes]", config: ServeDeploySchema, dashboard: str | None) -> str | None:
    """None once every model is warm; else why that will not happen."""
    name = config.applications[0].name
    print(f"Starting Ray and {name}; this takes some twenty seconds ...", flush=True)
    base_url, started, progress = _base_url(config), time.monotonic(), _Progress()
    while time.monotonic() - started < READY_TIMEOUT_S:
        if server.poll() is not None:
            return f"serve run ended with status {server.returncode}."
        if _status_of(f"{base_url}/v2/health/ready") == 200:
            key = " -H 'x-api-key: KEY'" if _access(config).asks_for_keys else ""
            command = f"curl{key} --data-binary @{SAMPLE_PICTURE} {base_url}/predict"
            _say_what_to_try(command, time.monotonic() - started)
            return None
        application = _application(dashboard, name) if dashboard is not None else {}
        if application.get("status") == "DEPLOY_FAILED":
            return _reason(application)
        progress.say(application)
        time.sleep(POLL_S)
    return f"no answer within {READY_TIMEOUT_S:.0f} s."


class _Progress:
    """Says each new state of the application, and again and again what keeps it in the same one."""

    def __init__(self) -> None:
        self._started = self._said = time.monotonic()
        self._state = ""

    def say(self, application: dict[str, Any]) -> None:
        now, state = time.monotonic(), application.get("status", "")
        if state != self._state:
            lines = [f"the application is {state or 'not there yet'}"]
        elif state != "RUNNING" and now - self._said >= STILL_S:
            lines = _unhealthy(application)
        else:
            return
        for line in lines:
            print(f"[{now - self._started:4.0f} s] {line}", flush=True)
        self._state, self._said = state, now


def _unhealthy(application: dict[str, Any]) -> list[str]:
    """One line for each deployment that the application waits for."""
    lines = []
    for name, deployment in application.get("deployments", {}).items():
        if deployment["status"] != "HEALTHY":
            message = _own_sentence(deployment["message"]) or " ".join(deployment["message"].split())
            lines.append(f"{name} is {deployment['status']}: {message or 'Serve gives no reason yet'}")
    return lines


def _say_what_to_try(command: str, took_s: float) -> None:
    print(
        f"\nReady after {took_s:.0f} s. Try, in another terminal:\n\n    {command}\n\nCtrl-C stops the service.\n",
        flush=True,
    )


def _access(config: ServeDeploySchema) -> Access:
    return _settings(config).access


def _settings(config: ServeDeploySchema) -> Settings:
    return Settings.model_validate(config.applications[0].args)


def _base_url(config: ServeDeploySchema) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.http_options.host, config.http_options.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{config.http_options.port}"


def _refuse_taken_ports(config: ServeDeploySchema, environment: dict[str, str]) -> None:
    host = config.http_options.host
    ports = {f"{config.http_options.port} for HTTP": config.http_options.port}
    if config.grpc_options.grpc_servicer_functions:
        ports[f"{config.grpc_options.port} for gRPC"] = config.grpc_options.port
    if environment.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        for variable, default in HAPROXY_PORTS.items():
            port = int(environment.get(variable, default))
            ports[f"{port} for HAProxy's figures ({variable})"] = port
    for description, port in ports.items():
        try:
            taken = _is_taken(host, port)
        except OSError as err:
            raise ConfigError(
                f"Port {description} cannot be opened on http_options.host {host!r} ({err.strerror}); the host must be "
                f"an address of this machine, and the port one that this user may open."
            ) from err
        if taken:
            raise ConfigError(f"Port {description} is taken by another program; stop that, or set another port.")


def _is_taken(host: str, port: int) -> bool:
    """Raises OSError if the port cannot be opened for any other reason."""
    # As bytes, so that a name that cannot be one is an OSError too, and not a UnicodeError.
    family, kind, _, _, address = socket.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as err:
            if err.errno != errno.EADDRINUSE:
                raise
            return True
    return False


def _status_of(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return int(response.status)
    except urllib.error.HTTPError as err:
        return err.code
    except OSError:
        return None


def _dashboard(environment: dict[str, str]) -> str | None:
    """Where Ray's dashboard will be; None if it will evade another program, to a port that it tells only its log."""
    address = environment.get("RAY_DASHBOARD_ADDRESS")
    # At RAY_ADDRESS there is a cluster already, and its dashboard is what holds the port.
    if address is None and "RAY_ADDRESS" not in environment and _is_taken("127.0.0.1", DASHBOARD_PORT):
        print(f"Port {DASHBOARD_PORT} of Ray's dashboard is taken, so if the start fails, only Serve's log says why.")
        return None
    return address or f"http://127.0.0.1:{DASHBOARD_PORT}"


def _application(dashboard: str, name: str) -> dict[str, Any]:
    """The application as the dashboard's REST API describes it; empty before the dashboard is up."""
    request = urllib.request.Request(f"{dashboard}/api/serve/applications/", headers=_authorization())
    try:
        with urllib.request.urlopen(request, timeout=2) as response:
            application: dict[str, Any] = json.load(response)["applications"].get(name, {})
    except (OSError, ValueError):
        return {}
    return application


def _authorization() -> dict[str, str]:
    # Ray makes this token when it starts a cluster of its own (ray._private.authentication).
    token = Path.home() / ".ray" / "auth_token"
    return {"Authorization": f"Bearer {token.read_text().strip()}"} if token.is_file() else {}


def _reason(application: dict[str, Any]) -> str:
    messages = [application["message"], *(each["message"] for each in application["deployments"].values())]
    sentences = (_own_sentence(message) for message in messages)
    return next(filter(None, sentences), f"the application failed to deploy: {messages[0]}")


def _own_sentence(message: str) -> str | None:
    """The ConfigError at the end of the traceback that Serve reports, of the build or of a constructor."""
    lines = [line for line in message.splitlines() if line.startswith(CONFIG_ERROR)]
    return lines[-1].removeprefix(CONFIG_ERROR) if lines else None


if __name__ == "__main__":
    sys.exit(main())
