"""There is room for every replica, where it should be, and enough of it stays when nodes go."""

import math
from typing import Any

import pytest

from tests.unit.manifests import (
    OVERLAYS,
    Manifest,
    amount,
    build,
    containers_of,
    deployments_of,
    groups_of,
    of_kind,
    pods_of,
    ray_container,
    ray_service,
    workers_of,
)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_replica_fits_into_a_worker_and_all_of_them_into_all_workers(overlay: str) -> None:
    rooms = {name: room_of(group) for name, group in workers_of(overlay).items()}
    for count, replicas in (("minReplicas", smallest(overlay)), ("maxReplicas", largest(overlay))):
        workers = [
            [name, *rooms[name], set()] for name, group in workers_of(overlay).items() for _ in range(group[count])
        ]
        for name, cpus, gpus, one_per_node in sorted(replicas, key=lambda each: (each[2], each[1]), reverse=True):
            place(workers, name, cpus, gpus, one_per_node)


@pytest.mark.parametrize("overlay", ["gpu", "production"])
def test_workers_with_gpus_take_classifiers_and_nothing_else(overlay: str) -> None:
    cpus, gpus = room_of(workers_of(overlay)["gpu"])
    assert (cpus, gpus) == (0, 1)
    for deployment in deployments_of(overlay):
        options = deployment["ray_actor_options"]
        assert (options["num_cpus"] == 0) == ("num_gpus" in options)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_work_is_placed_on_the_head_and_no_request_sent_there(overlay: str) -> None:
    head = groups_of(overlay)["head"]
    assert (head["rayStartParams"]["num-cpus"], head["rayStartParams"]["num-gpus"]) == ("0", "0")
    assert ray_service(overlay)["spec"]["excludeHeadPodFromServeSvc"] is True


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_workers_tell_ray_no_more_cpus_and_gpus_than_their_pods_have(overlay: str) -> None:
    for group in workers_of(overlay).values():
        cpus, gpus = room_of(group)
        limits = ray_container(group)["resources"]["limits"]
        assert cpus <= amount(limits["cpu"])
        assert gpus == amount(limits.get("nvidia.com/gpu", 0))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_memory_is_reserved_in_full_and_shared_memory_holds_the_object_store(overlay: str) -> None:
    for pod in pods_of(overlay).values():
        for container in containers_of(pod):
            resources = container["resources"]
            assert resources["requests"]["memory"] == resources["limits"]["memory"]
    for group in groups_of(overlay).values():
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        mounted = {mount["mountPath"]: mount["name"] for mount in ray_container(group)["volumeMounts"]}
        shm = volumes[mounted["/dev/shm"]]["emptyDir"]
        assert shm["medium"] == "Memory"
        memory = amount(ray_container(group)["resources"]["limits"]["memory"])
        assert int(group["rayStartParams"]["object-store-memory"]) < amount(shm["sizeLimit"]) < memory / 2


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_disruption_budgets_can_be_computed_and_still_let_a_node_be_drained(overlay: str) -> None:
    groups = workers_of(overlay)
    for budget in of_kind(build(overlay), "PodDisruptionBudget"):
        spec = budget["spec"]
        # Anything but a number of pods needs a controller with a scale, which a RayCluster is not.
        assert type(spec["minAvailable"]) is int
        assert "maxUnavailable" not in spec
        assert 0 < spec["minAvailable"] < groups[spec["selector"]["matchLabels"]["ray.io/group"]]["minReplicas"]
    if overlay == "production":
        assert len(of_kind(build(overlay), "PodDisruptionBudget")) == len(groups)


@pytest.mark.parametrize("overlay", ["gpu", "production"])
def test_workers_are_spread_over_zones_each_cluster_of_an_upgrade_by_itself(overlay: str) -> None:
    for name, group in workers_of(overlay).items():
        constraints = group["template"]["spec"]["topologySpreadConstraints"]
        assert "topology.kubernetes.io/zone" in {constraint["topologyKey"] for constraint in constraints}
        for constraint in constraints:
            assert constraint["labelSelector"]["matchLabels"]["ray.io/group"] == name
            assert constraint["matchLabelKeys"] == ["ray.io/cluster"]


def room_of(group: Manifest) -> tuple[float, float]:
    """CPUs and GPUs that Ray is told of."""
    parameters = group["rayStartParams"]
    return float(parameters["num-cpus"]), float(parameters.get("num-gpus", 0))


Replica = tuple[str, float, float, bool]


def smallest(overlay: str) -> list[Replica]:
    return [
        replica
        for each in deployments_of(overlay)
        for replica in [needs(each)]
        * each.get("autoscaling_config", {}).get("min_replicas", each.get("num_replicas", 1))
    ]


def largest(overlay: str) -> list[Replica]:
    """With those that a rolling update adds (max_surge_percent, rounded up)."""
    replicas = []
    for each in deployments_of(overlay):
        most = each.get("autoscaling_config", {}).get("max_replicas", each.get("num_replicas", 1))
        replicas += [needs(each)] * (most + math.ceil(most * each.get("max_surge_percent", 0) / 100))
    return replicas


def needs(deployment: dict[str, Any]) -> Replica:
    options = deployment["ray_actor_options"]
    one_per_node = deployment.get("max_replicas_per_node") == 1
    return deployment["name"], options["num_cpus"], options.get("num_gpus", 0), one_per_node


def place(workers: list[list[Any]], name: str, cpus: float, gpus: float, one_per_node: bool) -> None:
    """Takes the room of a replica from the first worker that has it."""
    for worker in workers:
        _, free_cpus, free_gpus, held = worker
        if free_cpus >= cpus and free_gpus >= gpus and not (one_per_node and name in held):
            worker[1], worker[2] = free_cpus - cpus, free_gpus - gpus
            held.add(name)
            return
    pytest.fail(f"no room is left for a replica of {name} ({cpus} CPUs, {gpus} GPUs)")
