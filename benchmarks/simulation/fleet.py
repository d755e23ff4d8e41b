"""From replicas to nodes, clusters and money, and the limits of what stands around the replicas.

Every limit says where it comes from: Serve 2.60's own settings, Ray's own experiments, a measurement here, or an
assumption that a flag of benchmarks.capacity replaces.
"""

import math
from dataclasses import dataclass

from benchmarks.simulation.plan import Plan
from benchmarks.simulation.shape import CLASSIFIER, DEPLOYMENTS, INGRESS

SECONDS_AN_HOUR, MILLION = 3600, 1e6
# Of each node, for Ray's and Serve's own processes and HAProxy; an assumption, above the 0.2 that an idle node with the
# head takes here (docs/lab-notes.md).
SYSTEM_CORES = 1
# RAY_SERVE_HAPROXY_MAXCONN, Serve 2.60.
PROXY_CONNECTIONS = 4096
# Above it, Ray's controller experiment (ray-project/ray, issue 60680) calls for changes to Serve; its later benchmarks
# (pull requests 62211 and 65371) go to 4096 and 8192 idle replicas.
REPLICAS_A_CLUSTER = 1000


@dataclass(frozen=True)
class NodeKind:
    """A machine that one can rent. No price means that none was given."""

    cores: int
    gpus: int = 0
    price_per_hour: float | None = None


@dataclass(frozen=True)
class Fleet:
    cpu_nodes: int
    gpu_nodes: int
    gpus: int
    clusters: int  # each with a head node besides, of the kind of the CPU nodes
    cost_per_million: float | None
    limits: tuple[str, ...]

    @property
    def nodes(self) -> int:
        return self.cpu_nodes + self.gpu_nodes + self.clusters


def fleet(
    plan: Plan,
    cpu_node: NodeKind,
    gpu_node: NodeKind | None,
    *,
    replicas_a_cluster: int = REPLICAS_A_CLUSTER,
    image_kb: float,
    pixels_kb: float,
) -> Fleet:
    """The fewest nodes on which the plan's replicas find their cores and GPUs. Raises ValueError if a replica is larger
    than a node."""
    cores, on_gpu = plan.cell.cores, plan.cell.on_gpu
    replicas = plan.replicas
    on_cpu_nodes = [name for name in DEPLOYMENTS if not (on_gpu and name == CLASSIFIER)]
    cpu_nodes = _cpu_nodes([(cores[name], replicas[name]) for name in on_cpu_nodes], cpu_node)
    gpus = replicas[CLASSIFIER] if on_gpu else 0
    gpu_nodes = _gpu_nodes(gpus, cores[CLASSIFIER], gpu_node)
    clusters = max(1, math.ceil(sum(replicas.values()) / replicas_a_cluster))
    cost = _cost(plan.demand.images_per_second, cpu_node, cpu_nodes + clusters, gpu_node, gpu_nodes)
    limits = _limits(plan, clusters, image_kb, pixels_kb)
    return Fleet(cpu_nodes, gpu_nodes, gpus, clusters, cost, limits)


def _cpu_nodes(wanted: list[tuple[int, int]], node: NodeKind) -> int:
    """For (cores, replicas), the largest first into the first node with room, counted and not tried one by one."""
    room = node.cores - SYSTEM_CORES
    free: dict[int, int] = {}  # cores left on a node: how many nodes
    for cores, count in sorted(wanted, reverse=True):
        if cores > room:
            raise ValueError(f"A replica needs {cores} cores; a node of {node.cores} has {room} for replicas.")
        for left in sorted(free):
            count = _fill(free, left, cores, count)
        nodes, rest = divmod(count, room // cores)
        for replicas, number in ((room // cores, nodes), (rest, 1 if rest else 0)):
            left = room - replicas * cores
            free[left] = free.get(left, 0) + number
    return sum(free.values())


def _fill(free: dict[int, int], left: int, cores: int, count: int) -> int:
    """Puts what it can of `count` replicas onto the nodes with `left` cores; how many remain."""
    each = left // cores
    if each == 0 or count == 0 or free[left] == 0:
        return count
    nodes = min(free[left], math.ceil(count / each))
    placed = min(count, nodes * each)
    full, rest = divmod(placed, each)
    free[left] -= nodes
    for replicas, number in ((each, full), (rest, 1 if rest else 0)):
        free[left - replicas * cores] = free.get(left - replicas * cores, 0) + number
    return count - placed


def _gpu_nodes(gpus: int, cores: int, node: NodeKind | None) -> int:
    if gpus == 0:
        return 0
    if node is None or node.gpus == 0:
        raise ValueError("Replicas on GPUs need a kind of node that has some.")
    each = min(node.gpus, (node.cores - SYSTEM_CORES) // cores)
    if each == 0:
        raise ValueError(f"A GPU node of {node.cores} cores has none left for a replica.")
    return math.ceil(gpus / each)


def _cost(
    images_per_second: float, cpu_node: NodeKind, cpu_nodes: int, gpu_node: NodeKind | None, gpu_nodes: int
) -> float | None:
    """Of a million images at the planned rate, or None if a price is missing."""
    gpu_price = 0.0 if gpu_nodes == 0 else None if gpu_node is None else gpu_node.price_per_hour
    if cpu_node.price_per_hour is None or gpu_price is None:
        return None
    per_hour = cpu_nodes * cpu_node.price_per_hour + gpu_nodes * gpu_price
    return per_hour / (images_per_second * SECONDS_AN_HOUR) * MILLION


def _limits(plan: Plan, clusters: int, image_kb: float, pixels_kb: float) -> tuple[str, ...]:
    """What else there is to see to, in sentences with their figures."""
    rate, requests = plan.demand.images_per_second, plan.demand.images_per_second / plan.demand.images_per_request
    ingresses, replicas = plan.replicas[INGRESS], sum(plan.replicas.values())
    mean_s = float(plan.found.latencies_s.mean())
    # Little's law: requests that are open at once, each on a connection of its own.
    connections = requests * mean_s
    # In from the client and on to a Preprocessor; back as pixels and on to a Classifier.
    through_kb = 2 * image_kb + 2 * pixels_kb
    said = [
        f"Connections: {connections:.0f} requests are open at once (Little's law); HAProxy takes {PROXY_CONNECTIONS} a "
        f"node (Serve 2.60), so at least {math.ceil(connections / PROXY_CONNECTIONS)} node(s) with an Ingress.",
        f"Network: {rate * through_kb / 1000 * 8 / 1000:.1f} Gbit/s pass through {ingresses} Ingress replicas "
        f"({through_kb:.0f} KB an image), {rate * through_kb * 8 / 1000 / ingresses:.0f} Mbit/s each.",
    ]
    if clusters > 1:
        said.append(
            f"Control plane: {replicas} replicas are more than one cluster should hold; {clusters} clusters of "
            f"{math.ceil(replicas / clusters)}, with a load balancer in front."
        )
    return tuple(said)
