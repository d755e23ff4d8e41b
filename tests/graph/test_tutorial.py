"""docs/tutorial.md, step by step: its commands, beside the graph of the other tests.

`make serve CONFIG` and `serve deploy CONFIG` are one function here, which deploys the file as a second application of
the cluster that runs already; tests/commands has the real commands. Python modules run in this process, since importing
torch twice more would take longer than the training.
"""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml
from ray import serve

from examples import finetune, vegetables
from tests.awaiting import await_condition
from tests.documents import ROOT, Block, blocks_in
from tests.graph.test_config_failures import answers_grpc
from tests.local_graph import DEPLOY_TIMEOUT_S, Graph, deploy, graph_config

PAGE = "docs/tutorial.md"
NAME = "tutorial"
CONFIG = "configs/vegetables.yaml"
SERVES = ("make serve CONFIG=configs/vegetables.yaml", f"RAY_AUTH_MODE=token .venv/bin/serve deploy {CONFIG}")
# As these tests are run, this is done.
DONE = "make setup"
PYTHON = ".venv/bin/python -m"


class Reader:
    """Somebody who does what the page says, in a folder of their own."""

    def __init__(self, root: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.url, self.monkeypatch = root, url, monkeypatch
        self.answers: list[Any] = []

    def does(self, block: Block) -> None:
        if block.language == "yaml":
            self._edit(yaml.safe_load(block.text))
        elif block.language == "sh":
            for command in block.commands:
                self._run(command)

    def _edit(self, user_config: dict[str, Any]) -> None:
        path = self.root / CONFIG
        config = yaml.safe_load(path.read_text())
        config["applications"][0]["deployments"][-1]["user_config"] = user_config
        path.write_text(yaml.safe_dump(config))

    def _run(self, command: str) -> None:
        if command in SERVES:
            self._deploy()
        elif command.startswith(PYTHON):
            self._run_module(*shlex.split(command.removeprefix(PYTHON)))
        elif command != DONE:
            command = command.replace("http://127.0.0.1:8000", self.url)
            ended = subprocess.run(shlex.split(command), cwd=self.root, capture_output=True, text=True, timeout=60)
            assert ended.returncode == 0, f"{command}\n{ended.stderr}"
            if command.startswith("curl"):
                self.answers.append(json.loads(ended.stdout))

    def _run_module(self, name: str, *arguments: str) -> None:
        # Training forks no processes, since this one is full of threads of Ray's.
        options = {"examples.vegetables": (), "examples.finetune": ("--workers", "0")}[name]
        self.monkeypatch.setattr(sys, "argv", [name, *arguments, *options])
        {"examples.vegetables": vegetables.main, "examples.finetune": finetune.main}[name]()

    def _deploy(self) -> None:
        """Returns once the application serves what its config says."""
        (application,) = yaml.safe_load((self.root / CONFIG).read_text())["applications"]
        (model,) = application["args"]["models"]
        # The model lies in the copy; measuring engines would take a minute, and another test does.
        model |= {"path": str(self.root / model["path"]), "engine": "torch", "threads": 1}
        config = graph_config()
        config["applications"].append(application | {"name": NAME, "route_prefix": f"/{NAME}"})
        deploy(config)
        live = application["deployments"][-1].get("user_config", {})
        await_condition(lambda: self._serves(live), DEPLOY_TIMEOUT_S, f"what is served is {live}")

    def _serves(self, live: dict[str, Any]) -> bool:
        available = self._versions("")
        wanted = {label: {str(version)} for label, version in live.get("labels", {}).items()}
        return len(available) == live.get("versions", {}).get("latest", 1) and wanted == {
            label: self._versions(f"/labels/{label}") for label in wanted
        }

    def _versions(self, label: str) -> set[str]:
        """Those that are available, or the one under a label."""
        answer = httpx.get(f"{self.url}/v1/models/vegetables{label}", timeout=30)
        statuses = answer.json()["model_version_status"] if answer.status_code == 200 else []
        return {status["version"] for status in statuses if status["state"] == "AVAILABLE"}


@pytest.fixture
def reader(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.setattr(finetune, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    # So that the same picture is named rightly each time; and one thread, since others have the cores.
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Reader(tmp_path, f"{graph.url}/{NAME}", monkeypatch)
    torch.set_num_threads(threads)
    deploy(graph_config())
    await_condition(lambda: NAME not in serve.status().applications, DEPLOY_TIMEOUT_S, "it is deleted")
    await_condition(lambda: answers_grpc(graph.grpc_address), DEPLOY_TIMEOUT_S, "gRPC has one application")


def test_who_does_what_the_tutorial_says_ends_with_the_second_version(reader: Reader) -> None:
    for block in sorted([*blocks_in(PAGE, "sh"), *blocks_in(PAGE, "yaml")], key=lambda block: block.line):
        reader.does(block)
    first, versions, canary, last = reader.answers
    assert (first["model"], first["version"], first["predictions"][0]["label"]) == ("vegetables", 1, "carrot")
    assert {status["version"] for status in versions["model_version_status"]} == {"1", "2"}
    assert (canary["version"], last["version"], last["predictions"][0]["label"]) == (2, 2, "carrot")
    assert not (reader.root / "models/vegetables").exists()
