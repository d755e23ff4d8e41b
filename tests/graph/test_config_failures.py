"""A model or setting that cannot be served fails the deployment soon, with one sentence where operators look."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ray import serve

from tests.awaiting import await_condition
from tests.local_graph import (
    DEPLOY_TIMEOUT_S,
    Graph,
    deploy,
    graph_config,
    local_config,
)

NAME = "failing"
Application = dict[str, Any]
Change = Callable[[Application, Path], None]


def change_model(**settings: Any) -> Change:
    def change(application: Application, tmp_path: Path) -> None:
        application["args"]["models"][0].update(settings)

    return change


def starve_batches(application: Application, tmp_path: Path) -> None:
    application["deployments"][-1]["max_ongoing_requests"] = 9


# One that validation finds, and one that a replica does; what the sentences say is tests/unit's.
FAILURES = [
    pytest.param(change_model(treads=2), "ModelSettings has no key 'treads' (its value here is 2)", id="misspelt key"),
    pytest.param(starve_batches, "can never fill", id="a batch that can never fill"),
]


@pytest.fixture
def application(graph: Graph) -> Iterator[Application]:
    """A second application, not yet deployed, on a route of its own; deleted afterwards."""
    yield {**local_config()["applications"][0], "name": NAME, "route_prefix": "/failing"}
    deploy(graph_config())
    await_condition(lambda: NAME not in serve.status().applications, DEPLOY_TIMEOUT_S, "it is deleted")
    # The proxies hear of it later, and until then gRPC calls would have to say which application they mean.
    await_condition(lambda: answers_grpc(graph.grpc_address), DEPLOY_TIMEOUT_S, "gRPC has one application")


@pytest.mark.parametrize(("change", "sentence"), FAILURES)
def test_the_deployment_fails_with_one_sentence(
    application: Application, tmp_path: Path, change: Change, sentence: str
) -> None:
    change(application, tmp_path)
    config = graph_config()
    config["applications"].append(application)
    deploy(config)
    await_condition(lambda: status() == "DEPLOY_FAILED", DEPLOY_TIMEOUT_S, "the deployment fails")
    overview = serve.status().applications[NAME]
    reports = [overview.message, *(deployment.message for deployment in overview.deployments.values())]
    lines = [line for report in reports for line in report.splitlines() if line.startswith("deployments.errors")]
    assert lines
    assert all(line.startswith("deployments.errors.ConfigError: ") and sentence in line for line in lines)


def answers_grpc(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.RpcError:
            return False
        return True


def status() -> str:
    overview = serve.status().applications.get(NAME)
    return "" if overview is None else str(overview.status.value)
