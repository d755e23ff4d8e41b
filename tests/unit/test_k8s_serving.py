"""What the manifests say, and what the configs, the code and the pins say, is the same."""

import tomllib

import pytest
import yaml

from scripts.check_config import check_config
from scripts.ray_env import production_profile
from tests.unit.manifests import (
    CONFIG_OF,
    OVERLAYS,
    ROOT,
    amount,
    build,
    cluster_of,
    containers_of,
    deployments_of,
    groups_of,
    of_kind,
    pods_of,
    ports_of,
    ray_container,
    ray_service,
    workers_of,
)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Serve's and KubeRay's defaults (ray.serve._private.constants; ray-operator/controllers/ray/utils/constant.go).
HAPROXY_METRICS_PORT = 9101
RAY_METRICS_PORT = 8080
AGENT_PORT = 52365
# What Serve makes of a shorter graceful_shutdown_timeout_s behind HAProxy: 30 s of draining and 5 s (deployment_state).
MIN_INGRESS_SHUTDOWN_S = 35


@pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_serve_config_is_the_file_in_configs_and_passes_the_strict_check(overlay: str) -> None:
    assert ray_service(overlay)["spec"]["serveConfigV2"] == CONFIG_OF[overlay].read_text()
    check_config(CONFIG_OF[overlay])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_ray_process_gets_the_variables_of_configs_ray_env(overlay: str) -> None:
    (generated,) = of_kind(build(overlay), "ConfigMap")
    assert generated["data"] == production_profile(on_one_machine=False)
    for group in groups_of(overlay).values():
        container = ray_container(group)
        assert container["envFrom"] == [{"configMapRef": {"name": generated["metadata"]["name"]}}]
        assert not {variable["name"] for variable in container["env"]} & set(generated["data"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ports_are_those_of_the_config(overlay: str) -> None:
    config = yaml.safe_load(CONFIG_OF[overlay].read_text())
    for name, group in groups_of(overlay).items():
        ports = ports_of(ray_container(group))
        assert ports["serve"] == config["http_options"]["port"]
        assert ports["serve-grpc"] == config["grpc_options"]["port"]
        assert ports["metrics"] == RAY_METRICS_PORT
        if name != "head":
            assert ports["haproxy-metrics"] == HAPROXY_METRICS_PORT
    for route, port in (("HTTPRoute", "serve"), ("GRPCRoute", "serve-grpc")):
        for found in of_kind(build(overlay), route):
            (backend,) = found["spec"]["rules"][0]["backendRefs"]
            # Of the service that KubeRay makes for a RayService.
            assert backend == {"name": "aperture-serve-svc", "port": ports[port]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_listen_on_their_own_address(overlay: str) -> None:
    assert yaml.safe_load(CONFIG_OF[overlay].read_text())["http_options"]["host"] == "0.0.0.0"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_workers_are_ready_when_they_serve_and_all_are_restarted_when_ray_is_dead(overlay: str) -> None:
    for name, group in groups_of(overlay).items():
        container = ray_container(group)
        # KubeRay's own probes need wget, which the image does not have.
        assert container["livenessProbe"]["httpGet"] == {"path": "/api/healthz", "port": AGENT_PORT}
        ready = container["readinessProbe"]["httpGet"]
        assert ready == ({"path": "/-/healthz", "port": "serve"} if name != "head" else {**ready, "port": AGENT_PORT})


@pytest.mark.parametrize("overlay", ["gpu", "production"])
def test_pods_have_longer_to_stop_than_serve_needs_to_move_and_finish_their_work(overlay: str) -> None:
    shutdown_s = max(each.get("graceful_shutdown_timeout_s", 20) for each in deployments_of(overlay))
    for group in workers_of(overlay).values():
        hook = ray_container(group)["lifecycle"]["preStop"]["exec"]["command"]
        assert hook[:3] == ["python", "-m", "scripts.drain"]
        deadline_s, wait_s = (float(argument.partition("=")[2]) for argument in hook[3:])
        assert wait_s >= deadline_s + max(shutdown_s, MIN_INGRESS_SHUTDOWN_S)
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] >= wait_s + 30


def test_replicas_in_production_stop_later_than_the_longest_request_ends() -> None:
    config = yaml.safe_load(CONFIG_OF["production"].read_text())
    longest_s = config["applications"][0]["args"]["limits"]["request_timeout_s"]
    assert all(each["graceful_shutdown_timeout_s"] > longest_s for each in deployments_of("production"))
    assert ray_service("production")["spec"]["rayClusterDeletionDelaySeconds"] > longest_s


def test_the_gateway_gives_up_after_aperture_and_takes_bodies_that_aperture_takes() -> None:
    limits = yaml.safe_load(CONFIG_OF["production"].read_text())["applications"][0]["args"]["limits"]
    manifests = build("production")
    (route,) = of_kind(manifests, "HTTPRoute")
    timeout_s = float(route["spec"]["rules"][0]["timeouts"]["request"].removesuffix("s"))
    assert limits["request_timeout_s"] < timeout_s <= limits["request_timeout_s"] + 10
    (policy,) = of_kind(manifests, "BackendTrafficPolicy")
    allowed = amount(policy["spec"]["requestBuffer"]["limit"])
    assert limits["max_body_bytes"] < allowed <= 1.2 * limits["max_body_bytes"]


def test_the_gateway_lets_every_grpc_service_of_the_config_in_and_none_of_serves_own() -> None:
    servicers = yaml.safe_load(CONFIG_OF["production"].read_text())["grpc_options"]["grpc_servicer_functions"]
    (route,) = of_kind(build("production"), "GRPCRoute")
    services = [match["method"]["service"] for match in route["spec"]["rules"][0]["matches"]]
    registered = {path.rpartition(".add_")[2].removesuffix("Servicer_to_server") for path in servicers}
    assert {service.rpartition(".")[2] for service in services} == registered
    assert not any("ray" in service for service in services)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_and_versions_are_those_of_pyproject(overlay: str) -> None:
    (ray_pin,) = (pin.partition("==")[2] for pin in PROJECT["dependencies"] if pin.startswith("ray["))
    assert cluster_of(overlay)["rayVersion"] == ray_pin
    for name, group in groups_of(overlay).items():
        flavour = "gpu" if name == "gpu" else "cpu"
        for container in containers_of(group["template"]["spec"]):
            image, _, tag = container["image"].rpartition(":")
            assert (image.rpartition("/")[2], tag) == (f"aperture-{flavour}", PROJECT["version"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_image_is_the_latest_of_anything(overlay: str) -> None:
    for pod in pods_of(overlay).values():
        for container in containers_of(pod):
            name, _, tag = container["image"].rpartition(":")
            assert name, f"{container['image']} has no tag"
            assert tag != "latest"


def test_pod_monitors_name_ports_that_pods_have() -> None:
    monitors = of_kind(build("production"), "PodMonitor")
    groups = groups_of("production")
    for monitor in monitors:
        node_type = monitor["spec"]["selector"]["matchLabels"]["ray.io/node-type"]
        for name, group in groups.items():
            if (name == "head") == (node_type == "head"):
                scraped = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
                assert scraped <= set(ports_of(ray_container(group)))
    assert len(monitors) == 2


def test_the_head_finds_its_redis() -> None:
    options = cluster_of("production")["gcsFaultToleranceOptions"]
    (service,) = of_kind(build("production"), "Service")
    assert options["redisAddress"] == f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    (redis,) = of_kind(build("production"), "StatefulSet")
    assert service["spec"]["selector"] == redis["spec"]["template"]["metadata"]["labels"]
    (variable,) = redis["spec"]["template"]["spec"]["containers"][0]["env"]
    assert variable["valueFrom"] == options["redisPassword"]["valueFrom"]
