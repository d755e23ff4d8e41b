"""One local Ray cluster and one deployed graph for all tests of this directory: configs/local.yaml on free ports."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import yaml
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from tests.awaiting import await_condition, free_port, is_ready
from tests.reference import Reference

ROOT = Path(__file__).resolve().parents[2]
DEPLOY_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Graph:
    url: str
    grpc_address: str


def local_config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    return config


def graph_config() -> dict[str, Any]:
    """configs/local.yaml with a second model, `colours`, on the dummy engine."""
    config = local_config()
    application = config["applications"][0]
    application["args"]["models"].append({"name": "colours", "engine": "dummy"})
    application["deployments"].append(
        {"name": "colours", "max_ongoing_requests": 64, "ray_actor_options": {"num_cpus": 0.1}}
    )
    return config


def deploy(config: dict[str, Any]) -> None:
    """As `serve run` does it. Declarative: applications that `config` lacks are deleted."""
    controller = _get_global_client()
    assert controller is not None
    controller.deploy_apps(ServeDeploySchema.model_validate(config))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Graph]:
    """Ray and Serve's proxies, with no application."""
    http_port, grpc_port = free_port(), free_port()
    config = local_config()
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 2**20, namespace="serve"
    )
    serve.start(
        http_options={**config["http_options"], "port": http_port},
        grpc_options={**config["grpc_options"], "port": grpc_port},
    )
    yield Graph(f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}")
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


@pytest.fixture(scope="session")
def graph(cluster: Graph) -> Graph:
    """The application of `graph_config`, every model warm."""
    deploy(graph_config())
    await_condition(lambda: is_ready(cluster.url), DEPLOY_TIMEOUT_S, "every model is warm")
    return cluster


@pytest.fixture
def client(graph: Graph) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=graph.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference(ROOT / "models/shapes")
