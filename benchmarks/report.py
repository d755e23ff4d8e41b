"""How measurements are told: a table for people, and one JSON document of one line for machines.

    {"benchmark", "hardware", "versions", "settings", "rounds",
     "results": {system: {load: {metric: {"median", "min", "max"}}}}}

`load` is how requests came ("c=8": eight callers in a closed loop; "15/s": an open loop of that rate), and the metrics
are those of METRICS. Medians, minima and maxima are over the rounds.
"""

import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from deployments.engines.hardware import describe_hardware

Figures = Mapping[str, float]  # by metric
Row = Mapping[str, Figures]  # by load
Spread = dict[str, float]  # median, min, max
Results = Mapping[str, Mapping[str, Mapping[str, Spread]]]  # by system, load and metric

METRICS = {
    "per_second": "img/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    # CPU-milliseconds an image are CPU-seconds per 1000 images.
    "cpu_ms": "CPU-ms an image",
    "failed": "failed",
    # CPU cores that other programs, and other machines on the same host, took meanwhile: above some hundredths, whoever
    # has more processes gets more of what is left, and the comparison is worth little.
    "others_cores": "others' cores",
}
IN_TABLES = tuple(metric for metric in METRICS if metric != "others_cores")
DISTURBED_CORES = 0.1
PACKAGES = (
    *("ray", "torch", "torchvision", "openvino", "onnxruntime", "tensorrt", "numpy", "pillow"),
    *("fastapi", "uvicorn", "mosec", "litserve"),
)
CELL_WIDTH = 23


def summarize(rounds: Sequence[Row]) -> dict[str, dict[str, Spread]]:
    """Of one system, by load and metric; a metric that some rounds lack is over the others."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rounds:
        for load, figures in row.items():
            for metric, value in figures.items():
                found.setdefault(load, {}).setdefault(metric, []).append(value)
    return {load: {metric: _spread(values) for metric, values in row.items()} for load, row in found.items()}


def table(results: Results) -> str:
    """One block for each load: a line for each system, each figure as its median and (min - max)."""
    return "\n\n".join([*(_block(load, results) for load in _loads(results)), *_warning(results)])


def matrix(results: Results, metric: str) -> str:
    """One metric alone: a line for each system, a column for each load."""
    loads, width = _loads(results), _name_width(results)
    head = f"{METRICS[metric]:{width}}" + "".join(f"{load:>{CELL_WIDTH}}" for load in loads)
    lines = (
        f"{name:{width}}" + "".join(_cell(row.get(load, {}).get(metric)) for load in loads)
        for name, row in results.items()
    )
    return "\n".join([head, *lines])


def document(
    benchmark: str, rounds: int, settings: Mapping[str, Any], results: Mapping[str, Any], **more: object
) -> str:
    """One line of JSON, with `more` keys at its end. Raises ValueError if a figure is not a number."""
    content = {
        "benchmark": benchmark,
        "hardware": describe_hardware("cpu"),
        "versions": versions(),
        "settings": settings,
        "rounds": rounds,
        "results": results,
        **more,
    }
    return json.dumps(content, allow_nan=False)


def versions() -> dict[str, str]:
    """Of Python and of those of PACKAGES that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _spread(values: Sequence[float]) -> Spread:
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {key: float(f"{value:.6g}") for key, value in found.items()}


def _block(load: str, results: Results) -> str:
    rows = {name: row[load] for name, row in results.items() if load in row}
    metrics = [metric for metric in IN_TABLES if any(metric in row for row in rows.values())]
    width = _name_width(results)
    lines = [f"{load:{width}}" + "".join(f"{METRICS[metric]:>{CELL_WIDTH}}" for metric in metrics)]
    lines += [f"{name:{width}}" + "".join(_cell(row.get(metric)) for metric in metrics) for name, row in rows.items()]
    return "\n".join(lines)


def _warning(results: Results) -> list[str]:
    others = [
        figures["others_cores"]["max"]
        for rows in results.values()
        for figures in rows.values()
        if "others_cores" in figures
    ]
    if max(others, default=0.0) < DISTURBED_CORES:
        return []
    return [f"Other programs took up to {max(others):.1f} cores meanwhile: measure again on an idle machine."]


def _loads(results: Results) -> list[str]:
    return list(dict.fromkeys(load for rows in results.values() for load in rows))


def _name_width(results: Results) -> int:
    return max(map(len, [*results, *METRICS.values(), *_loads(results)])) + 2


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return f"{'':>{CELL_WIDTH}}"
    median, low, high = (_short(spread[key]) for key in ("median", "min", "max"))
    return f"{median if low == high else f'{median} ({low} - {high})':>{CELL_WIDTH}}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == 0 else f"{value:.1f}"
