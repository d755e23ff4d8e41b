"""The processes of a cluster by what they do, and the end of one of them."""

import os
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import descendants

# How Ray's workers name themselves (ray._private.worker): "ray::" and the class of the actor, which Serve derives for
# replicas from the application and the deployment.
WORKER = "ray::"
# Held still before the end, so that requests are in it when it comes.
HELD_S = 0.3


@dataclass(frozen=True)
class Target:
    """A process that a scenario ends, as its command line begins, or names its program."""

    title: str
    program: str = ""

    def processes(self, root: int) -> list[int]:
        """The ids of those below the process `root`: never those of another cluster."""
        return [process_id for process_id in descendants(root) if self._is(process_id)]

    def begins(self, title: str) -> bool:
        """The title goes on with the method that runs: "ray::ServeReplica:aperture:shapes.handle_request"."""
        name = WORKER + self.title
        rest = title.removeprefix(name)
        return title.startswith(name) and rest[:1] in ("", ".")

    def _is(self, process_id: int) -> bool:
        arguments = _command_line(process_id)
        if not arguments:
            return False
        return Path(arguments[0]).name == self.program if self.program else self.begins(arguments[0])


def targets(application: str, model: str, *, with_haproxy: bool) -> Mapping[str, Target]:
    """By the name of the scenario."""
    proxies = (
        {
            "HAProxy": Target("", program="haproxy"),
            # Starts HAProxy and gives it its configuration.
            "HAProxy's manager": Target("HAProxyManager"),
            # Where HAProxy sends requests while no Ingress is up.
            "the fallback proxy": Target("ProxyActor"),
        }
        if with_haproxy
        else {"the proxy": Target("ProxyActor")}
    )
    return {
        "a classifier": Target(f"ServeReplica:{application}:{model}"),
        "a Preprocessor": Target(f"ServeReplica:{application}:Preprocessor"),
        "an Ingress": Target(f"ServeReplica:{application}:Ingress"),
        **proxies,
        "the controller": Target("ServeController"),
    }


def kill_one(target: Target, root: int, choose: random.Random) -> tuple[int, float] | None:
    """Ends one of the processes by SIGKILL, with work in its hands: its id, and when (time.monotonic); None if there is
    none to end at the moment."""
    running = target.processes(root)
    if not running:
        return None
    process_id = choose.choice(running)
    try:
        os.kill(process_id, signal.SIGSTOP)
        time.sleep(HELD_S)
        killed = time.monotonic()
        os.kill(process_id, signal.SIGKILL)
    except ProcessLookupError:
        return None
    return process_id, killed


def _command_line(process_id: int) -> list[str]:
    try:
        content = Path(f"/proc/{process_id}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    # A process that has ended and that nobody waited for has none.
    return content.decode(errors="replace").rstrip("\0 ").split("\0") if content.strip(b"\0 ") else []
