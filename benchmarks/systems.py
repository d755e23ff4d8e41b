"""What is measured: Aperture and its peers, each as something that can be started on a model."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import yaml

from benchmarks.service import ROOT, Service, running, running_command
from deployments.repository import find_version
from scripts.ray_env import production_profile

# Ports of the peers; Aperture listens where configs/local.yaml says.
PEER_PORT = 18080
APERTURE = "Aperture"


@dataclass(frozen=True)
class Peer:
    module: str
    ready_path: str


PEERS: Mapping[str, Peer] = {
    "FastAPI + uvicorn": Peer("benchmarks.peers.fastapi_peer", "/health"),
    "mosec": Peer("benchmarks.peers.mosec_peer", "/metrics"),
    "LitServe": Peer("benchmarks.peers.litserve_peer", "/health"),
}
NAMES = (APERTURE, *PEERS)


def start(name: str, model: dict[str, Any], replicas: int) -> AbstractContextManager[Service]:
    """The system `name` on `model` (the keys of ModelSettings), with `replicas` processes that run it."""
    if name == APERTURE:
        return running(aperture_config(model, replicas), production_profile(on_one_machine=True), "/v2/health/ready")
    return _peer(PEERS[name], model, replicas)


def aperture_config(model: dict[str, Any], replicas: int) -> dict[str, Any]:
    """configs/local.yaml with this model alone, on `replicas` replicas."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    application = config["applications"][0]
    application["args"]["models"] = [model]
    classifier = application["deployments"][-1]
    classifier["name"] = model["name"]
    classifier["num_replicas"] = replicas
    classifier["user_config"] = {"max_batch_size": model["max_batch_size"]}
    classifier["max_ongoing_requests"] = max(classifier["max_ongoing_requests"], 2 * model["max_batch_size"])
    # What Ray counts when it places replicas; it limits nothing.
    classifier["ray_actor_options"] = {"num_cpus": 0.5 / replicas}
    return config


@contextmanager
def _peer(peer: Peer, model: dict[str, Any], replicas: int) -> Iterator[Service]:
    environment = {
        "PEER_PORT": str(PEER_PORT),
        "PEER_WORKERS": str(replicas),
        "PEER_MODEL": json.dumps(model),
        "PEER_PREPROCESSING": find_version(model["path"]).manifest.preprocessing.model_dump_json(),
    }
    command = [sys.executable, "-m", peer.module]
    with running_command(command, environment, [PEER_PORT], peer.ready_path) as service:
        yield service
