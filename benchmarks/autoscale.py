"""Replicas under a load that comes and goes: Aperture's policy beside Serve's own rule.

    python -m benchmarks.autoscale [--quick] [--into docs/benchmarks]

The same requests go to the same graph, whose model takes a stated time for a batch and no CPU (the dummy engine), so
that many replicas fit on a small machine: few at first, then a step and steady load, few again, nobody, and a few that
find no replica. Latency counts from the moment at which a request was due. It draws load, replicas and p99 over time,
and prints a table and the JSON document of benchmarks.report. Twelve minutes; --quick takes four.
"""

import argparse
import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.autoscale_plot import draw
from benchmarks.http_client import Connection, Target
from benchmarks.load import arrivals
from benchmarks.measure import HEADERS
from benchmarks.overhead import aperture_config, picture
from benchmarks.report import document
from benchmarks.service import Service, running
from scripts.ray_env import production_profile

INTO = Path(__file__).resolve().parent.parent / "docs/benchmarks"
MODEL = "dummy"
BATCH_S, IMAGE_S, MAX_BATCH_SIZE = 0.1, 0.0375, 8  # 20 images/s in full batches
TARGET_LATENCY_S, HOLD_DOWN_S = 1.0, 20.0
LOW, HIGH = 5.0, 60.0  # images/s; the latter are four replicas' work at 0.8 of what they can do
NEEDED = 4
MAX_REPLICAS = 8
# Name, seconds, the same with --quick, images/s. Three minutes of the high load are steady (SETTLING_S).
PHASES = (("low", 15, 10, LOW), ("high", 225, 60, HIGH), ("low again", 45, 35, LOW), ("nobody", 40, 0, 0.0))
WAKING = ("waking up", 15, 0, LOW)
WINDOW_S, TIMEOUT_S = 5.0, 30.0
# Of the steady load, in which replicas start and the queue drains.
SETTLING_S = 45.0
OURS, DEFAULT = "LatencyPolicy", "Serve's rule and defaults"
BOUNDS = {"min_replicas": 0, "initial_replicas": 1, "max_replicas": MAX_REPLICAS}
POLICY = {
    "policy_function": "deployments.autoscaling:LatencyPolicy",
    "policy_kwargs": {"target_latency_s": TARGET_LATENCY_S, "hold_down_s": HOLD_DOWN_S},
}
AUTOSCALING: Mapping[str, dict[str, Any]] = {
    OURS: {
        **BOUNDS,
        **{"metrics_interval_s": 1, "look_back_period_s": 10, "aggregation_function": "max"},
        **{"upscale_delay_s": 0, "downscale_delay_s": 0, "policy": POLICY},
    },
    DEFAULT: {**BOUNDS, "target_ongoing_requests": 1.5 * MAX_BATCH_SIZE},
}


@dataclass(frozen=True)
class Phase:
    name: str
    since_s: float
    until_s: float
    per_second: float


