"""Large bodies, many at once: what a server holds of them, and how soon it refuses those that are too large.

    python -m benchmarks.large_bodies [--systems Aperture] [--engine openvino]

    at once     fifty uploads of 10 MB, each an image within Aperture's limit (max_body_bytes)
    announced   fifty requests that announce 50 MB and send them until they are answered

What counts is the growth of the server's memory, over all of its processes, what was answered, and how much had been
sent by then. It prints a table and one line of JSON. Two minutes a system.
"""

import argparse
import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks import arguments, systems
from benchmarks.http_client import Target
from benchmarks.load import closed_loop
from benchmarks.measure import HEADERS, PATH, WARM_UP_CALLERS, WARM_UP_S, settle
from benchmarks.pictures import made_up
from benchmarks.processes import descendants, resident_bytes
from benchmarks.report import document
from benchmarks.service import Service
from benchmarks.subjects import model_args
from benchmarks.uploads import Uploaded, upload
from deployments.settings import Limits

AT_ONCE = 50
BODIES = {"at once": Limits().max_body_bytes, "announced": 50 * 2**20}
# Of one request; what takes as long has hung.
TIMEOUT_S = 60.0
SAMPLE_S = 0.1
METRICS = {
    "answered": "200",
    "refused": "413, 503",
    "others": "others",
    "p50_s": "p50 s",
    "slowest_s": "slowest s",
    "most_sent_mb": "most MB sent",
    "memory_mb": "MB before",
    "growth_mb": "most MB more",
}
CELL_WIDTH = 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=[systems.APERTURE], choices=systems.NAMES)
    parser.add_argument("--engine", default="openvino", choices=arguments.ENGINES)
    args = parser.parse_args()
    results = {}
    for name in args.systems:
        print(name, flush=True)
        with systems.start(name, model_args(None, engine=args.engine, precision="fp32"), arguments.CORES) as service:
            results[name] = measure(service)
    print(f"\n{table(results)}\n\n{document('large_bodies', 1, vars(args), results)}")


def measure(service: Service) -> dict[str, dict[str, float]]:
    """Figures by METRICS of each of BODIES."""
    target = Target(f"{service.url}{PATH}", HEADERS)
    settle(service)
    asyncio.run(closed_loop(target, [made_up(0)], WARM_UP_CALLERS, WARM_UP_S))
    found = {}
    for name, body_bytes in BODIES.items():
        settle(service)
        found[name] = asyncio.run(_all_at_once(service, target, body_bytes))
    return found


async def _all_at_once(service: Service, target: Target, body_bytes: int) -> dict[str, float]:
    # Decoders stop at the end of the image, and what follows is carried along.
    image = made_up(0)
    body = image + bytes(body_bytes - len(image))
    processes = descendants(service.parent_id)
    before_bytes = most_bytes = resident_bytes(processes)
    pending = done = {asyncio.create_task(upload(target, body, timeout_s=TIMEOUT_S)) for _ in range(AT_ONCE)}
    while pending:
        most_bytes = max(most_bytes, resident_bytes(processes))
        _, pending = await asyncio.wait(pending, timeout=SAMPLE_S)
    return figures([each.result() for each in done], before_bytes, most_bytes)


def figures(uploads: Sequence[Uploaded], before_bytes: int, most_bytes: int) -> dict[str, float]:
    statuses = Counter(each.status for each in uploads)
    took_s = [each.took_s for each in uploads]
    refused = statuses[413] + statuses[503]
    return {
        "answered": statuses[200],
        "refused": refused,
        "others": len(uploads) - statuses[200] - refused,
        "p50_s": float(np.median(took_s)),
        "slowest_s": max(took_s),
        "most_sent_mb": max(each.sent_bytes for each in uploads) / 1e6,
        "memory_mb": before_bytes / 1e6,
        "growth_mb": (most_bytes - before_bytes) / 1e6,
    }


def table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A block for each of BODIES: a line for each system."""
    return "\n\n".join(_block(load, {name: row[load] for name, row in results.items()}) for load in BODIES)


def _block(load: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    width = max(map(len, [*rows, load])) + 2
    lines = [f"{load:{width}}" + "".join(f"{title:>{CELL_WIDTH}}" for title in METRICS.values())]
    lines += [
        f"{name:{width}}" + "".join(f"{row[key]:>{CELL_WIDTH}.3g}" for key in METRICS) for name, row in rows.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
