"""What the documents ask of a running service, asked of the graph: requests by curl, clients in Python."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import BLOCKS, LIVE, ROOT, Block
from tests.local_graph import Graph

# The addresses of `make serve`.
HTTP, GRPC = "127.0.0.1:8000", "127.0.0.1:9000"
# The README's connects to the cluster as a driver of its own; tests/commands/test_readme.py runs it.
UNMARKED = [block for block in BLOCKS if not block.remark and block.document != "README.md"]
CLIENTS = [block for block in UNMARKED if block.language == "python"]
COMMANDS = {
    str(block): asked
    for block in UNMARKED
    if block.language == "sh" and (asked := [command for command in block.commands if command.startswith(LIVE)])
}


def asking(graph: Graph, text: str) -> str:
    return text.replace(HTTP, graph.address).replace(GRPC, graph.grpc_address)


@pytest.mark.parametrize("block", CLIENTS, ids=str)
def test_a_client_gets_an_answer_with_the_label(graph: Graph, block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(asking(graph, block.text), str(block), "exec"), {"__name__": "__main__"})
    assert "heart" in printed.getvalue()


@pytest.mark.parametrize("commands", COMMANDS.values(), ids=COMMANDS)
def test_commands_end_well(graph: Graph, commands: list[str], tmp_path: Path) -> None:
    if any(command.startswith("jq") for command in commands) and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    # Of curl by itself, whatever status is a success.
    (tmp_path / ".curlrc").write_text("fail-with-body\nsilent\n")
    script = asking(graph, "\n".join(commands)).replace(".venv/bin/python", sys.executable)
    environment = os.environ | {"CURL_HOME": str(tmp_path)}
    ended = subprocess.run(
        ["bash", "-ec", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    # A search may find nothing.
    assert ended.stdout or all(command.startswith("jq") for command in commands)


def test_there_is_something_to_run() -> None:
    assert len(CLIENTS) > 3
    assert len(COMMANDS) > 3
