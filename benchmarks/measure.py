"""One system under all loads: callers that wait for their answers, and requests that come when they come."""

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from benchmarks.http_client import Target
from benchmarks.load import Outcome, closed_loop, open_loop
from benchmarks.processes import machine_cpu_s
from benchmarks.service import Service

CALLERS = (1, 8, 32)
# Of what the system answers to the most callers: busy, but not so that a queue must grow.
SHARE = 0.6
SHARE_LOAD = f"{SHARE:.0%} of c={CALLERS[-1]}"
WARM_UP_S = 3.0
WARM_UP_CALLERS = 8
# A system has settled when it takes less than this: workers that start late are still loading their model.
SETTLED_CORES = 0.5
SETTLE_TIMEOUT_S = 30.0
HEADERS = {"Content-Type": "application/octet-stream"}
PATH = "/predict"


def loads(fixed_per_second: float | None) -> list[str]:
    """What `measure` measures, by the names under which it reports it."""
    fixed = [] if fixed_per_second is None else [f"{fixed_per_second:g}/s"]
    return [*(f"c={callers}" for callers in CALLERS), *fixed, SHARE_LOAD]


def measure(
    service: Service,
    pictures: Sequence[bytes],
    seconds: float,
    *,
    fixed_per_second: float | None = None,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, dict[str, float]]:
    """Figures (report.METRICS) by load; `progress` is called after each. Raises RuntimeError if all requests fail."""
    target = Target(f"{service.url}{PATH}", HEADERS)
    settle(service)
    asyncio.run(closed_loop(target, pictures, WARM_UP_CALLERS, WARM_UP_S))
    row: dict[str, dict[str, float]] = {}
    for callers in CALLERS:
        row[f"c={callers}"] = figures(service, partial(closed_loop, target, pictures, callers, seconds))
        progress()
    rates = {SHARE_LOAD: SHARE * row[f"c={CALLERS[-1]}"]["per_second"]}
    if fixed_per_second is not None:
        rates = {f"{fixed_per_second:g}/s": fixed_per_second, **rates}
    for load, rate in rates.items():
        row[load] = figures(service, partial(open_loop, target, pictures, rate, seconds, seed=seed))
        progress()
    return row


def figures(service: Service, run: Callable[[], Coroutine[Any, Any, Outcome]]) -> dict[str, float]:
    """What one run saw and cost. Raises RuntimeError if nothing was answered."""
    before_s = _clocks(service)
    outcome = asyncio.run(run())
    service_s, machine_s, own_s = (after - before for before, after in zip(before_s, _clocks(service), strict=True))
    if not outcome.latencies_s:
        raise RuntimeError(f"{service.url} answered none of the requests: {dict(outcome.statuses)}.")
    return {
        "per_second": outcome.per_second,
        "p50_ms": outcome.percentile_ms(50),
        "p99_ms": outcome.percentile_ms(99),
        "cpu_ms": service_s * 1000 / len(outcome.latencies_s),
        "failed": outcome.failed,
        "others_cores": max(0.0, machine_s - service_s - own_s) / outcome.elapsed_s,
    }


def _clocks(service: Service) -> tuple[float, float, float]:
    """CPU seconds so far of the service, the whole machine, and this process."""
    return service.cpu_s(), machine_cpu_s(), time.process_time()


def settle(service: Service) -> None:
    """Waits until the system idles, or as long as is sensible."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while time.monotonic() < deadline:
        before_s = service.cpu_s()
        time.sleep(1)
        if service.cpu_s() - before_s < SETTLED_CORES:
            return


def answer(service: Service, picture: bytes) -> list[dict[str, Any]]:
    """The five most probable classes: label, index, probability."""
    request = urllib.request.Request(f"{service.url}{PATH}", data=picture, headers=HEADERS)
    with urllib.request.urlopen(request, timeout=60) as response:
        predictions: list[dict[str, Any]] = json.load(response)["predictions"]
    return predictions
