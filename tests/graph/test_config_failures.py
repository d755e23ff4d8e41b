"""A model or setting that cannot be served fails the deployment soon, with one sentence where operators look."""

from collections.abc import Iterator
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


@pytest.fixture
def application(graph: Graph) -> Iterator[Application]:
    """A second application, not yet deployed, on a route of its own; deleted afterwards."""
    yield {**local_config()["applications"][0], "name": NAME, "route_prefix": "/failing"}
    deploy(graph_config())
    await_condition(lambda: NAME not in serve.status().applications, DEPLOY_TIMEOUT_S, "it is deleted")
    # The proxies hear of it later, and until then gRPC calls would have to say which application they mean.
    await_condition(lambda: answers_grpc(graph.grpc_address), DEPLOY_TIMEOUT_S, "gRPC has one application")


def test_what_a_replica_finds_fails_the_deployment_with_one_sentence(application: Application) -> None:
    """What validation finds is in tests/chaos, and what the sentences say in tests/unit."""
    # Less than two batches.
    application["deployments"][-1]["max_ongoing_requests"] = 9
    config = graph_config()
    config["applications"].append(application)
    deploy(config)
    await_condition(lambda: status() == "DEPLOY_FAILED", DEPLOY_TIMEOUT_S, "the deployment fails")
    overview = serve.status().applications[NAME]
    reports = [overview.message, *(deployment.message for deployment in overview.deployments.values())]
    lines = [line for report in reports for line in report.splitlines() if line.startswith("deployments.errors")]
    assert lines
    assert all(line.startswith("deployments.errors.ConfigError: ") and "can never fill" in line for line in lines)


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
