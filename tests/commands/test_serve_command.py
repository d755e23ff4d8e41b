"""The commands of the README as a newcomer types them: real processes, real ports, a cluster of their own."""

import errno
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml

from scripts import serve
from scripts.haproxy import admin_socket, descendants
from tests.access import grpc_status, own_address
from tests.awaiting import await_condition, free_port, is_ready
from tests.commands.conftest import ENVIRONMENT, READY_TIMEOUT_S, ROOT, Service, write_config


def test_the_printed_curl_line_works_as_pasted(service: Service) -> None:
    (line,) = re.findall(r"^ +(curl .*)$", service.output, re.MULTILINE)
    answer = subprocess.run(shlex.split(line), cwd=ROOT, check=True, capture_output=True, text=True, timeout=30)
    assert '"label":"heart"' in answer.stdout


def test_serve_status_shows_the_running_application(service: Service) -> None:
    command = [str(Path(sys.executable).with_name("serve")), "status"]
    environment = {**ENVIRONMENT, "RAY_AUTH_MODE": "token"}
    status = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60)
    application = yaml.safe_load(status.stdout)["applications"]["aperture"]
    assert application["status"] == "RUNNING"
    assert set(application["deployments"]) == {"Ingress", "Preprocessor", "shapes"}


def test_serve_deploy_changes_the_running_service(service: Service, tmp_path: Path) -> None:
    config = yaml.safe_load(service.config.read_text())
    (shapes,) = (each for each in config["applications"][0]["deployments"] if each["name"] == "shapes")
    shapes["user_config"]["labels"] = {"live": 1}
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(config))
    command = [str(Path(sys.executable).with_name("serve")), "deploy", str(changed)]
    environment = {**ENVIRONMENT, "RAY_AUTH_MODE": "token"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=60)

    def is_answered() -> bool:
        heart = (ROOT / "examples/pictures/heart.jpg").read_bytes()
        return httpx.post(f"{service.url}/predict?label=live", content=heart).status_code == 200

    await_condition(is_answered, READY_TIMEOUT_S, "the label leads to the version")


def test_rays_dashboard_listens_on_this_machine_alone_and_asks_for_the_token(service: Service) -> None:
    assert httpx.get(f"http://127.0.0.1:{serve.DASHBOARD_PORT}/api/serve/applications/").status_code == 401
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{own_address()}:{serve.DASHBOARD_PORT}/api/serve/applications/")


def test_only_this_user_can_tell_haproxy_what_to_do(service: Service) -> None:
    sockets = {path for process_id in descendants(service.process.pid) if (path := admin_socket(process_id))}
    assert sockets
    for path in sockets:
        assert any(folder.stat().st_mode & 0o077 == 0 for folder in Path(path).parents)


def test_ctrl_c_stops_it_cleanly(service: Service) -> None:
    assert service.stop() == 0
    assert "Traceback" not in service.output


