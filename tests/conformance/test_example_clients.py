"""The clients of examples/clients, as commands, each against the running graph."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

import examples.clients
from tests.local_graph import ROOT, Graph

CLIENTS = sorted(path.stem for path in Path(examples.clients.__file__).parent.glob("[!_]*.py"))
MAX_LINES = 35


def target(graph: Graph, client: str) -> list[str]:
    if client == "ray_task":
        return []
    if client in ("triton_http", "triton_pixels"):
        return ["--url", graph.address]
    return ["--url", graph.grpc_address if client.endswith("grpc") else graph.url]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_names_the_picture(graph: Graph, expected: dict[str, float], client: str) -> None:
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-m", f"examples.clients.{client}", *target(graph, client)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    labels, probabilities = zip(*(line.split() for line in ended.stdout.splitlines()), strict=True)
    # One preprocesses in floats of its own.
    assert list(map(float, probabilities)) == pytest.approx(sorted(expected.values(), reverse=True)[:3], abs=1e-3)
    assert (labels[0], len(labels)) == ("heart", 3)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_is_short_enough_to_read_at_once(client: str) -> None:
    assert len((ROOT / "examples/clients" / f"{client}.py").read_text().splitlines()) <= MAX_LINES
