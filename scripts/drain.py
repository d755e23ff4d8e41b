"""Empties this node of a Ray cluster before it goes: a pod's preStop hook, `python -m scripts.drain --deadline-s=120`.

Ray is told that the node will leave, and Serve then starts a replacement of each replica here on another node before it
stops the one here. This ends when none is left, or after `--wait-s`. Without it, what a leaving node was answering
would be lost.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import ray
from ray.util.state import list_actors

RAY = Path(sys.executable).with_name("ray")
# Serve's replicas are actors of classes with such names (ray.serve._private.replica).
REPLICA = "ServeReplica:"
POLL_S = 1.0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Moves Serve's replicas to other nodes before this one goes.")
    parser.add_argument("--deadline-s", type=int, required=True, help="when the replicas have to be elsewhere")
    parser.add_argument("--wait-s", type=float, required=True, help="how long to wait, graceful shutdowns included")
    parser.add_argument("--node-id", help="by default that of the node that this runs on")
    options = parser.parse_args(arguments)
    # KubeRay sets RAY_ADDRESS.
    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, configure_logging=False)
    node_id = options.node_id or ray.get_runtime_context().get_node_id()
    if replicas_on(node_id) == 0:
        return 0
    _announce(node_id, options.deadline_s)
    return 0 if _await_empty(node_id, options.wait_s) else 1


def replicas_on(node_id: str) -> int:
    actors = list_actors(filters=[("node_id", "=", node_id), ("state", "=", "ALIVE")])
    return sum(actor.class_name.startswith(REPLICA) for actor in actors)


def _announce(node_id: str, deadline_s: int) -> None:
    # Ray has this for cloud providers that take machines back, and no public function for it.
    command = [str(RAY), "drain-node", "--node-id", node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "its pod is stopped", "--deadline-remaining-seconds", str(deadline_s)]
    subprocess.run(command, check=True)


def _await_empty(node_id: str, wait_s: float) -> bool:
    started = time.monotonic()
    while (left := replicas_on(node_id)) > 0:
        if time.monotonic() - started > wait_s:
            print(f"{left} replicas are still here after {wait_s:.0f} s.", file=sys.stderr)
            return False
        time.sleep(POLL_S)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
