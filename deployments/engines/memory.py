"""Whether there is room for a version, asked before anything of it is loaded.

The estimate goes by the size of its weights on disk; what is free is the least of what the machine says and what each
control group says that this process is in, and on a GPU what the driver says. Where nothing is said, the load begins.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deployments.engines.golden import GOLDEN
from deployments.engines.hardware import choose_device
from deployments.errors import ConfigError
from deployments.settings import ModelSettings

# The peak of a first load, which converts the model, in MiB of a process's own memory (RssAnon; copies of files are not
# counted, which the system gives up when it has to), batches of 8, torch 2.15:
#
#     model          weights   openvino   onnxruntime   torch
#     the bundled      1          518         539        449
#     ResNet-18       45          648         805        662
#     ResNet-50       98          871        1064        925
#     AlexNet        233          951        1322        956
#
# A later load, which finds what it needs in the cache, took 66 to 303 where it needs no torch. The estimate is that of
# a first load, whether it is one or not.
BYTES_PER_WEIGHT_BYTE: Final = 4
BYTES_OF_LIBRARIES: Final = 700 * 2**20
# Ray ends workers once 95 % of the memory are used (RAY_memory_usage_threshold); as much again is for requests.
RESERVE_SHARE: Final = 0.1
# Control groups of version 1 say a number near 2^63 where they have no limit.
NO_LIMIT: Final = 2**60


@dataclass(frozen=True)
class Room:
    """Of one kind of memory, in bytes."""

    where: str
    total: int
    free: int  # what is only kept because nobody needs its place, as copies of files, included


def check_fits(
    settings: ModelSettings,
    version: int,
    reserve_share: float = RESERVE_SHARE,
    proc: Path = Path("/proc"),
    cgroups: Path = Path("/sys/fs/cgroup"),
) -> None:
    """Raises ConfigError with the figures if loading the version would take more than is free.

    reserve_share: of all memory, what is left free. The paths are those of proc(5) and cgroups(7).
    """
    if settings.engine == "dummy":
        return
    needed = needed_bytes(settings, version)
    for room in _rooms(settings, proc, cgroups):
        reserve = int(reserve_share * room.total)
        if needed > room.free - reserve:
            raise ConfigError(
                f"Version {version} of model {settings.name!r} takes about {_megabytes(needed)} to load, but "
                f"{room.where} has {_megabytes(room.free)} free, of which {_megabytes(reserve)} are kept in reserve."
            )


def needed_bytes(settings: ModelSettings, version: int) -> int:
    """What loading the version takes at its peak, in the process that takes more of it."""
    return BYTES_OF_LIBRARIES + BYTES_PER_WEIGHT_BYTE * _weight_bytes(settings, version)


def _weight_bytes(settings: ModelSettings, version: int) -> int:
    """Of all files of the version but its golden pictures, whatever its format. What is not there has none."""
    if settings.path is None:
        return _size(Path(settings.weights or ""))
    total = 0
    for folder, subfolders, names in os.walk(Path(settings.path) / str(version)):
        if GOLDEN in subfolders:
            subfolders.remove(GOLDEN)
        total += sum(_size(Path(folder) / name) for name in names)
    return total


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:
        return 0


def _rooms(settings: ModelSettings, proc: Path, cgroups: Path) -> Iterator[Room]:
    yield from _machine(proc)
    yield from _control_groups(proc, cgroups)
    if choose_device(settings) == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info()
        yield Room("the GPU", total, free)


def _machine(proc: Path) -> Iterator[Room]:
    fields = _fields(proc / "meminfo")
    if "MemTotal:" in fields and "MemAvailable:" in fields:
        yield Room("this machine", fields["MemTotal:"] * 2**10, fields["MemAvailable:"] * 2**10)


def _control_groups(proc: Path, cgroups: Path) -> Iterator[Room]:
    """Those of this process and all above them, as far as they can be seen."""
    try:
        lines = [line.split(":", 2) for line in (proc / "self" / "cgroup").read_text().splitlines()]
    except OSError:
        return
    for line in lines:
        if len(line) < 3:
            continue
        _, controllers, path = line
        if not controllers:  # Version 2.
            for folder in _upwards(cgroups, path):
                yield from _group(folder, "memory.max", "memory.current", ("inactive_file", "active_file"))
        elif "memory" in controllers.split(","):
            for folder in _upwards(cgroups / "memory", path):
                cached = ("total_inactive_file", "total_active_file")
                yield from _group(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", cached)


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """In a container the path may be that of the host, of which nothing is there but the root."""
    names = [name for name in path.split("/") if name not in ("", "..")]
    for depth in range(len(names), -1, -1):
        yield root.joinpath(*names[:depth])


def _group(folder: Path, limit_file: str, usage_file: str, cached: tuple[str, str]) -> Iterator[Room]:
    limit, usage = _number(folder / limit_file), _number(folder / usage_file)
    if limit is None or usage is None or limit >= NO_LIMIT:
        return
    fields = _fields(folder / "memory.stat")
    yield Room("its container", limit, limit - usage + sum(fields.get(key, 0) for key in cached))


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max": there is no limit.
        return None


def _fields(file: Path) -> dict[str, int]:
    """Of lines like `MemTotal:  1024 kB` and `inactive_file 4096`."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}


def _megabytes(count: int) -> str:
    return f"{max(0, count) / 2**20:.0f} MiB"