@dataclass(frozen=True)
class Trace:
    """What one run saw: of each request when it was due, how long it took and whether it was answered; and of Serve how
    many replicas ran at a time."""

    due_s: Sequence[float]
    latency_s: Sequence[float]
    failed: Sequence[bool]
    sampled_s: Sequence[float]
    replicas: Sequence[int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a check that it works: shorter, and nothing for zero")
    parser.add_argument("--into", type=Path, default=INTO, help="where the picture goes")
    args = parser.parse_args()
    plan = phases(args.quick)
    traces = {}
    for name, autoscaling in AUTOSCALING.items():
        print(f"{name}: {plan[-1].until_s:.0f} s", flush=True)
        traces[name] = run(autoscaling, plan)
        print(table({name: figures(traces[name], plan)}), flush=True)
    results = {name: figures(trace, plan) for name, trace in traces.items()}
    series = {name: over_time(trace, plan) for name, trace in traces.items()}
    settings = {"quick": args.quick, "phases": [vars(phase) for phase in plan], "target_latency_s": TARGET_LATENCY_S}
    line = document("autoscale", 1, settings, results, series=series)
    args.into.mkdir(parents=True, exist_ok=True)
    print(f"\n{table(results)}\n\n{draw(line, args.into)}\n\n{line}")


def phases(quick: bool) -> list[Phase]:
    plan: list[Phase] = []
    for name, seconds, when_quick, per_second in (*PHASES, WAKING):
        if length_s := when_quick if quick else seconds:
            since_s = plan[-1].until_s if plan else 0.0
            plan.append(Phase(name, since_s, since_s + length_s, per_second))
    return plan


def config(autoscaling: dict[str, Any]) -> dict[str, Any]:
    """The graph of benchmarks.overhead; each image travels alone, since Serve's rule counts calls."""
    made = aperture_config()
    application = made["applications"][0]
    application["args"]["gathering"] = None
    application["args"]["models"][0]["max_batch_size"] = MAX_BATCH_SIZE
    (classifier,) = [one for one in application["deployments"] if one["name"] == MODEL]
    classifier.pop("num_replicas", None)
    classifier["autoscaling_config"] = autoscaling
    classifier["ray_actor_options"] = {"num_cpus": 0.05}
    return made


def run(autoscaling: dict[str, Any], plan: Sequence[Phase]) -> Trace:
    environment = {
        **production_profile(on_one_machine=True),
        "APERTURE_DUMMY_SECONDS": f"{BATCH_S} {IMAGE_S}",
        "RAY_AUTH_MODE": "token",
    }
    with running(config(autoscaling), environment, "/v2/health/ready") as service:
        return asyncio.run(_run(service, plan, environment))


async def _run(service: Service, plan: Sequence[Phase], environment: Mapping[str, str]) -> Trace:
    target = Target(f"{service.url}/predict", HEADERS)
    request, pool = target.encode(picture()), _Pool(target)
    due_s = [
        phase.since_s + at_s
        for number, phase in enumerate(plan)
        if phase.per_second
        for at_s in arrivals(phase.per_second, phase.until_s - phase.since_s, seed=number)
    ]
    async with _sampler(environment) as sampled:
        started = time.perf_counter()
        outcomes = await asyncio.gather(*(_send(pool, request, started, at_s) for at_s in due_s))
        await asyncio.sleep(started + plan[-1].until_s - time.perf_counter())
    pool.close()
    samples = [(at - started, count) for at, count in sampled if at >= started]
    return Trace(
        due_s=due_s,
        latency_s=[latency_s for latency_s, _ in outcomes],
        failed=[failed for _, failed in outcomes],
        sampled_s=[at_s for at_s, _ in samples],
        replicas=[count for _, count in samples],
    )


async def _send(pool: "_Pool", request: bytes, started: float, due_s: float) -> tuple[float, bool]:
    """How long the answer took from `due_s` on, and whether it was something else than 200."""
    await asyncio.sleep(started + due_s - time.perf_counter())
    failed = True
    try:
        async with asyncio.timeout(TIMEOUT_S):
            failed = await pool.exchange(request) != 200
    except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
        pass
    return time.perf_counter() - started - due_s, failed


@asynccontextmanager
async def _sampler(environment: Mapping[str, str]) -> AsyncIterator[list[tuple[float, int]]]:
    """When, and how many replicas of the model were running; it grows until the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.replicas", MODEL), stdout=PIPE, env={**os.environ, **environment}
    )
    assert process.stdout is not None
    samples = [_sample(await process.stdout.readline())]  # Now it is connected.

    async def follow(lines: asyncio.StreamReader) -> None:
        async for line in lines:
            samples.append(_sample(line))

    follower = asyncio.create_task(follow(process.stdout))
    try:
        yield samples
    finally:
        process.terminate()
        await process.wait()
        await follower


def _sample(line: bytes) -> tuple[float, int]:
    at, count = line.split()
    return float(at), int(count)


class _Pool:
    """As many connections as are in use at once."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._idle: list[Connection] = []

    async def exchange(self, request: bytes) -> int:
        """The status of the answer."""
        while self._idle and not self._idle[-1].is_open:
            self._idle.pop().close()
        connection = self._idle.pop() if self._idle else await Connection.open(self._target)
        try:
            response = await connection.exchange(request)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return response.status

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


def figures(trace: Trace, plan: Sequence[Phase]) -> dict[str, float]:
    """NaN has no place in JSON: what never happened within the run is left out."""
    by_name = {phase.name: phase for phase in plan}
    high, low = by_name["high"], by_name["low again"]
    found = {
        "requests": len(trace.due_s),
        "failed": sum(trace.failed),
        "s until enough run": _when(trace, high.since_s, lambda count: count >= NEEDED),
        "most replicas": max(trace.replicas),
        "changes in steady load": _changes(trace, high.since_s + SETTLING_S, high.until_s),
        "p99 s in steady load": _percentile(trace, high.since_s + SETTLING_S, high.until_s, 99),
        "p95 s in steady load": _percentile(trace, high.since_s + SETTLING_S, high.until_s, 95),
        "s until one runs again": _when(trace, low.since_s, lambda count: count <= 1),
        "replica-seconds": float(np.sum(np.diff(trace.sampled_s) * trace.replicas[:-1])),
    }
    if WAKING[0] in by_name:
        found["s until none runs"] = _when(trace, by_name["nobody"].since_s, lambda count: count == 0)
        waking = by_name[WAKING[0]]
        found["slowest s when waking up"] = _percentile(trace, waking.since_s, waking.until_s, 100)
    return {name: round(value, 3) for name, value in found.items() if value is not None}


def _when(trace: Trace, since_s: float, holds: Any) -> float | None:
    """Seconds after `since_s` at which it held first."""
    pairs = zip(trace.sampled_s, trace.replicas, strict=True)
    return next((at_s - since_s for at_s, count in pairs if at_s >= since_s and holds(count)), None)


def _changes(trace: Trace, since_s: float, until_s: float) -> int:
    pairs = zip(trace.sampled_s, trace.replicas, strict=True)
    counts = [count for at_s, count in pairs if since_s <= at_s < until_s]
    return sum(before != after for before, after in pairwise(counts))


def _percentile(trace: Trace, since_s: float, until_s: float, percent: float) -> float | None:
    pairs = zip(trace.due_s, trace.latency_s, strict=True)
    latencies = [latency_s for due_s, latency_s in pairs if since_s <= due_s < until_s]
    return float(np.percentile(latencies, percent)) if latencies else None


def over_time(trace: Trace, plan: Sequence[Phase]) -> dict[str, list[list[float]]]:
    """Points [s, value]: replicas whenever their number changed, and p99 of what was due in each window."""
    replicas = [[0.0, float(trace.replicas[0])]]
    for at_s, count in zip(trace.sampled_s, trace.replicas, strict=True):
        if count != replicas[-1][1]:
            replicas.append([round(at_s, 1), float(count)])
    edges = np.arange(0.0, plan[-1].until_s, WINDOW_S)
    p99 = [(edge, _percentile(trace, edge, edge + WINDOW_S, 99)) for edge in edges]
    return {
        "replicas": replicas,
        "p99_s": [[float(edge + WINDOW_S / 2), round(value, 3)] for edge, value in p99 if value is not None],
    }


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    metrics = list(dict.fromkeys(metric for row in results.values() for metric in row))
    lines = [f"{'':28}" + "".join(f"{name:>28}" for name in results)]
    for metric in metrics:
        cells = (f"{row[metric]:.6g}" if metric in row else "not in this time" for row in results.values())
        lines.append(f"{metric:28}" + "".join(f"{cell:>28}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
