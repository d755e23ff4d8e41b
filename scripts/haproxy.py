"""Lets the HAProxy of a service finish what it has, before the service stops: Serve itself would kill it at once.

Told so over the socket that Serve opens for itself, HAProxy answers what is in flight and refuses what is new with 503
and when to come again (scripts/haproxy.sh). Once nothing is in flight, it closes its ports.
"""

import os
import re
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

# As Serve names them (ray.serve._private.haproxy_templates).
FRONTENDS = ("http_frontend", "grpc_frontend")
# HAProxy 2.8 counts commands that set variables among its experiments.
REFUSE = "experimental-mode on; set var proc.draining bool(true)"
POLL_S = 0.1
SOCKET_TIMEOUT_S = 5.0
READ_BYTES = 65536


def drain(root: int, timeout_s: float) -> bool:
    """Whether every HAProxy below the process `root` has answered all that it had when this was called, in time.

    True where there is none: then nothing tells what is in flight.
    """
    sockets = {process_id: path for process_id in descendants(root) if (path := admin_socket(process_id))}
    # Those that a newer one has replaced share its socket, and drain already.
    paths = set(sockets.values())
    for path in paths:
        _command(path, REFUSE)
    deadline = time.monotonic() + timeout_s
    while any(_requests(path) for path in paths):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    for process_id in sockets:
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGUSR1)
    return True


def _requests(path: str) -> int:
    """Requests in flight, those included whose body is still on its way."""
    streams = _command(path, "show sess").splitlines()
    return sum(f" fe={name} " in stream for stream in streams for name in FRONTENDS)


def _command(path: str, command: str) -> str:
    """What HAProxy says to it; nothing if it is gone."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SOCKET_TIMEOUT_S)
            connection.connect(path)
            connection.sendall(f"{command}\n".encode())
            answer = b""
            while block := connection.recv(READ_BYTES):
                answer += block
    except OSError:
        return ""
    return answer.decode(errors="replace")


def admin_socket(process_id: int) -> str | None:
    """Where an HAProxy takes commands; None of any other process."""
    arguments = _command_line(process_id)
    if not arguments or Path(arguments[0]).name != "haproxy" or "-f" not in arguments:
        return None
    try:
        configuration = Path(arguments[arguments.index("-f") + 1]).read_text()
    except OSError:
        return None
    found = re.search(r"^ *stats socket (\S+)", configuration, re.MULTILINE)
    return found.group(1) if found else None


def _command_line(process_id: int) -> list[str]:
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(root: int) -> list[int]:
    """The ids of all processes below `root`; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # The name in parentheses may hold anything; behind it come the state and the parent (proc(5)).
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for process_id in found:
        found.extend(children.get(process_id, []))
    return found[1:]
