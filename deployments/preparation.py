"""What becomes of a version before it serves: found on disk, and loaded, first or beside others that serve.

Beside others it is loaded as a rehearsal first (engines/rehearsal.py), in a process of its own that gives way to this
one and whose crash is not this one's. It leaves what it built in the cache, so that the rest takes little time here.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from deployments.batching import MergeGate
from deployments.engines import create_engine
from deployments.engines.base import Engine
from deployments.engines.memory import check_fits
from deployments.engines.rehearsal import rehearse
from deployments.errors import ConfigError
from deployments.messages import Logits, Pixels
from deployments.metrics import count_load
from deployments.recent import RecentBatches
from deployments.repository import versions_on_disk
from deployments.served import CountsBatches, ServedVersion
from deployments.settings import ModelSettings
from deployments.statistics import BatchStatistics
from deployments.versions import Fingerprint
from deployments.watchdog import Watchdog
from deployments.work_spans import Traced
from deployments.workload import Workload

# The first load of a large model compiles for many minutes where nothing is cached.
REHEARSAL_TIMEOUT_S: Final = 1800.0
# Of a model that has no directory with versions in it.
ONLY_VERSION: Final = 1


class Preparation:
    def __init__(
        self,
        settings: ModelSettings,
        load: Callable[[ModelSettings, int | None], Engine],
        watchdog: Watchdog,
        workload: Workload,
    ) -> None:
        self.max_batch_size = settings.max_batch_size
        # What each version has run so far, whatever has become of it.
        self.batches: dict[int, BatchStatistics] = {}
        # And what any of them has run in the last minute.
        self.recent = RecentBatches()
        self._settings = settings
        self._create = load
        self._watchdog = watchdog
        self._workload = workload
        self._gates: list[MergeGate[Pixels | Traced, Logits]] = []

    def on_disk(self) -> Mapping[int, Fingerprint]:
        """The versions that there are, with what changes when their files do. Raises ConfigError."""
        if self._settings.path is None:
            return {ONLY_VERSION: None}
        root = Path(self._settings.path)
        return {version: _fingerprint(root / str(version)) for version in versions_on_disk(self._settings.path)}

    def load(self, version: int) -> ServedVersion:
        """Blocks. Raises ConfigError with the reason why it cannot be served."""
        with self._counted():
            return self._load(version)

    def _load(self, version: int) -> ServedVersion:
        if self._settings.path is not None:
            check_fits(self._settings, version)
            # Where a version could end this process, another one may do instead of it.
            if self._is_rehearsed() and len(versions_on_disk(self._settings.path)) > 1:
                # Not on this thread, which may have an event loop.
                with ThreadPoolExecutor(1) as thread:
                    thread.submit(asyncio.run, rehearse(self._settings, version, REHEARSAL_TIMEOUT_S)).result()
        return self._made_of(version)

    async def load_beside(self, version: int) -> ServedVersion:
        """As `load`, while others serve."""
        with self._counted():
            if self._settings.path is not None:
                await asyncio.to_thread(check_fits, self._settings, version)
            if self._is_rehearsed():
                await rehearse(self._settings, version, REHEARSAL_TIMEOUT_S)
            served = await asyncio.to_thread(self._made_of, version)
        served.gate.max_batch_size = self.max_batch_size
        return served

    def queue_s(self) -> float:
        """How long all images together have waited so far."""
        return sum(gate.queue_s for gate in self._gates)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except ConfigError:
            count_load(self._settings.name, "refused")
            raise
        count_load(self._settings.name, "loaded")

    def _is_rehearsed(self) -> bool:
        # What makes engines in tests does so in this process alone, and a GPU has no room for a second one's libraries.
        return self._create is create_engine and self._settings.engine != "dummy" and self._settings.device != "cuda"

    def _made_of(self, version: int) -> ServedVersion:
        engine = self._create(self._settings, version)
        counted: list[CountsBatches] = [
            self._workload.batches,
            self.batches.setdefault(version, BatchStatistics()),
            self.recent,
        ]
        try:
            served = ServedVersion(engine, self._settings, self._watchdog.batch, counted)
        except Exception as err:
            raise ConfigError(f"Version {version} of model {self._settings.name!r} fails: {err}.") from err
        self._watchdog.allow(served.hang_timeout_s)
        self._workload.runners = max(self._workload.runners, served.runners)
        self._gates.append(served.gate)
        return served


def _fingerprint(directory: Path) -> Fingerprint:
    """Of the names, sizes and times of the files below."""
    stats = set()
    for file in (Path(folder) / name for folder, _, names in os.walk(directory) for name in names):
        # Who copies a version gives its files other names in the end.
        with suppress(FileNotFoundError):
            stat = file.stat()
            stats.add((str(file), stat.st_size, stat.st_mtime_ns))
    return frozenset(stats)