def test_plain_serve_run_serves_the_same(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    service = Service(config, [str(Path(sys.executable).with_name("serve")), "run"])
    try:
        await_condition(lambda: is_ready(service.url), READY_TIMEOUT_S, "every model is warm")
        refuse_other_machines_over_grpc(config)
        picture = (ROOT / "examples/pictures/heart.jpg").read_bytes()
        answer = httpx.post(f"{service.url}/predict", content=picture, timeout=30).json()
        assert answer["predictions"][0]["label"] == "heart"
    finally:
        assert service.stop() == 0


def refuse_other_machines_over_grpc(config: Path) -> None:
    """Serve's Python proxy for gRPC listens on every interface; the service answers its own machine alone."""
    port = yaml.safe_load(config.read_text())["grpc_options"]["port"]
    for host, expected in (("127.0.0.1", grpc.StatusCode.OK), (own_address(), grpc.StatusCode.UNAUTHENTICATED)):
        assert grpc_status(f"{host}:{port}") is expected


@pytest.fixture
def beside_a_dead_cluster() -> Iterator[dict[str, str]]:
    """An environment in which Ray would join a cluster that has died without saying so, for instance killed."""
    with tempfile.TemporaryDirectory(prefix="ray") as directory:  # Ray's sockets in it need a short path.
        (Path(directory) / "ray").mkdir()
        (Path(directory) / "ray/ray_current_cluster").write_text(f"127.0.0.1:{free_port()}")
        yield {**ENVIRONMENT, "RAY_TMPDIR": directory}


def test_a_model_that_is_not_there_ends_the_command_with_one_sentence(
    tmp_path: Path, beside_a_dead_cluster: dict[str, str]
) -> None:
    service = Service(write_config(tmp_path, path="models/absent"), environment=beside_a_dead_cluster)
    await_condition(lambda: "Not ready: " in service.output, READY_TIMEOUT_S, "it gives up")
    assert service.stop() == 1
    assert "Not ready: The model directory 'models/absent' does not exist" in service.output


def test_a_taken_port_is_said_in_one_sentence(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    port = yaml.safe_load(config.read_text())["http_options"]["port"]
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        result = run_serve(config)
    assert result.returncode == 1
    assert (
        result.stderr
        == f"{config}: Port {port} for HTTP is taken by another program; stop that, or set another port.\n"
    )


def test_a_taken_port_of_an_ipv6_host_is_seen(tmp_path: Path) -> None:
    if not is_ipv6_here():
        pytest.skip("This machine has no ::1.")
    config = write_config(tmp_path)
    content = yaml.safe_load(config.read_text())
    content["http_options"]["host"] = "::1"
    config.write_text(yaml.safe_dump(content))
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::1", content["http_options"]["port"]))
        other.listen()
        result = run_serve(config)
    assert result.returncode == 1
    assert "for HTTP is taken by another program" in result.stderr


@pytest.mark.parametrize(
    ("host", "reason"),
    [("no-such-host.invalid", ""), ("127.0.0..1", ""), ("192.0.2.1", "Cannot assign requested address")],
    ids=["unknown", "misspelt", "of another machine"],
)
def test_a_host_that_cannot_be_listened_on_is_not_called_a_taken_port(tmp_path: Path, host: str, reason: str) -> None:
    config = write_config(tmp_path)
    content = yaml.safe_load(config.read_text())
    content["http_options"]["host"] = host
    content["applications"][0]["args"]["access"] = {"open_to_all": True}
    config.write_text(yaml.safe_dump(content))
    result = run_serve(config)
    assert result.returncode == 1
    assert f"for HTTP cannot be opened on http_options.host {host!r} ({reason}" in result.stderr
    assert result.stderr.count("\n") == 1


def test_keys_that_cannot_be_read_stop_the_start_before_it_begins(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    content = yaml.safe_load(config.read_text())
    content["applications"][0]["args"]["access"] = {"keys_file": "absent/keys"}
    config.write_text(yaml.safe_dump(content))
    result = run_serve(config)
    assert result.returncode == 1
    assert result.stderr == f"{config}: access.keys_file 'absent/keys' cannot be read: No such file or directory.\n"


STAND_IN = """#!{python}
import time
try:
    print("started", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_whatever_stops_the_command_interrupts_serve(tmp_path: Path, number: signal.Signals) -> None:
    config, stand_in = write_config(tmp_path), tmp_path / "serve"
    stand_in.write_text(STAND_IN.format(python=sys.executable))
    stand_in.chmod(0o755)
    start = "import pathlib, sys; from scripts import serve; serve.SERVE = pathlib.Path(sys.argv.pop()); serve.main()"
    command = [sys.executable, "-c", start, str(config), str(stand_in)]
    environment = {**ENVIRONMENT, "RAY_DASHBOARD_ADDRESS": "http://127.0.0.1:1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "started\n":
            assert process.poll() is None
        process.send_signal(number)
        assert "interrupted" in process.communicate(timeout=30)[0]


def test_waiting_in_one_state_says_what_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = {"status": "UPDATING", "message": "1 replicas\nthat wait for a GPU."}
    deployments = {"Ingress": {"status": "HEALTHY", "message": ""}, "resnet50": lacking}
    application = {"status": "DEPLOYING", "message": "", "deployments": deployments}
    progress = serve._Progress()
    for still_s in (serve.STILL_S, serve.STILL_S, 0.0):
        monkeypatch.setattr(serve, "STILL_S", still_s)
        progress.say(application)
    state, waiting = capsys.readouterr().out.splitlines()
    assert state.endswith("the application is DEPLOYING")
    assert waiting.endswith("resnet50 is UPDATING: 1 replicas that wait for a GPU.")


def test_a_dashboard_of_others_is_not_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr(serve, "DASHBOARD_PORT", port)
        assert serve._dashboard({}) is None
        assert f"Port {port} of Ray's dashboard is taken" in capsys.readouterr().out
        # Unless the user has named the cluster.
        assert serve._dashboard({"RAY_ADDRESS": "auto"}) == f"http://127.0.0.1:{port}"
        assert serve._dashboard({"RAY_DASHBOARD_ADDRESS": "http://head:1"}) == "http://head:1"


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"treads": 2}, "ModelSettings has no key 'treads' (its value here is 2); it knows name, path"),
        (
            {"max_batch_size": -1},
            "The key 'max_batch_size' of ModelSettings has the value -1, but it should be greater",
        ),
        ({"max_batch_size": 64}, "with which batches of max_batch_size 64 can never fill while one runs"),
    ],
    ids=["misspelt key", "negative size", "a batch that can never fill"],
)
def test_a_bad_setting_stops_the_start_with_one_sentence(tmp_path: Path, model: dict[str, Any], sentence: str) -> None:
    result = run_serve(write_config(tmp_path, **model))
    assert result.returncode == 1
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "sentence"),
    [("exit 1", "Aperture needs Python 3.11, 3.12 or 3.13"), (None, "Aperture needs Python 3.11, 3.12 or 3.13")],
    ids=["too old", "absent"],
)
def test_setup_says_which_python_it_needs(tmp_path: Path, script: str | None, sentence: str) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/setup.sh").write_text((ROOT / "scripts/setup.sh").read_text())
    python = tmp_path / "python-of-long-ago"
    if script is not None:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    result = subprocess.run(
        ["sh", "scripts/setup.sh"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("options", [["--without-pip"], []], ids=["without pip", "of a moved checkout"])
def test_setup_says_what_it_does_with_an_unusable_venv(tmp_path: Path, options: list[str]) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "scripts").mkdir(parents=True)
    (old / "scripts/setup.sh").write_text((ROOT / "scripts/setup.sh").read_text())
    subprocess.run([sys.executable, "-m", "venv", *options, str(old / ".venv")], check=True)
    if not options:
        old.rename(new)
    # A Python that is in range, and cannot make a venv.
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ]\n')
    python.chmod(0o755)
    result = subprocess.run(
        ["sh", "scripts/setup.sh"],
        cwd=old if options else new,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr == "Python's venv module is incomplete here; on Debian: apt install python3-venv.\n"


def is_ipv6_here() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 1)) in (0, errno.ECONNREFUSED)


def run_serve(config: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "scripts.serve", str(config)]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
