"""Feeds targets with bytes until something escapes that no client should see, or the time of each is over.

    python -m tests.fuzz [TARGET ...] [--seconds 60] [--seed 1] [--plain]

Without a target, all of them in turn. With atheris, which follows what each input reaches; without it, or with --plain,
by chance. The status is 0 if nothing was found. What was found is written to crash-*, as libFuzzer does. An input may
take TIMEOUT_S and MEMORY_BYTES.
"""

import argparse
import hashlib
import importlib
import importlib.util
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.mutation import MAX_BYTES, inputs

CORPUS = Path(__file__).parent / "corpus"
# Targets that begin with the same inputs; the others have a directory of their own name.
SHARED = {"header": "pictures", "decoder": "pictures", "tf_json": "json", "json_bodies": "json"}
# Of one input on a busy machine; most take less than a millisecond.
TIMEOUT_S = 10
# On top of what the process has when it begins.
MEMORY_BYTES = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="by chance, even if atheris is installed")
    args = parser.parse_args()
    if args.plain or importlib.util.find_spec("atheris") is None:
        by_chance(args.targets, args.seconds, args.seed)
    else:
        guided(args.targets, args.seconds, args.seed)


def corpus_of(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(directory_of(target).iterdir())]


def directory_of(target: str) -> Path:
    return CORPUS / SHARED.get(target, target)


def by_chance(names: Sequence[str], seconds: float, seed: int) -> None:
    from tests.fuzz.targets import TARGETS, prepare

    prepare()
    _limit_memory()
    for name in names or TARGETS:
        corpus, ends = corpus_of(name), time.monotonic() + seconds
        count, slowest_s = 0, 0.0
        for data in inputs(corpus, seed):
            # All of the corpus in any case.
            if count >= len(corpus) and time.monotonic() > ends:
                break
            slowest_s = max(slowest_s, _seconds_of(TARGETS[name], name, data))
            count += 1
        print(f"{name}: {count} inputs, the slowest in {slowest_s:.3f} s, nothing found", flush=True)


def guided(names: Sequence[str], seconds: float, seed: int) -> None:
    # Not among the requirements, and without types.
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["deployments", "PIL", "python_multipart", "starlette"]):
        from tests.fuzz.targets import TARGETS, prepare
    if len(names) != 1:  # libFuzzer ends its process.
        for name in names or TARGETS:
            command = [sys.executable, "-m", "tests.fuzz", name, f"--seconds={seconds}", f"--seed={seed}"]
            subprocess.run(command, check=True)
        return
    (name,) = names
    prepare()
    bounds = [f"-max_total_time={seconds:.0f}", f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_BYTES >> 20}"]
    # New inputs are kept in the first directory.
    found = Path(".cache/fuzz") / name
    found.mkdir(parents=True, exist_ok=True)
    options = [*bounds, f"-seed={seed}", f"-max_len={MAX_BYTES}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(found), str(directory_of(name))], TARGETS[name])
    atheris.Fuzz()


def _seconds_of(target: Callable[[bytes], None], name: str, data: bytes) -> float:
    signal.alarm(TIMEOUT_S)  # Ends the process, whatever it is at.
    started = time.monotonic()
    try:
        target(data)
    except BaseException:
        path = Path(f"crash-{name}-{hashlib.sha256(data).hexdigest()[:16]}")
        path.write_bytes(data)
        print(f"{name}: {path}", file=sys.stderr)
        raise
    signal.alarm(0)
    return time.monotonic() - started


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main()
