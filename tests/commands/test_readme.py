"""The README's blocks do what it says; that each of its commands is run somewhere is tests/unit/test_documents.py's."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import ENVIRONMENT, ROOT, Service

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def block(language: str, containing: str) -> str:
    (found,) = [text for kind, text in BLOCKS if kind == language and containing in text]
    return str(found)


def ask(service: Service) -> dict[str, Any]:
    command = block("sh", "curl").strip().replace("http://127.0.0.1:8000", service.url)
    result = subprocess.run(shlex.split(command), cwd=ROOT, check=True, capture_output=True, text=True, timeout=30)
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_the_request_gets_the_answer_that_is_shown(service: Service) -> None:
    shown, answer = json.loads(block("json", "predictions")), ask(service)
    assert set(answer) == set(shown)
    assert (answer["model"], answer["version"]) == (shown["model"], shown["version"])
    assert [each["label"] for each in answer["predictions"]] == [each["label"] for each in shown["predictions"]]
    for got, expected in zip(answer["predictions"], shown["predictions"], strict=True):
        assert got["probability"] == pytest.approx(expected["probability"], abs=1e-4)


def test_the_python_block_prints_the_best_prediction(service: Service, tmp_path: Path) -> None:
    script = tmp_path / "ask.py"
    script.write_text(block("python", "get_app_handle"))
    environment = {**ENVIRONMENT, "RAY_AUTH_MODE": "token"}
    command = [str(ROOT / ".venv/bin/python"), str(script)]
    result = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=120)
    assert "'label': 'heart'" in result.stdout


def test_every_file_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`((?:configs|examples|tests|deployments)/[\w/.]+|graph\.py)`", README))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
