"""What each process of the service holds: memory, file descriptors and threads, and what lies in shared memory.

Read from /proc (Linux).
"""

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import PAGE_BYTES, descendants

SHARED_MEMORY = Path("/dev/shm")
# Positions in /proc/PID/stat behind the command (proc(5)).
STATE, PARENT, THREADS, STARTED = 0, 1, 17, 19
# Ray's own names for its processes begin with this; what follows the class is the method that runs.
RAY = "ray::"
# Ray keeps workers ready that do nothing yet, as many as it sees fit.
SPARE = "ray::IDLE"


class Identity(NamedTuple):
    """Numbers of processes are used again; with the moment of the start they are not."""

    process_id: int
    started: int


@dataclass(frozen=True)
class Holding:
    role: str
    resident_bytes: int
    descriptors: int
    threads: int


class Sample(NamedTuple):
    at_s: float
    holding: Holding


@dataclass
class Census:
    """Of all processes below `root`, over time."""

    root: int
    started: float = field(default_factory=time.monotonic)
    series: dict[Identity, list[Sample]] = field(default_factory=dict)

    def take(self) -> dict[Identity, Holding]:
        """What each process holds now; the dead that their parents have not waited for are "defunct".

        But for those of `root`: it inherits whoever loses a parent, and in its place there is usually an init.
        """
        found = dict(filter(None, (_holding(process_id, self.root) for process_id in descendants(self.root))))
        at_s = time.monotonic() - self.started
        for identity, holding in found.items():
            self.series.setdefault(identity, []).append(Sample(at_s, holding))
        return found


def by_role(found: Mapping[Identity, Holding]) -> dict[str, list[Holding]]:
    roles: dict[str, list[Holding]] = {}
    for holding in found.values():
        roles.setdefault(holding.role, []).append(holding)
    return roles


def shared_memory() -> set[str]:
    """The names of what lies in shared memory, whoever made it."""
    return {entry.name for entry in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()


def unused(names: Iterable[str]) -> list[str]:
    """Those of the shared-memory objects that no process of this machine maps: nobody will ever remove them."""
    left = set(names)
    for entry in Path("/proc").iterdir():
        if left and entry.name.isdigit():
            with suppress(OSError):
                maps = (entry / "maps").read_text()
                left = {name for name in left if f"{SHARED_MEMORY}/{name}" not in maps}
    return sorted(left)


def open_kinds(process_ids: Sequence[int]) -> Counter[str]:
    """How many descriptors of these processes are sockets, pipes, other kernel objects, or files."""
    found: Counter[str] = Counter()
    for process_id in process_ids:
        with suppress(OSError):
            for entry in Path(f"/proc/{process_id}/fd").iterdir():
                with suppress(OSError):
                    found[_kind(os.readlink(entry))] += 1
    return found


def _kind(link: str) -> str:
    kind, is_kernels, _ = link.partition(":")
    return {"socket": "sockets", "pipe": "pipes"}.get(kind, "others") if is_kernels else "files"


def _holding(process_id: int, root: int) -> tuple[Identity, Holding] | None:
    directory = Path(f"/proc/{process_id}")
    try:
        stat = (directory / "stat").read_text().rpartition(")")[2].split()
        identity = Identity(process_id, int(stat[STARTED]))
        if stat[STATE] == "Z":
            return None if int(stat[PARENT]) == root else (identity, Holding("defunct", 0, 0, 0))
        resident_bytes = int((directory / "statm").read_text().split()[1]) * PAGE_BYTES
        descriptors = len(os.listdir(directory / "fd"))
        return identity, Holding(_role(directory), resident_bytes, descriptors, int(stat[THREADS]))
    except (OSError, IndexError, ValueError):
        return None  # It has just ended.


def _role(directory: Path) -> str:
    """What a process is for, by its command line: the same for its successor."""
    arguments = [each for each in (directory / "cmdline").read_bytes().decode(errors="replace").split("\0") if each]
    if not arguments:
        return (directory / "comm").read_text().strip()
    if arguments[0].startswith(RAY):
        return arguments[0].split(".")[0].split("(")[0].strip()
    program = Path(arguments[0].split(" ")[0]).name
    if not program.startswith("python"):
        return program
    if "-c" in arguments:
        return f"{program} -c"
    scripts = (each for each in arguments[1:] if not each.startswith("-"))
    return f"{program} {Path(next(scripts, '')).name}".strip()
