"""A real Prometheus that scrapes the running graph, beside which an application has a candidate on trial."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from scripts import observe
from tests.awaiting import await_condition, free_port

if TYPE_CHECKING:
    from tests.local_graph import Graph

TRIAL = "trial"
DEPLOY_TIMEOUT_S = 120.0
START_TIMEOUT_S = 30.0
# Each costs the agent up to a second where the machine is busy.
INTERVAL = "4s"

Series = tuple[dict[str, str], float]


@dataclass(frozen=True)
class Prometheus:
    url: str

    def query(self, query: str) -> list[Series]:
        """The labels and the value of each series, now."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=30).json()
        assert answer["status"] == "success", (query, answer)
        return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]

    def rules(self) -> list[dict[str, Any]]:
        groups = httpx.get(f"{self.url}/api/v1/rules", timeout=30).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="package")
def executable() -> str:
    found = shutil.which("prometheus")
    if found is None:
        pytest.skip("Prometheus is not installed (Debian: apt install prometheus).")
    return found


@pytest.fixture(scope="package")
def prometheus(executable: str, graph: "Graph", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    watched = observe.Watched(discovered(folder), f"127.0.0.1:{os.environ['RAY_SERVE_HAPROXY_METRICS_PORT']}")
    program = observe.prometheus_program(executable, watched, folder, free_port())
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with subprocess.Popen(program.command) as process:
        try:
            await_condition(
                lambda: observe.answers(program.url + program.ready), START_TIMEOUT_S, "Prometheus is ready"
            )
            yield Prometheus(program.url)
        finally:
            process.terminate()


def discovered(folder: Path) -> Path:
    """Ray's file of nodes, written by Ray itself; in this cluster there is no dashboard that would do it."""
    import ray
    from ray._private.metrics_agent import PrometheusServiceDiscoveryWriter

    writer = PrometheusServiceDiscoveryWriter(ray.get_runtime_context().gcs_address, str(folder))
    writer.write()  # type: ignore[no-untyped-call]
    return Path(writer.get_target_file_name())  # type: ignore[no-untyped-call]


@pytest.fixture(scope="package")
def trial(graph: "Graph", tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an application with a canary, a shadow, a cache and a version that cannot be loaded."""
    from ray import serve

    from tests.awaiting import is_ready
    from tests.graph.test_config_failures import answers_grpc
    from tests.local_graph import deploy, graph_config

    config = graph_config()
    config["applications"].append(trial_application(versions_in(tmp_path_factory.mktemp("versions"))))
    deploy(config)
    url = f"{graph.url}/{TRIAL}"
    await_condition(lambda: is_ready(url), DEPLOY_TIMEOUT_S, "the model on trial is warm")
    yield url
    deploy(graph_config())
    await_condition(lambda: TRIAL not in serve.status().applications, DEPLOY_TIMEOUT_S, "it is deleted")
    await_condition(lambda: answers_grpc(graph.grpc_address), DEPLOY_TIMEOUT_S, "gRPC has one application")


def versions_in(folder: Path) -> Path:
    for version in ("1", "2", "3"):
        (folder / version).mkdir()
    return folder


def trial_application(path: Path) -> dict[str, Any]:
    from tests.local_graph import local_config

    application = {**local_config()["applications"][0], "name": TRIAL, "route_prefix": f"/{TRIAL}"}
    application["import_path"] = "tests.observability.trial_graph:build"
    application["args"]["models"] = [{"name": TRIAL, "engine": "dummy", "path": str(path)}]
    few = {"max_ongoing_requests": 64, "ray_actor_options": {"num_cpus": 0.1}}
    application["deployments"] = [{"name": name, **few} for name in ("Ingress", "Preprocessor", TRIAL)]
    application["deployments"][-1]["user_config"] = {
        "versions": "all",
        "labels": {"stable": 1, "canary": 2},
        "default": "stable",
        "shadow": {"candidate": "canary", "share": 1.0},
        "promotion": {"candidate": "canary", "stage": "canary", "canary_share": 0.5},
        # For two answers.
        "cache": {"max_bytes": 2000},
    }
    return application
