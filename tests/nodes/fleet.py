"""A Ray cluster of several nodes on this machine, which its autoscaler starts as Serve's replicas ask for them.

`python -m tests.nodes.fleet` reads a request a line from stdin, [name, argument, ...] in JSON, and answers each with a
line of JSON on stdout; when stdin ends, so does the cluster. A process of its own, because a process can be in one Ray
cluster only. The nodes are what Ray calls a fake multi-node provider: raylets that say what resources they have.
"""

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TextIO

import ray
from ray import serve
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
    FakeMultiNodeProvider,
)
from ray.cluster_utils import Cluster
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatusOverview, DeploymentStatusOverview

from tests.awaiting import free_port
from tests.local_graph import deploy

OBJECT_STORE_BYTES: Final = 100 * 2**20
# As the worker groups of k8s/: a node with a GPU offers Ray no CPU, so that nothing else is placed there.
NODE_TYPES: Final = {
    FAKE_HEAD_NODE_TYPE: {"CPU": 0, "GPU": 0},
    "cpu": {"CPU": 4, "GPU": 0},
    "gpu": {"CPU": 0, "GPU": 1},
}
# Expected in a config, and of no meaning where nodes are processes.
COMMANDS_OF_A_CLOUD: Final = (
    "cluster_synced_files",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


def main() -> None:
    # What Ray prints goes to stderr, so that stdout has answers alone.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with running_cluster():
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            answer(answers, COMMANDS[name](*arguments))


def answer(answers: TextIO, value: Any) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


@contextmanager
def running_cluster() -> Iterator[None]:
    gcs_port = free_port()
    config = autoscaler_config(f"{ray.util.get_node_ip_address()}:{gcs_port}")  # type: ignore[no-untyped-call]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        head = {
            "num_cpus": 0,
            "gcs_server_port": gcs_port,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "autoscaling_config": file.name,
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        ray.init(address=cluster.address, namespace="serve", log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()
            # Otherwise it would start again what ends now.
            cluster.head_node.kill_monitor(check_alive=False)  # type: ignore[attr-defined]
            cluster.shutdown()  # type: ignore[no-untyped-call]
            # What the autoscaler has started, and HAProxy; all of them are told of this folder.
            for pid in processes(f"{os.environ['RAY_TMPDIR']}/"):
                kill(pid)


def autoscaler_config(gcs_address: str) -> dict[str, Any]:
    """What the autoscaler may start: as many nodes of each type as the tests need at once, and one more."""
    return {
        "cluster_name": "nodes",
        "max_workers": 6,
        "provider": {
            # By its class: the defaults of Ray's own name for it, fake_multinode, are missing from Ray's wheels.
            "type": "external",
            "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": gcs_address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
        },
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": {
            name: {
                "resources": {**resources, "object_store_memory": OBJECT_STORE_BYTES},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 0 if name == FAKE_HEAD_NODE_TYPE else 3,
            }
            for name, resources in NODE_TYPES.items()
        },
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        **{key: [] for key in COMMANDS_OF_A_CLOUD},
    }


def processes(part: str) -> dict[int, str]:
    """Command lines with that part in them, by process id; not of this process."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:  # It has just ended.
            continue
        if part in command and int(process.name) != os.getpid():
            found[int(process.name)] = command
    return found


def children(pid: int) -> list[int]:
    """Those that one of its threads has started and that still run (proc(5))."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def known_nodes() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return found


# Commands


def deploy_config(config: dict[str, Any]) -> None:
    # The nodes share this machine's ports, so there can be one load balancer only.
    serve.start(
        proxy_location="HeadOnly", http_options=config.get("http_options"), grpc_options=config.get("grpc_options")
    )
    deploy(config)


def nodes() -> dict[str, dict[str, float]]:
    """CPU and GPU of each node that is alive, by id."""
    return {
        node["NodeID"]: {kind: node["Resources"].get(kind, 0) for kind in ("CPU", "GPU")}
        for node in known_nodes()
        if node["Alive"]
    }


def replicas() -> list[dict[str, Any]]:
    """application, deployment, state, node_id and log_file_path of each replica."""
    client = _get_global_client()
    assert client is not None
    return [
        {
            "application": application,
            "deployment": deployment,
            **{key: replica.get(key) for key in ("state", "node_id", "log_file_path")},
        }
        for application, details in client.get_serve_details()["applications"].items()
        for deployment, deployed in details["deployments"].items()
        for replica in deployed["replicas"]
    ]


def messages(application: str) -> list[str]:
    """Status and message of the application and of each of its deployments."""
    overview = serve.status().applications[application]
    parts: list[ApplicationStatusOverview | DeploymentStatusOverview] = [overview, *overview.deployments.values()]
    return [f"{part.status.value} {part.message}" for part in parts]


def kill_node(node_id: str) -> None:
    """As when its power is cut: none of its processes has time for a last word."""
    (node,) = (node for node in known_nodes() if node["NodeID"] == node_id)
    (raylet,) = processes(f"--raylet_socket_name={node['RayletSocketName']} ")
    for pid in (raylet, *children(raylet)):
        kill(pid)


COMMANDS: Final[dict[str, Callable[..., Any]]] = {
    command.__name__: command for command in (deploy_config, nodes, replicas, messages, kill_node)
}

if __name__ == "__main__":
    main()
