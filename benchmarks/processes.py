"""The processes that a service consists of, the CPU time that they have taken and their memory, from /proc (Linux)."""

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# prctl(2): whatever our descendants leave behind becomes our child, and not that of process 1. Without it a server
# that detaches itself, as daemons do, would leave the tree and its CPU time with it.
PR_SET_CHILD_SUBREAPER = 36
# Positions in /proc/PID/stat behind the command (proc(5)): state, parent, and times in ticks.
STATE, PARENT, TIMES = 0, 1, slice(11, 15)
POLL_S = 0.1


def adopt_orphans() -> None:
    """From now on `descendants` misses nobody. Raises OSError where the kernel has no such thing."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def descendants(root: int) -> list[int]:
    """The ids of all processes below `root`, the dead that nobody has waited for included."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[PARENT]), []).append(int(entry.name))
    found = [root]
    for process_id in found:
        found.extend(children.get(process_id, []))
    return found[1:]


def cpu_s(process_ids: list[int]) -> float:
    """User and system time so far of these processes, and of those of their children that ended and were waited for."""
    stats = (_stat(process_id) for process_id in process_ids)
    return sum(int(ticks) for fields in stats if fields for ticks in fields[TIMES]) / TICKS_PER_S


def resident_bytes(process_ids: list[int]) -> int:
    """Memory of these processes together; what several of them share counts for each."""
    found = 0
    for process_id in process_ids:
        with suppress(FileNotFoundError, ProcessLookupError):
            found += int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * PAGE_BYTES
    return found


def machine_cpu_s() -> float:
    """User and system time so far of the whole machine, and what its host took away from it."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


def stop_all(process_ids: list[int], timeout_s: float) -> None:
    """Asks each of these processes to end, kills the ones that have not after `timeout_s`, and waits for our own."""
    for number, limit_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, timeout_s)):
        for process_id in process_ids:
            if _is_running(process_id):
                os.kill(process_id, number)
        deadline = time.monotonic() + limit_s
        while any(map(_is_running, process_ids)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
    for process_id in process_ids:
        _forget(process_id)


def _is_running(process_id: int) -> bool:
    fields = _stat(process_id)
    return bool(fields) and fields[STATE] != "Z"


def _forget(process_id: int) -> None:
    with suppress(ChildProcessError):  # Not ours, or gone.
        os.waitpid(process_id, os.WNOHANG)


def _stat(process_id: int) -> list[str]:
    """The fields of /proc/PID/stat behind the command, state first; empty once the process is gone."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
