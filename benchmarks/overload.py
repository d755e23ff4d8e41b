"""Past capacity: what users still get in time when more ask than a server can answer, and what becomes of the others.

    python -m benchmarks.overload [--seconds 12] [--rounds 3] [--systems Aperture mosec] [--photos DIR] [--into DIR]

The servers of benchmarks.compare, set up as there, on the same ResNet-18 (fp32). Each round starts them one after the
other, in rotating order, measures the capacity of each (32 callers in a closed loop, no deadline), and then offers it
0.8, 1, 2 and 4 times that in open loops, with a deadline of 1 s for each request from the moment at which it was due.

The deadline goes along in x-request-timeout-seconds, which only Aperture understands, and everybody's client keeps it:
an answer that comes later is late, and the client hangs up after one more second, so that what is offered stays
bounded. Goodput are the answers in time that came per second once the first deadline has passed, and until no more is
offered. A refusal is a 503 or 429; a 408 says that the deadline has passed; lost is what no answer came to.

It prints a table, whether Aperture meets the targets, and one line of JSON, and draws goodput over offered load. Four
systems and three rounds take half an hour.
"""

import argparse
import asyncio
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import arguments, systems
from benchmarks.compare import rotated
from benchmarks.http_client import Target
from benchmarks.load import Outcome, closed_loop, open_loop
from benchmarks.measure import HEADERS, PATH, WARM_UP_CALLERS, WARM_UP_S, settle
from benchmarks.overload_figures import (
    CAPACITY,
    DEADLINE_S,
    GRACE_S,
    LOADS,
    capacity_figures,
    load_figures,
    table,
    verdicts,
)
from benchmarks.overload_plot import draw
from benchmarks.pictures import photographs
from benchmarks.processes import descendants, resident_bytes
from benchmarks.report import document, summarize
from benchmarks.service import Service
from benchmarks.subjects import model_args

INTO = Path(__file__).resolve().parent.parent / "docs/benchmarks"
SECONDS, ROUNDS = 12.0, 3
# The least for which a second of start leaves anything to count.
LEAST_SECONDS = 3.0
CALLERS = 32
# The deadline and the grace times four times what two cores could do with the fastest model: nobody waits for one.
MAX_CONNECTIONS = 1024
SAMPLE_S = 0.25


def main() -> None:
    args = _arguments()
    bodies, model = photographs(args.photos), model_args(None, engine=args.engine, precision="fp32")
    rows: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in args.systems}
    with tqdm(total=args.rounds * len(args.systems), desc="overload", unit="system") as bar:
        for number in range(args.rounds):
            for name in rotated(args.systems, number):
                bar.set_postfix_str(f"round {number + 1}, {name}")
                with systems.start(name, model, arguments.CORES) as service:
                    rows[name].append(measure(service, bodies, args.seconds, seed=number))
                bar.update()
    results = {name: summarize(found) for name, found in rows.items()}
    targets = verdicts(results.get(systems.APERTURE, {}))
    line = document("overload", args.rounds, _settings(args), results, targets=targets)
    args.into.mkdir(parents=True, exist_ok=True)
    print(f"\n{table(results)}\n\n{told(targets)}\n\n{draw(line, args.into)}\n\n{line}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each load")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="medians are over this many")
    parser.add_argument("--systems", nargs="+", default=systems.NAMES, choices=systems.NAMES)
    parser.add_argument("--photos", help="a folder of pictures to send; default: made-up ones of 500 x 375")
    parser.add_argument("--engine", default="openvino", choices=arguments.ENGINES)
    parser.add_argument("--into", type=Path, default=INTO, help="where the picture goes")
    args = parser.parse_args()
    if args.seconds < LEAST_SECONDS:
        parser.error(f"--seconds must be at least {LEAST_SECONDS:g}.")
    return args


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    asked = {key: value for key, value in vars(args).items() if key != "into"}
    fixed = {"precision": "fp32", "deadline_s": DEADLINE_S, "grace_s": GRACE_S, "callers": CALLERS}
    return asked | fixed | {"model": "made-up ResNet-18", "photos": "given" if args.photos else "made up"}


def measure(service: Service, bodies: Sequence[bytes], seconds: float, *, seed: int) -> dict[str, dict[str, float]]:
    """Figures (overload_figures.METRICS) by load. Raises RuntimeError if the system answers nothing without haste."""
    target = Target(f"{service.url}{PATH}", HEADERS)
    hurried = Target(target.url, {**HEADERS, "x-request-timeout-seconds": f"{DEADLINE_S:g}"})
    settle(service)
    asyncio.run(closed_loop(target, bodies, WARM_UP_CALLERS, WARM_UP_S))
    with _costs(service) as costs:
        outcome = asyncio.run(_sampled(closed_loop(target, bodies, CALLERS, seconds), costs))
    if not outcome.latencies_s:
        raise RuntimeError(f"{service.url} answered none of the requests: {dict(outcome.statuses)}.")
    row = {CAPACITY: capacity_figures(outcome) | costs.figures()}
    for load, factor in LOADS.items():
        settle(service)  # Nobody starts with what an earlier load has left.
        offered = open_loop(
            hurried,
            bodies,
            factor * outcome.per_second,
            seconds,
            seed=seed,
            timeout_s=DEADLINE_S + GRACE_S,
            max_connections=MAX_CONNECTIONS,
        )
        with _costs(service) as costs:
            found = asyncio.run(_sampled(offered, costs))
        row[load] = load_figures(found, seconds, capacity_per_second=outcome.per_second) | costs.figures()
    return row


class Costs:
    """Of one load: the most memory that the service had, and the CPU that the load generator itself took."""

    def __init__(self, service: Service) -> None:
        self._processes = descendants(service.parent_id)
        self._started, self._began_s = time.perf_counter(), time.process_time()
        self._most_bytes = resident_bytes(self._processes)
        self._generator_cores = 0.0

    def sample(self) -> None:
        self._most_bytes = max(self._most_bytes, resident_bytes(self._processes))

    def end(self) -> None:
        self._generator_cores = (time.process_time() - self._began_s) / (time.perf_counter() - self._started)

    def figures(self) -> dict[str, float]:
        return {"memory_mb": self._most_bytes / 1e6, "generator_cores": self._generator_cores}


@contextmanager
def _costs(service: Service) -> Iterator[Costs]:
    costs = Costs(service)
    yield costs
    costs.end()


async def _sampled(load: Coroutine[Any, Any, Outcome], costs: Costs) -> Outcome:
    async def sample() -> None:
        while True:
            costs.sample()
            await asyncio.sleep(SAMPLE_S)

    sampler = asyncio.create_task(sample())
    try:
        return await load
    finally:
        sampler.cancel()


def told(targets: Mapping[str, Mapping[str, Any]]) -> str:
    lines = (
        f"{'met' if each['met'] else 'MISSED':7} {name}: {each['found']:.3g} ({each['bound']})"
        for name, each in targets.items()
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
