"""Service times from what the benchmarks printed, each from a measurement of its own: none is fitted to the runs of the
whole service that the simulation is to predict.

    benchmarks.engines      how long a batch takes, on one thread with nothing beside it; and what other busy cores add
    benchmarks.preprocess   how long decoding takes
    benchmarks.overhead     what a request through all hops costs besides, on the dummy engine
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.simulation import runs
from benchmarks.simulation.runs import Found
from benchmarks.simulation.service_times import (
    CALL_S,
    COLD_WAKE_S,
    DECODE_MEDIAN_S,
    DEFAULT_HOPS,
    ENGINE_BATCHES,
    ENGINE_LIMITS,
    IDLE_CORES,
    MS,
    PROFILE_CPU_MS,
    BatchTimes,
    HopTimes,
    ServiceTimes,
)
from benchmarks.simulation.shape import CLASSIFIER, PREPROCESSOR, Shape

Document = Mapping[str, Any]  # of benchmarks.report
OVERHEAD_SYSTEM = "Aperture, configs/ray.env"
# Reading the uncompressed picture of benchmarks.overhead, which stands where decoding would.
BITMAP_S = 0.2 * MS
# What the dummy engine takes: nothing, to the clock.
DUMMY_BATCHES = BatchTimes({1: 1e-6})
ROUNDS_OF_FIT, FIT_S = 8, 4.0
BEHIND = (PREPROCESSOR, CLASSIFIER)
# 90th percentiles by medians of CPU times on one thread: of 40 photographs of 500 x 375, and of ResNet-18 again and
# again (150 batches of 1 over four minutes: standard deviation of the logarithm 0.118). docs/scaling.md has more.
DECODE_P90_RATIO, ENGINE_P90_RATIO = 1.39, 1.16


def default_times() -> ServiceTimes:
    """Of the machine of docs/benchmarks.md: ResNet-18 on OpenVINO in fp32, photographs of 500 x 375."""
    sources = {
        "engine": "benchmarks.engines, docs/benchmarks.md (openvino fp32, batches of 1 and 8)",
        "decode": "benchmarks.preprocess, docs/benchmarks.md (fidelity: exact)",
        "hops": "benchmarks.overhead, docs/benchmarks.md",
        "idle_cores": "docs/lab-notes.md, Hops",
    }
    alone = ServiceTimes(
        DEFAULT_HOPS,
        DECODE_MEDIAN_S,
        DECODE_MEDIAN_S * DECODE_P90_RATIO,
        ENGINE_BATCHES,
        IDLE_CORES,
        batch_p90_ratio=ENGINE_P90_RATIO,
        sources=sources,
    )
    return replace(alone, slowdown=_slowdown(alone, ENGINE_LIMITS))


def with_measured(times: ServiceTimes, document: Document, engine: str) -> ServiceTimes:
    """The times with those that `document` measured. Raises ValueError if it is of another kind or lacks the engine."""
    kinds = {"overhead": _with_overhead, "preprocess": _with_decoding, "engines": _with_engine}
    kind = document.get("benchmark")
    if kind not in kinds:
        raise ValueError(f"Service times come from {', '.join(kinds)}, not from benchmark {kind!r}.")
    return kinds[kind](times, document, engine)


def hop_times(cpu_ms: Mapping[int, float], per_second: Mapping[int, float]) -> HopTimes:
    """From CPU-ms a request and requests a second of benchmarks.overhead, by the number of callers.

    A request costs R, CALL_S for each call between deployments (of which it has two, or shares of two where images
    travel together), and W for each process that it wakes. How many calls and wake-ups a request has depends on the
    callers and on the costs, and is what the simulation finds. R and W are those that fit all numbers of callers best,
    after a few rounds of it.
    """
    callers = sorted(cpu_ms)
    spent_s = np.array([(cpu_ms[c] - 1000 * IDLE_CORES / per_second[c]) * MS for c in callers]) - BITMAP_S
    request_s, wake_s = spent_s[-1], 0.0
    for _ in range(ROUNDS_OF_FIT):
        found = [overhead_run(_split(request_s, wake_s), c) for c in callers]
        calls = np.array([sum(1 / one.mean_group[deployment] for deployment in BEHIND) for one in found])
        wake_ups = np.array([one.wake_ups / one.images for one in found])
        shares = np.stack([np.ones(len(callers)), wake_ups], axis=1)
        fitted_s = np.linalg.lstsq(shares, spent_s - CALL_S * calls, rcond=None)[0]
        request_s, wake_s = (
            float(max(0.0, (old + new) / 2)) for old, new in zip((request_s, wake_s), fitted_s, strict=True)
        )
    return _split(request_s, wake_s)


def overhead_run(hops: HopTimes, callers: int) -> Found:
    """Of benchmarks.overhead, with what runs there on its machine."""
    times = ServiceTimes(hops, BITMAP_S, BITMAP_S, DUMMY_BATCHES, IDLE_CORES)
    return runs.closed_loop(Shape(shared_cores=2), times, callers, FIT_S)


def _split(request_s: float, wake_s: float) -> HopTimes:
    """R by the processes' profile; half of a call is the caller's, half the other side's."""
    share = {part: request_s * ms / sum(PROFILE_CPU_MS.values()) for part, ms in PROFILE_CPU_MS.items()}
    return HopTimes(
        share["proxy"],
        share["ingress"],
        CALL_S / 2,
        share["preprocessor"],
        CALL_S / 2,
        share["classifier"],
        CALL_S / 2,
        wake_s,
        COLD_WAKE_S,
    )


