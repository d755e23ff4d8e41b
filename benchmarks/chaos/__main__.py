"""Kills and changes under a steady load that is checked answer by answer: `make chaos`.

    python -m benchmarks.chaos [--seconds 180] [--per-second 20] [--seed 0] [--plain] [--only "kill an Ingress" ...]

Starts configs/local.yaml with two replicas of each deployment, as `make serve` does (with --plain as `serve run` does:
Serve's Python proxy in place of HAProxy), plays every scenario, stops it by SIGTERM under load, and prints a table and
one line of JSON. Ends with status 1 if a promise was broken, and takes about ten minutes.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from scripts.ray_env import production_profile

PER_SECOND = 20.0
RANDOM_S = 180.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=RANDOM_S, help="of kills at random")
    parser.add_argument("--per-second", type=float, default=PER_SECOND, help="requests")
    parser.add_argument("--seed", type=int, default=0, help="of what is killed at random, and when")
    parser.add_argument("--plain", action="store_true", help="without configs/ray.env")
    parser.add_argument("--only", nargs="*", default=[], help="scenarios whose names begin so")
    args = parser.parse_args()
    # What was started is stopped, whoever ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Ray reads its environment when it is imported, here as in the processes of the service.
    os.environ.update(_environment(args.plain))
    from benchmarks.chaos.report import document, table
    from benchmarks.chaos.session import run

    with tempfile.TemporaryDirectory(prefix="aperture-chaos-") as folder:
        started = time.monotonic()
        results = asyncio.run(run(args, Path(folder)))
    settings = {"seconds": args.seconds, "per_second": args.per_second, "seed": args.seed, "plain": args.plain}
    print(f"\n{table(results)}\n\n{time.monotonic() - started:.0f} s\n")
    print(document(settings, results))
    return 0 if results and all(row["kept"] for row in results.values()) else 1


def _environment(plain: bool) -> Mapping[str, str]:
    profile = {} if plain else production_profile(on_one_machine=True)
    return {**profile, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}


if __name__ == "__main__":
    sys.exit(main())
