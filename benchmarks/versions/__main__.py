"""Every change of a model's versions, under a steady load that is checked answer by answer.

    python -m benchmarks.versions [--seconds 90] [--callers 8] [--engine openvino] [--answers 1000]
                                  [--only "split 90/10" ...]

Serves configs/local.yaml with two replicas of each deployment, as `make serve` does, and versions of the bundled model:
one with other weights, one that is corrupt, one whose numbers are wrong, and one that is slow. Each answer is held
against what eager torch says of the version that the answer names. Prints a table and one line of JSON, and ends with
status 1 if a promise was broken. Changes come after one another, so that `--only` takes the first ones of the list.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from scripts.ray_env import production_profile

SECONDS, CALLERS = 90.0, 8
# A tenth of so many is known to within 2.8 %, at three sigmas.
ANSWERS = 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of load at least")
    parser.add_argument("--callers", type=int, default=CALLERS, help="over HTTP; a quarter as many over gRPC besides")
    parser.add_argument("--engine", default="openvino", help="of the model")
    parser.add_argument("--answers", type=int, default=ANSWERS, help="by which a share is measured")
    parser.add_argument("--only", nargs="*", default=[], help="changes whose names begin so")
    args = parser.parse_args()
    # What was started is stopped, whoever ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Ray reads its environment when it is imported, here as in the processes of the service.
    os.environ.update(
        {**production_profile(on_one_machine=True), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
    )
    from benchmarks.versions.report import document, table
    from benchmarks.versions.session import run

    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="aperture-versions-") as folder:
        rows = run(args, Path(folder))
    print(f"\n{table(rows)}\n\n{time.monotonic() - started:.0f} s\n")
    print(document(vars(args), rows))
    return 0 if rows and all(row.is_kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
