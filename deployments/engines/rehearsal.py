"""Loading a version as a rehearsal: in a process of its own, before a replica that serves does the same.

    python -P -m deployments.engines.rehearsal      a request on stdin, an outcome on stdout; one line of JSON each

The process does all that `create_engine` does: it verifies the files, builds what is not in the cache of artefacts yet,
puts the engine before the guard, warms it up, and gives it up again. If native code crashes or memory runs out, it is
this process that ends. What it has built stays, so that the replica loads in a fraction of the time.

It gives way to those that serve: it has a lower priority, is the first that the system ends when memory runs out, and
ends with the process that started it. It does not import Ray.
"""

import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from deployments.engines import create_engine
from deployments.engines.base import Engine
from deployments.engines.cache import cache_root, exclusive
from deployments.errors import ConfigError
from deployments.settings import ModelSettings

logger = logging.getLogger("ray.serve")

ROOT: Final = Path(__file__).resolve().parents[2]
# A tenth of the share of a core that a process of priority 0 gets beside it (sched(7): a factor of 1.25 a step). At 19,
# the lowest, the bundled model, which takes 12 s of a core, was not there after 120 s on two cores that were busy.
NICENESS: Final = 10
# Of proc_pid_oom_score_adj(5): ended before any other.
FIRST_TO_END: Final = 1000
# linux/prctl.h: the signal for this process when the thread that started it has ended.
PR_SET_PDEATHSIG: Final = 1
# Of a sentence; a line on the pipe holds 64 KiB (asyncio.streams).
MAX_REFUSAL_CHARACTERS: Final = 4000

Load = Callable[[ModelSettings, int | None], Engine]


async def rehearse(settings: ModelSettings, version: int, timeout_s: float, load: Load = create_engine) -> None:
    """Returns once the version has been loaded elsewhere and all that `load` builds is in the cache.

    load: a function or class of a module, which the process imports by its name.
    Raises ConfigError with the sentence why it cannot be served: it was refused, it crashed, or it took too long.
    """
    who = f"Version {version} of model {settings.name!r}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-P", "-m", "deployments.engines.rehearsal"]
    # In a session of its own, so that it and whatever it starts, as compilers, are ended together.
    process = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, env=environment, start_new_session=True
    )
    try:
        async with asyncio.timeout(timeout_s):
            answer = await _answer(process, _request(settings, version, load))
            status = await process.wait()
    except TimeoutError:
        raise ConfigError(f"{who} was not loaded within {timeout_s:g} s.") from None
    finally:
        await end_group(process)
    if (refusal := _refusal(who, answer, status)) is not None:
        raise ConfigError(refusal)


def _request(settings: ModelSettings, version: int, load: Load) -> bytes:
    content = {
        "settings": settings.model_dump(mode="json"),
        "version": version,
        "load": [load.__module__, load.__qualname__],
        "parent": os.getpid(),
    }
    return json.dumps(content).encode() + b"\n"


async def _answer(process: Process, request: bytes) -> bytes:
    """A line, or nothing if the process ends before it says anything."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(request)
    with contextlib.suppress(ConnectionError):  # It has ended.
        await process.stdin.drain()
    return await process.stdout.readline()


async def end_group(process: Process) -> None:
    """Ends a process that leads a group, with all of it, if it has not ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _refusal(who: str, answer: bytes, status: int) -> str | None:
    """Why the version cannot be served, or None. What was answered counts, however the process ended after it."""
    if answer:
        refusal: str | None = json.loads(answer)["refusal"]
        return refusal
    if status == -signal.SIGKILL:
        return f"{who} was killed (SIGKILL) while it was loaded, as the system does when memory runs out."
    if status < 0:
        return f"{who} crashed natively ({signal.Signals(-status).name}) while it was loaded."
    return f"{who} ended its process with status {status} while it was loaded."


# In the process itself


def main() -> None:
    # What libraries print goes to the log.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    give_way(request["parent"], NICENESS)
    faulthandler.enable()
    settings, version = ModelSettings.model_validate(request["settings"]), request["version"]
    logging.basicConfig(level=logging.INFO, format=f"%(levelname)s rehearsal of {settings.name} {version}: %(message)s")
    refusal = _load(settings, version, *request["load"])
    answers.write(json.dumps({"refusal": refusal}) + "\n")
    answers.flush()


def _load(settings: ModelSettings, version: int, module: str, name: str) -> str | None:
    who = f"Version {version} of model {settings.name!r}"
    try:
        load: Any = import_module(module)
        for part in name.split("."):
            load = getattr(load, part)
        # The replicas of a machine take turns, so that there is memory and CPU for one and not for all of them; whoever
        # comes second finds in the cache what the first has built.
        with exclusive(cache_root() / f"rehearsing-{settings.name}"):
            engine = load(settings, version)
            # Some libraries crash only then.
            del engine
            gc.collect()
    except ConfigError as refusal:
        return str(refusal)[:MAX_REFUSAL_CHARACTERS]
    except MemoryError:
        return f"{who} ran out of memory while it was loaded."
    except Exception as err:
        logger.exception("It cannot be loaded")
        return f"{who} failed with {type(err).__name__} while it was loaded; the log has the rest."
    return None


def give_way(parent: int, niceness: int) -> None:
    """To everything else on the machine, and ends with the process `parent`, which started this one.

    None of it is there on every system, and all of it can be done without.
    """
    with contextlib.suppress(OSError):
        os.nice(niceness)
    with contextlib.suppress(OSError):
        # Where sessions share the cores, priorities hold only inside each; this is the session's own (sched(7)).
        Path("/proc/self/autogroup").write_text(str(niceness))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_END))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It ended before it could be told to tell.
        os._exit(1)


if __name__ == "__main__":
    main()
