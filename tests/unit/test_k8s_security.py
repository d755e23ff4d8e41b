"""Who may do what in the cluster: no pod more than it needs, and nobody from outside more than ask for predictions."""

import pytest
import yaml

from tests.unit.manifests import (
    CONFIG_OF,
    OVERLAYS,
    Manifest,
    build,
    cluster_of,
    containers_of,
    groups_of,
    of_kind,
    pods_of,
    ports_of,
    ray_container,
    ray_service,
    workers_of,
)

# Who may come in from outside of the Ray cluster's own pods, and to which ports of Ray pods. There is nothing else.
GATEWAY, OPERATOR, PROMETHEUS = "envoy-gateway-system", "ray-system", "monitoring"
OPEN = {
    GATEWAY: {8000, 9000},
    OPERATOR: {8000, 8265},
    PROMETHEUS: {8080, 9101, 44217, 44227},
}
RAY_POD = {"app.kubernetes.io/part-of": "aperture"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_is_locked_down(overlay: str) -> None:
    contexts = [container["securityContext"] for pod in pods_of(overlay).values() for container in containers_of(pod)]
    if "autoscalerOptions" in cluster_of(overlay):
        contexts.append(cluster_of(overlay)["autoscalerOptions"]["securityContext"])
    for context in contexts:
        assert context == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_run_as_a_numbered_user_and_see_nothing_of_their_node(overlay: str) -> None:
    for pod in pods_of(overlay).values():
        assert pod["securityContext"]["runAsUser"] >= 100
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not any("hostPath" in volume for volume in pod.get("volumes", []))
    for group in workers_of(overlay).values():
        assert group["template"]["spec"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_that_ray_writes_lies_on_a_volume_with_a_limit(overlay: str) -> None:
    for group in groups_of(overlay).values():
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        mounted = {mount["mountPath"]: mount["name"] for mount in ray_container(group)["volumeMounts"]}
        environment = {variable["name"]: variable.get("value") for variable in ray_container(group)["env"]}
        for path in ("/tmp", "/dev/shm", environment["APERTURE_CACHE"]):
            assert "sizeLimit" in volumes[mounted[path]]["emptyDir"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_namespace_refuses_pods_with_privileges(overlay: str) -> None:
    (namespace,) = of_kind(build(overlay), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for manifest in build(overlay):
        assert manifest is namespace or manifest["metadata"].get("namespace", "aperture") == "aperture"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_asks_for_a_token(overlay: str) -> None:
    assert cluster_of(overlay)["authOptions"] == {"mode": "token", "secretName": "aperture-ray-token"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_is_written_down(overlay: str) -> None:
    assert of_kind(build(overlay), "Secret") == []


@pytest.mark.parametrize("overlay", ["gpu", "production"])
def test_the_hashes_of_api_keys_are_where_the_config_looks_for_them_and_nowhere_else(overlay: str) -> None:
    access = yaml.safe_load(CONFIG_OF[overlay].read_text())["applications"][0]["args"]["access"]
    found = {name: places_of_keys(group) for name, group in groups_of(overlay).items()}
    # Only these take what asks for a CPU, as the Ingress does.
    assert {name for name, places in found.items() if places} == {"cpu"}
    (place,) = access.values()
    assert found["cpu"][place] == ("aperture-key-hashes", "api-keys")


def places_of_keys(group: Manifest) -> dict[str, tuple[str, str]]:
    """Variables and files of the Ray container with something of a Secret in them, which is named with its key."""
    container, places = ray_container(group), {}
    for variable in container["env"]:
        if "valueFrom" in variable:
            source = variable["valueFrom"]["secretKeyRef"]
            places[variable["name"]] = (source["name"], source["key"])
    secrets = {each["name"]: each["secret"] for each in group["template"]["spec"]["volumes"] if "secret" in each}
    for mount in container["volumeMounts"]:
        if mount["name"] in secrets:
            # Followed as it changes, which a subPath is not.
            assert "subPath" not in mount
            places[f"{mount['mountPath']}/api-keys"] = (secrets[mount["name"]]["secretName"], "api-keys")
    return places


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_policy_isolates_every_ray_pod(overlay: str) -> None:
    selectors = [policy["spec"]["podSelector"] for policy in policies(overlay, "Ingress")]
    assert {"matchLabels": RAY_POD} in selectors
    for group in groups_of(overlay).values():
        assert group["template"]["metadata"]["labels"].items() >= RAY_POD.items()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_port_of_ray_is_open_beyond_the_clusters_own_pods(overlay: str) -> None:
    for policy in policies(overlay, "Ingress"):
        if not selects_ray(policy):
            continue
        for rule in policy["spec"].get("ingress", []):
            assert rule.get("from"), f"{policy['metadata']['name']} has a rule for everybody"
            for peer in rule["from"]:
                if peer == {"podSelector": {"matchLabels": RAY_POD}}:
                    continue
                source = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
                assert peer["podSelector"]["matchLabels"], "all pods of a namespace are too many"
                assert numbers(rule["ports"], overlay) <= OPEN[source]


def test_requests_come_to_the_workers_of_production_from_the_gateway_alone() -> None:
    (policy,) = (each for each in policies("production", "Ingress") if each["metadata"]["name"] == "aperture-requests")
    assert policy["spec"]["podSelector"]["matchLabels"]["ray.io/node-type"] == "worker"
    (rule,) = policy["spec"]["ingress"]
    assert numbers(rule["ports"], "production") == OPEN[GATEWAY]


@pytest.mark.parametrize("overlay", ["dev", "gpu"])
def test_without_a_gateway_nobody_outside_may_send_requests(overlay: str) -> None:
    for policy in policies(overlay, "Ingress"):
        for rule in policy["spec"].get("ingress", []):
            for peer in rule["from"]:
                names = peer.get("namespaceSelector", {}).get("matchLabels", {})
                assert names.get("kubernetes.io/metadata.name", OPERATOR) == OPERATOR


def test_kuberay_can_deploy_and_the_workers_find_the_head() -> None:
    (head,) = (each for each in policies("gpu", "Ingress") if each["metadata"]["name"] == "aperture-head")
    (rule,) = head["spec"]["ingress"]
    ports = ports_of(ray_container(groups_of("gpu")["head"]))
    assert {ports["dashboard"], ports["serve"]} == numbers(rule["ports"], "gpu")
    assert groups_of("gpu")["head"]["rayStartParams"]["dashboard-host"] == "0.0.0.0"


def test_only_the_head_leaves_the_cluster_and_never_for_the_clouds_credentials() -> None:
    for policy in policies("production", "Egress"):
        for rule in policy["spec"].get("egress", []):
            blocks = [peer["ipBlock"] for peer in rule.get("to", []) if "ipBlock" in peer]
            if blocks:
                assert policy["spec"]["podSelector"]["matchLabels"]["ray.io/node-type"] == "head"
                assert all("169.254.0.0/16" in block["except"] for block in blocks)
            elif "to" not in rule:
                assert {port["port"] for port in rule["ports"]} == {53}


def test_only_the_head_reaches_redis() -> None:
    (policy,) = (each for each in policies("production", "Ingress") if each["metadata"]["name"] == "aperture-redis")
    (rule,) = policy["spec"]["ingress"]
    (peer,) = rule["from"]
    assert peer["podSelector"]["matchExpressions"][0]["values"] == ["head", "redis-cleanup"]
    assert rule["ports"] == [{"port": 6379}]


def test_the_gateway_ends_tls_asks_for_keys_and_takes_away_the_headers_that_lift_timeouts() -> None:
    manifests = build("production")
    (gateway,) = of_kind(manifests, "Gateway")
    assert all(listener["protocol"] == "HTTPS" for listener in gateway["spec"]["listeners"])
    assert len({listener["hostname"] for listener in gateway["spec"]["listeners"]}) == 2
    (keys,) = of_kind(manifests, "SecurityPolicy")
    assert {target["kind"] for target in keys["spec"]["targetRefs"]} == {"HTTPRoute", "GRPCRoute"}
    assert keys["spec"]["apiKeyAuth"]["extractFrom"] == [{"headers": ["x-api-key"]}]
    (route,) = of_kind(manifests, "HTTPRoute")
    (removed,) = (rule["requestHeaderModifier"]["remove"] for rule in route["spec"]["rules"][0]["filters"])
    assert removed == ["x-request-timeout-seconds", "x-request-disconnect-disabled"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_serve_speaks_plainly_inside_since_kuberay_asks_it_over_http(overlay: str) -> None:
    assert "ssl_" not in ray_service(overlay)["spec"]["serveConfigV2"]


def policies(overlay: str, direction: str) -> list[Manifest]:
    return [each for each in of_kind(build(overlay), "NetworkPolicy") if direction in each["spec"]["policyTypes"]]


def selects_ray(policy: Manifest) -> bool:
    labels = policy["spec"]["podSelector"].get("matchLabels", {})
    return not labels or bool(labels.items() >= RAY_POD.items())


def numbers(ports: list[Manifest], overlay: str) -> set[int]:
    """Of ports that are given by number or by the name that the pods have for them."""
    named: dict[str, int] = {}
    for group in groups_of(overlay).values():
        named |= ports_of(ray_container(group))
    assert not any("endPort" in port for port in ports)
    return {port["port"] if isinstance(port["port"], int) else named[port["port"]] for port in ports}
