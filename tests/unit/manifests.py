"""What kustomize makes of k8s/, for the tests of it."""

import copy
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
OVERLAYS: Final = ("dev", "gpu", "production")
# Of the same name as the overlay.
CONFIG_OF: Final = {overlay: ROOT / "configs" / f"{overlay}.yaml" for overlay in OVERLAYS}

Manifest = dict[str, Any]


def build(overlay: str) -> list[Manifest]:
    """The manifests of `kubectl kustomize k8s/overlays/OVERLAY`. Skips the test where there is no kubectl."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, whose kustomize builds the manifests, is not installed")
    return copy.deepcopy(_built(overlay))


@cache
def _built(overlay: str) -> list[Manifest]:
    done = subprocess.run(
        ["kubectl", "kustomize", ROOT / "k8s/overlays" / overlay], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    # kustomize says what it will not do for much longer.
    assert "deprecated" not in done.stderr.lower(), done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def ray_service(overlay: str) -> Manifest:
    (found,) = of_kind(build(overlay), "RayService")
    return found


def cluster_of(overlay: str) -> Manifest:
    cluster: Manifest = ray_service(overlay)["spec"]["rayClusterConfig"]
    return cluster


def deployments_of(overlay: str) -> list[Manifest]:
    """The deployments of the Serve config."""
    found: list[Manifest] = yaml.safe_load(CONFIG_OF[overlay].read_text())["applications"][0]["deployments"]
    return found


def groups_of(overlay: str) -> dict[str, Manifest]:
    """The head's group and those of the workers, by name."""
    cluster = cluster_of(overlay)
    return {"head": cluster["headGroupSpec"], **{group["groupName"]: group for group in cluster["workerGroupSpecs"]}}


def workers_of(overlay: str) -> dict[str, Manifest]:
    return {name: group for name, group in groups_of(overlay).items() if name != "head"}


def pods_of(overlay: str) -> dict[str, Manifest]:
    """The specs of all pods that the overlay leads to, by the name of their group or set."""
    pods = {name: group["template"]["spec"] for name, group in groups_of(overlay).items()}
    for workload in of_kind(build(overlay), "StatefulSet") + of_kind(build(overlay), "Deployment"):
        pods[workload["metadata"]["name"]] = workload["spec"]["template"]["spec"]
    return pods


def containers_of(pod: Manifest) -> list[Manifest]:
    return [*pod["containers"], *pod.get("initContainers", [])]


def ray_container(group: Manifest) -> Manifest:
    """The one that runs Ray, which has to be the first (ray-operator/controllers/ray/utils/constant.go)."""
    container: Manifest = group["template"]["spec"]["containers"][0]
    return container


def ports_of(container: Manifest) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container.get("ports", [])}


def amount(quantity: str | int | float) -> float:
    """A Kubernetes quantity in cores, bytes or pieces."""
    units = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    text = str(quantity)
    for unit in sorted(units, key=len, reverse=True):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * units[unit]
    return float(text)
