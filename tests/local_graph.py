"""One local Ray cluster and one deployed graph for all tests that need one: configs/local.yaml on free ports.

The fixtures `cluster` and `graph` (tests/conftest.py) hold it for the whole session, whichever directory asks first.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from deployments.engines import dummy
from tests.awaiting import await_condition, free_port, is_ready

ROOT = Path(__file__).resolve().parents[1]
DEPLOY_TIMEOUT_S = 180.0
SLOW_S = 0.4
# Where the graph sends the spans of requests that ask for some (sample_ratio 0); nobody listens but in test_traces.py.
COLLECTOR_PORT = free_port()


@dataclass(frozen=True)
class Graph:
    url: str
    grpc_address: str

    @property
    def address(self) -> str:
        """host:port of HTTP."""
        return self.url.removeprefix("http://")


def local_config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    return config


def graph_config() -> dict[str, Any]:
    """configs/local.yaml with three more models, which requests may load and unload.

    `colours` is on the dummy engine, and so is `slow`, which takes SLOW_S for each image, one after another. `tensors`
    is the bundled model for clients that preprocess images themselves.
    """
    config = local_config()
    application = config["applications"][0]
    application["args"]["administration"] = {"enabled": True}
    traces = {"endpoint": f"http://127.0.0.1:{COLLECTOR_PORT}", "sample_ratio": 0}
    application["args"]["telemetry"] = {"traces": traces}
    application["args"]["models"] += [
        {"name": "colours", "engine": "dummy"},
        {"name": "slow", "engine": "dummy", "max_batch_size": 1},
        {
            "name": "tensors",
            "path": "models/shapes",
            "engine": "torch",
            "device": "cpu",
            "inputs": ["INPUT"],
            "outputs": ["PROBABILITIES"],
        },
    ]
    # Together with a second application they have to fit into two CPUs (test_config_failures.py).
    application["deployments"] += [
        {"name": name, "max_ongoing_requests": 64, "ray_actor_options": {"num_cpus": 0.05}}
        for name in ("colours", "tensors", "slow")
    ]
    slow = {"runtime_env": {"env_vars": {dummy.SECONDS: f"0 {SLOW_S}"}}}
    application["deployments"][-1]["ray_actor_options"] |= slow
    return config


def deploy(config: dict[str, Any]) -> None:
    """As `serve run` does it. Declarative: applications that `config` lacks are deleted."""
    controller = _get_global_client()
    assert controller is not None
    controller.deploy_apps(ServeDeploySchema.model_validate(config))


def deploy_graph(cluster: Graph) -> None:
    """Returns once every model of `graph_config` is warm."""
    deploy(graph_config())
    await_condition(lambda: is_ready(cluster.url), DEPLOY_TIMEOUT_S, "every model is warm")


@contextmanager
def running_cluster() -> Iterator[Graph]:
    """Ray and Serve's proxies, with no application."""
    http_port, grpc_port = free_port(), free_port()
    config = local_config()
    ray.init(
        address="local",  # Never one that runs on this machine already.
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
        namespace="serve",
        # Ten seconds by default, which tests of what Prometheus gets would wait for.
        _system_config={"metrics_report_interval_ms": 3000},
    )
    serve.start(
        http_options={**config["http_options"], "port": http_port},
        grpc_options={**config["grpc_options"], "port": grpc_port},
    )
    yield Graph(f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}")
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()
