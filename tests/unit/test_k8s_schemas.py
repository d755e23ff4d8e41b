"""Every manifest is what Kubernetes and KubeRay accept, down to the last key."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.unit.manifests import OVERLAYS, ROOT, Manifest, build, of_kind, ray_service

# The newest of which the package has schemas.
KUBERNETES = "1.37"
CRD_VARIABLE = "KUBERAY_CRD"
# Neither Kubernetes' nor KubeRay's: only their names and the documentation of their projects vouch for these.
WITHOUT_SCHEMA = {
    "Gateway": "gateway.networking.k8s.io/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "GRPCRoute": "gateway.networking.k8s.io/v1",
    "SecurityPolicy": "gateway.envoyproxy.io/v1alpha1",
    "BackendTrafficPolicy": "gateway.envoyproxy.io/v1alpha1",
    "ClientTrafficPolicy": "gateway.envoyproxy.io/v1alpha1",
    "PodMonitor": "monitoring.coreos.com/v1",
}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_accepts_every_manifest_of_its_own_kinds_and_every_key_in_it(overlay: str) -> None:
    checked = 0
    for manifest in build(overlay):
        kind = manifest["kind"]
        if kind == "RayService":
            continue
        if kind in WITHOUT_SCHEMA:
            assert manifest["apiVersion"] == WITHOUT_SCHEMA[kind]
            continue
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        checked += 1
    assert checked >= 4  # Namespace, ConfigMap and two NetworkPolicies.


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_accepts_the_pods_that_kuberay_makes_of_the_templates(overlay: str) -> None:
    cluster = ray_service(overlay)["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kuberay_knows_every_key_of_the_ray_service(overlay: str) -> None:
    errors = list(crd_validator().iter_errors(ray_service(overlay)))
    assert [f"{error.json_path}: {error.message}" for error in errors] == []


def test_the_strict_schema_refuses_a_key_that_kuberay_would_drop_silently() -> None:
    validator, service = crd_validator(), ray_service("gpu")
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["envform"] = []
    (error,) = validator.iter_errors(service)
    assert "'envform' was unexpected" in error.message


def test_no_generated_config_map_but_the_environment_reaches_the_cluster() -> None:
    for overlay in OVERLAYS:
        (environment,) = of_kind(build(overlay), "ConfigMap")
        assert environment["metadata"]["name"].startswith("aperture-ray-env-")


def crd_validator() -> jsonschema.Draft202012Validator:
    """Of RayService v1, from the CRD that KUBERAY_CRD names, with every unknown key an error."""
    path = os.environ.get(CRD_VARIABLE)
    if not path:
        pytest.skip(f"{CRD_VARIABLE} does not say where KubeRay's ray.io_rayservices.yaml is")
    return _validator_of(ROOT / path)


@cache
def _validator_of(path: Path) -> jsonschema.Draft202012Validator:
    crd = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = (version for version in crd["spec"]["versions"] if version["name"] == "v1")
    return jsonschema.Draft202012Validator(strict(version["schema"]["openAPIV3Schema"], is_root=True))


def strict(schema: Any, *, is_root: bool = False) -> Any:
    """The schema of a CRD as JSON Schema, in which no object has other keys than those named."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"], **({"pattern": schema["pattern"]} if "pattern" in schema else {})}
    properties = {key: strict(value) for key, value in schema.get("properties", {}).items()}
    result: Manifest = {key: strict(value) for key, value in schema.items() if key != "properties"}
    if properties:
        result["properties"] = properties
        if is_root:
            # The API server's own, which CRDs leave empty.
            properties["metadata"] = {"type": "object"}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result.setdefault("additionalProperties", False)
    return result
