"""What can become of loading a version, for tests of the process that rehearses it: it imports these by their names."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from deployments.engines.dummy import DummyEngine
from deployments.errors import ConfigError
from deployments.settings import ModelSettings


def crash(settings: ModelSettings, version: int | None) -> DummyEngine:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("It has crashed.")


def be_killed(settings: ModelSettings, version: int | None) -> DummyEngine:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("It has been killed.")


def end(settings: ModelSettings, version: int | None) -> DummyEngine:
    os._exit(3)


def fail(settings: ModelSettings, version: int | None) -> DummyEngine:
    raise ValueError("secret text of the model library")


def run_out_of_memory(settings: ModelSettings, version: int | None) -> DummyEngine:
    raise MemoryError


def print_much(settings: ModelSettings, version: int | None) -> DummyEngine:
    """As libraries do, in Python and in C."""
    print("{not JSON" * 20_000)
    os.write(1, b"\n\n")
    return DummyEngine(settings, version)


class CrashesWhenGivenUp(DummyEngine):
    def __del__(self) -> None:
        os.abort()


def tell(settings: ModelSettings, version: int | None) -> DummyEngine:
    """Refuses with what this process is like, in JSON."""
    told = {
        "settings": settings.model_dump(mode="json"),
        "version": version,
        "modules": [name for name in ("ray", "torch", "uvloop") if name in sys.modules],
        "priority": os.nice(0),
        "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text()),
    }
    raise ConfigError(json.dumps(told))


def hang(settings: ModelSettings, version: int | None) -> DummyEngine:
    """Starts another process, as compilers are, and leaves the ids of both in the file `settings.path`."""
    other = subprocess.Popen(["sleep", "3600"])
    unfinished = Path(f"{settings.path}.tmp")
    unfinished.write_text(f"{os.getpid()} {other.pid}")
    unfinished.rename(str(settings.path))
    time.sleep(3600)
    raise AssertionError("Nobody has ended it.")


def tell_whether_alone(settings: ModelSettings, version: int | None) -> DummyEngine:
    """Refuses the version if another process is doing the same."""
    mark = Path(os.environ["APERTURE_CACHE"]) / "busy"
    mark.mkdir(parents=True)
    # Time enough for a process that started together with this one to come here, too.
    time.sleep(2.0)
    mark.rmdir()
    return DummyEngine(settings)
