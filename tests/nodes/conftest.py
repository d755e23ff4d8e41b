"""configs/gpu.yaml on nodes that the cluster's autoscaler has started for it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.awaiting import await_condition, free_port, is_ready

ROOT = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = 150.0
END_TIMEOUT_S = 60.0
# FAKE_HEAD_NODE_ID of Ray's fake_multi_node.node_provider, which would import Ray here.
HEAD_NODE_ID = "f" * 51 + "00000"


@dataclass(frozen=True)
class Fleet:
    """tests/nodes/fleet.py in a process of its own, with what is deployed there."""

    config: dict[str, Any]
    folder: Path
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.config['http_options']['port']}"

    @property
    def logs(self) -> Path:
        return self.folder / "ray/session_latest/logs"

    def ask(self, command: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([command, *arguments]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, "The process that holds the cluster has ended."
        return json.loads(line)

    def nodes(self) -> dict[str, dict[str, float]]:
        nodes: dict[str, dict[str, float]] = self.ask("nodes")
        return nodes

    def running(self, deployment: str) -> list[dict[str, Any]]:
        """Its replicas that run on a node that is alive."""
        nodes = self.nodes()
        return [
            replica
            for replica in self.ask("replicas")
            if replica["deployment"] == deployment and replica["state"] == "RUNNING" and replica["node_id"] in nodes
        ]


@pytest.fixture(scope="package")
def fleet() -> Iterator[Fleet]:
    with tempfile.TemporaryDirectory(prefix="nodes-", dir="/tmp") as folder:  # Paths of sockets must be short.
        config = gpu_config()
        command = [sys.executable, "-m", "tests.nodes.fleet"]
        pipe = subprocess.PIPE
        with (
            (Path(folder) / "stderr").open("w") as stderr,
            subprocess.Popen(
                command, cwd=ROOT, env=environment(folder), stdin=pipe, stdout=pipe, stderr=stderr, text=True
            ) as process,
        ):
            fleet = Fleet(config, Path(folder), process)
            try:
                fleet.ask("deploy_config", config)
                await_condition(lambda: is_served(fleet), READY_TIMEOUT_S, "every replica runs")
                yield fleet
            finally:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(END_TIMEOUT_S)


def is_served(fleet: Fleet) -> bool:
    return len(fleet.running("shapes")) == 2 and is_ready(fleet.url)


def gpu_config() -> dict[str, Any]:
    """configs/gpu.yaml with the bundled model, whatever device there is, free ports and few replicas."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs/gpu.yaml").read_text())
    config["http_options"]["port"] = free_port()
    config["grpc_options"]["port"] = free_port()
    (application,) = config["applications"]
    application["args"]["access"] = {"open_to_all": True}
    (model,) = application["args"]["models"]
    del model["architecture"], model["weights"]
    model.update(name="shapes", path="models/shapes", device="auto")
    ingress, preprocessor, classifier = application["deployments"]
    ingress["num_replicas"] = 1
    preprocessor["autoscaling_config"]["max_replicas"] = 1
    classifier["name"] = "shapes"
    classifier["autoscaling_config"].update(min_replicas=2, max_replicas=2)
    return config


def environment(folder: str) -> dict[str, str]:
    """Of the cluster: nothing is shared with another one on this machine."""
    haproxy = f"{folder}/haproxy"
    return {
        **os.environ,
        "RAY_TMPDIR": folder,
        # For the fake provider of nodes, which runs in the autoscaler's process.
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_NODE_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        # A node that is gone is noticed after 5 of these; by default they are 3 s long.
        "RAY_health_check_period_ms": "500",
        # Workers that nobody has asked for would take the cores from those that somebody has.
        "RAY_enable_worker_prestart": "0",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{haproxy}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{haproxy}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": haproxy,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{haproxy}/server-state",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port()),
    }
