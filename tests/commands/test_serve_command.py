"""The commands of the README as a newcomer types them: real processes, real ports, a cluster of their own."""

import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.awaiting import await_condition
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


def test_ctrl_c_stops_it_cleanly(service: Service) -> None:
    assert service.stop() == 0
    assert "Traceback" not in service.output


def test_a_model_that_is_not_there_ends_the_command_with_one_sentence(tmp_path: Path) -> None:
    service = Service(write_config(tmp_path, path="models/absent"))
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


def run_serve(config: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "scripts.serve", str(config)]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
