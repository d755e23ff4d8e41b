"""A model or setting that cannot be served fails the deployment soon, with one sentence where operators look."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ray import serve

from tests.awaiting import await_condition
from tests.local_graph import (
    DEPLOY_TIMEOUT_S,
    ROOT,
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


def shorten_labels(application: Application, tmp_path: Path) -> None:
    """The bundled weights with a model.yaml that has lost two labels."""
    (source,) = (ROOT / "models/shapes").iterdir()
    manifest = yaml.safe_load((source / "model.yaml").read_text())
    manifest["labels"] = manifest["labels"][:8]
    version = tmp_path / "1"
    version.mkdir()
    (version / "model.yaml").write_text(yaml.safe_dump(manifest))
    (version / manifest["weights"]).symlink_to(source / manifest["weights"])
    change_model(path=str(tmp_path))(application, tmp_path)


def cut_off_downloads(application: Application, tmp_path: Path) -> None:
    """Pretrained weights, an empty cache, and a proxy that is not there."""
    model = application["args"]["models"][0]
    del model["path"]
    model.update(architecture="resnet18", weights="IMAGENET1K_V1")
    environment = {
        "TORCH_HOME": str(tmp_path),
        "https_proxy": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    application["deployments"][-1]["ray_actor_options"]["runtime_env"] = {"env_vars": environment}


def starve_batches(application: Application, tmp_path: Path) -> None:
    application["deployments"][-1]["max_ongoing_requests"] = 9


FAILURES = [
    pytest.param(
        change_model(path="models/absent"), "The model directory 'models/absent' does not exist", id="no model"
    ),
    pytest.param(change_model(treads=2), "ModelSettings has no key 'treads' (its value here is 2)", id="misspelt key"),
    pytest.param(shorten_labels, "with 8 labels", id="labels do not match the outputs"),
    pytest.param(cut_off_downloads, "The weights cannot be downloaded from https://", id="no way to the download"),
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
