"""Starts `serve run CONFIG`, says when it is ready and what to try next: `python -m scripts.serve configs/local.yaml`.

Serve's own command never says that it is ready and never ends when the application fails to deploy; this one does both.
Ctrl-C stops everything that it started.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from ray.serve.schema import ServeDeploySchema

from deployments.errors import ConfigError
from scripts.check_config import check_config

RAY_ENV = Path("configs/ray.env")
# Serve keeps a stopping Ingress for half a minute, until load balancers have noticed. On one machine there are none,
# and Ctrl-C would take that long.
NO_DRAINING = {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1", "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1"}
# Where HAProxy tells its state, with the variables that move them (ray.serve._private.constants).
HAPROXY_PORTS = {"RAY_SERVE_HAPROXY_METRICS_PORT": 9101, "RAY_SERVE_HAPROXY_STATS_PORT": 8404}
SAMPLE_PICTURE = "examples/pictures/heart.jpg"
POLL_S = 0.5
# The first start on a cold disk, with a download of weights, takes minutes; nothing takes longer than this.
READY_TIMEOUT_S = 900.0
STOP_TIMEOUT_S = 60.0
CONFIG_ERROR = f"{ConfigError.__module__}.{ConfigError.__name__}: "
SERVE = Path(sys.executable).with_name("serve")


def main() -> int:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "configs/local.yaml")
    try:
        config = check_config(path)
        environment = {**_production_profile(config), **os.environ}
        _refuse_taken_ports(config, environment)
    except ConfigError as err:
        print(f"{path}: {err}", file=sys.stderr)
        return 1
    server = _start(path, environment)
    problem = _await_ready(server, config)
    if problem is not None:
        print(f"\nNot ready: {problem}", file=sys.stderr)
        _stop(server)
        return 1
    return server.wait()


def _production_profile(config: ServeDeploySchema) -> dict[str, str]:
    """The variables of configs/ray.env; none where HAProxy does not come with Ray."""
    if sys.platform != "linux":
        return {}
    lines = (line.strip() for line in RAY_ENV.read_text().splitlines())
    profile = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {**NO_DRAINING, **profile} if config.http_options.host == "127.0.0.1" else profile


def _start(path: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    server: subprocess.Popen[bytes] | None = None

    def stop(*_: object) -> None:
        if server is not None and server.poll() is None:
            server.send_signal(signal.SIGINT)

    # Before the start: a child inherits an ignored SIGINT, as a shell's background jobs have it, but not a handled one.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    # A session of its own, so that Ctrl-C reaches Serve once, from us, and not each of its processes as well.
    server = subprocess.Popen([SERVE, "run", path], env=environment, start_new_session=True)
    return server


def _await_ready(server: "subprocess.Popen[bytes]", config: ServeDeploySchema) -> str | None:
    """None once every model is warm; else why that will not happen."""
    print(f"Starting Ray and {config.applications[0].name}; this takes some twenty seconds ...", flush=True)
    base_url, started, shown = _base_url(config), time.monotonic(), ""
    while time.monotonic() - started < READY_TIMEOUT_S:
        if server.poll() is not None:
            return f"serve run ended with status {server.returncode}."
        if _status_of(f"{base_url}/v2/health/ready") == 200:
            _say_what_to_try(base_url, time.monotonic() - started)
            return None
        application = _application(config.applications[0].name)
        state = application.get("status", "")
        if state == "DEPLOY_FAILED":
            return _reason(application)
        if state != shown:
            print(f"[{time.monotonic() - started:4.0f} s] the application is {state or 'not there yet'}", flush=True)
            shown = state
        time.sleep(POLL_S)
    return f"no answer within {READY_TIMEOUT_S:.0f} s."


def _say_what_to_try(base_url: str, took_s: float) -> None:
    print(
        f"\nReady after {took_s:.0f} s. Try, in another terminal:\n\n"
        f"    curl --data-binary @{SAMPLE_PICTURE} {base_url}/predict\n\n"
        "Ctrl-C stops the service.\n",
        flush=True,
    )


def _base_url(config: ServeDeploySchema) -> str:
    host = config.http_options.host
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{config.http_options.port}"


def _refuse_taken_ports(config: ServeDeploySchema, environment: dict[str, str]) -> None:
    ports = {f"{config.http_options.port} for HTTP": config.http_options.port}
    if config.grpc_options.grpc_servicer_functions:
        ports[f"{config.grpc_options.port} for gRPC"] = config.grpc_options.port
    if environment.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        for variable, default in HAPROXY_PORTS.items():
            port = int(environment.get(variable, default))
            ports[f"{port} for HAProxy's figures ({variable})"] = port
    for description, port in ports.items():
        if _is_taken(config.http_options.host, port):
            raise ConfigError(f"Port {description} is taken by another program; stop that, or set another port.")


def _is_taken(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
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


def _application(name: str) -> dict[str, Any]:
    """The application as the dashboard's REST API describes it; empty before the dashboard is up."""
    address = os.environ.get("RAY_DASHBOARD_ADDRESS", "http://127.0.0.1:8265")
    request = urllib.request.Request(f"{address}/api/serve/applications/", headers=_authorization())
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
    """Our own sentence at the end of the traceback that Serve reports, of the build or of a constructor."""
    messages = [application["message"], *(each["message"] for each in application["deployments"].values())]
    for message in messages:
        lines = [line for line in message.splitlines() if line.startswith(CONFIG_ERROR)]
        if lines:
            return str(lines[-1].removeprefix(CONFIG_ERROR))
    return f"the application failed to deploy: {messages[0]}"


def _stop(server: "subprocess.Popen[bytes]") -> None:
    if server.poll() is None:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()


if __name__ == "__main__":
    sys.exit(main())
