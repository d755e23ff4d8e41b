"""The selftest, as an operator runs it, against the running graph."""

import json
import subprocess
import sys

import pytest

from benchmarks.selftest.__main__ import main
from benchmarks.selftest.runner import CHECKS
from tests.local_graph import ROOT, Graph

# Ten seconds are usual; not even a busy machine makes it so many.
BUDGET_S = 120
NO_KEYS = "the service asks for no keys"


def test_the_running_graph_keeps_its_promises(graph: Graph) -> None:
    command = [sys.executable, "-m", "benchmarks.selftest", "--url", graph.url, "--grpc", graph.grpc_address]
    ran = subprocess.run(
        [*command, "--model", "shapes", "--budget-s", str(BUDGET_S)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=BUDGET_S + 60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    document = json.loads(ran.stdout.splitlines()[-1])
    rows = {claim: row for rows in document["results"].values() for claim, row in rows.items()}
    assert set(rows) == {check.claim for check in CHECKS}
    assert {row["came"] for row in rows.values() if row["state"] == "skipped"} == {NO_KEYS}


@pytest.mark.parametrize("model", ["tensors", "colours"])
def test_what_a_model_does_not_take_is_skipped(graph: Graph, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--model", model, "--only", "protocols", "answers", "--json"]
    status = main(["--url", graph.url, "--grpc", graph.grpc_address, *only])
    rows = json.loads(capsys.readouterr().out)["results"]["protocols"]
    assert status == 0, rows
    # `tensors` announces INPUT alone.
    assert rows["OIP gRPC, raw: answers as the others"]["state"] == ("skipped" if model == "tensors" else "held")
    assert rows["OIP, binary tensors: answers as the others"]["state"] == "held"
