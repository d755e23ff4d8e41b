"""python -m benchmarks.soak: see the package. Ends with status 1 if something does not hold."""

import argparse
import sys
from pathlib import Path

from benchmarks import soak
from benchmarks.service import ROOT
from benchmarks.soak import session, story

MINUTES = 30.0
# Of the samples that say whether memory grows (verdict.LEAST_SAMPLES).
LEAST_MINUTES = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=soak.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=9000)
    parser.add_argument("--seed", type=int, default=0, help="another one asks other things at other moments")
    parser.add_argument("--into", type=Path, default=ROOT / ".cache/benchmarks", help="where report and plot go")
    args = parser.parse_args()
    if args.minutes < LEAST_MINUTES:
        parser.error(f"--minutes must be at least {LEAST_MINUTES:g}.")
    plan = session.Plan(args.minutes, args.http_port, args.grpc_port, args.seed)
    found = session.soak(plan)
    args.into.mkdir(parents=True, exist_ok=True)
    text = f"{story.report(found)}\n\n{story.draw(found, args.into)}\n\n{story.line(plan, found)}"
    (args.into / "soak.txt").write_text(f"{text}\n")
    print(f"\n{text}")
    return 0 if found.holds else 1


if __name__ == "__main__":
    sys.exit(main())