def _with_overhead(times: ServiceTimes, document: Document, _: str) -> ServiceTimes:
    row = document["results"][OVERHEAD_SYSTEM]
    cpu_ms = {int(load.removeprefix("c=")): figures["cpu_ms"]["median"] for load, figures in row.items()}
    per_second = {int(load.removeprefix("c=")): figures["per_second"]["median"] for load, figures in row.items()}
    return replace(times, hops=hop_times(cpu_ms, per_second), sources={**times.sources, "hops": _source(document)})


def _with_decoding(times: ServiceTimes, document: Document, _: str) -> ServiceTimes:
    row = document["results"]["Aperture, exact"]
    return replace(
        times,
        decode_median_s=row["median_ms"] * MS,
        decode_p90_s=row["p90_ms"] * MS,
        sources={**times.sources, "decode": _source(document)},
    )


def _with_engine(times: ServiceTimes, document: Document, engine: str) -> ServiceTimes:
    """Takes decoding from `times`, so that of preprocess comes first."""
    if engine not in document["results"]:
        raise ValueError(f"The engine is to be one of {', '.join(document['results'])}, not {engine!r}.")
    row = {load: figures["per_second"]["median"] for load, figures in document["results"][engine].items()}
    batches = {int(load.split()[-1]): rate for load, rate in row.items() if load.startswith("batch of ")}
    seconds = {size: size / rate for size, rate in batches.items()}
    measured = replace(
        times,
        batches=BatchTimes(seconds),
        slowdown=1.0,
        sources={**times.sources, "engine": f"{_source(document)} ({engine})"},
    )
    limits = {int(load.split()[-1]): rate for load, rate in row.items() if load.startswith("limit, ")}
    return replace(measured, slowdown=_slowdown(measured, limits, _cores(document)))


def _slowdown(times: ServiceTimes, limits: Mapping[int, float], cores: int = 2) -> float:
    """From img/s, by batch size, of as many processes as cores that decode and classify at once, beside the same work
    of one alone."""
    seconds = times.batches.seconds
    found = [
        cores / rate / (times.decode_median_s + seconds[size] / size)
        for size, rate in limits.items()
        if size in seconds
    ]
    return max(1.0, sum(found) / len(found)) if found else 1.0


def _cores(document: Document) -> int:
    """Of the machine on which it was measured."""
    found = re.search(r"(\d+) cores", document["hardware"])
    return int(found[1]) if found else 1


def _source(document: Document) -> str:
    return f"benchmarks.{document['benchmark']}, {document['hardware']}, {document['rounds']} rounds"
