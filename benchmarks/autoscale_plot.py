"""Draws what `benchmarks.autoscale` has measured: load, replicas and p99 over time, below each other.

python -m benchmarks.autoscale_plot FILE [--into docs/benchmarks], for a FILE that ends in its JSON line.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.plots import DPI, FAINT, INK, INTO, OURS, SECOND, WIDTH_IN

HEIGHT_IN = 6.2
AT_RIGHT: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
COLOURS = (OURS, SECOND, "#9AA5AE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--into", type=Path, default=INTO)
    args = parser.parse_args()
    args.into.mkdir(parents=True, exist_ok=True)
    print(draw(args.file.read_text().strip().splitlines()[-1], args.into))


def draw(line: str, into: Path) -> Path:
    """autoscale.png in `into`, from the JSON document."""
    document = json.loads(line)
    figure, axes = plt.subplots(3, 1, figsize=(WIDTH_IN, HEIGHT_IN), sharex=True, layout="constrained")
    load, replicas, latency = axes
    _steps(load, [[p["since_s"], p["per_second"]] for p in document["settings"]["phases"]], document, INK, None)
    for (name, series), colour in zip(document["series"].items(), COLOURS, strict=False):
        _steps(replicas, series["replicas"], document, colour, name)
        latency.plot(
            *zip(*_with_gaps(series["p99_s"]), strict=True), color=colour, label=name, linewidth=1.4, marker="."
        )
    target_s = document["settings"]["target_latency_s"]
    latency.axhline(target_s, color=FAINT, linewidth=0.8, linestyle="--")
    latency.annotate(f"target, of 95 %: {target_s:g} s", (1, target_s), fontsize=7, color=FAINT, **AT_RIGHT)
    latency.set_yscale("log")
    for panel, title in zip(axes, ("images/s that come", "replicas that run", "p99, s from when due"), strict=True):
        _dress(panel, title)
    replicas.legend(fontsize=8, frameon=False, labelcolor=INK)
    latency.set_xlabel("s", fontsize=8, color=INK)
    figure.supxlabel(f"{document['hardware']}. One run.", fontsize=7, color=FAINT)
    path = into / "autoscale.png"
    figure.savefig(path, dpi=DPI, facecolor="white")
    plt.close(figure)
    return path


def _with_gaps(points: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """The points, which are a window apart, with something that is not drawn where some are missing."""
    window_s = points[1][0] - points[0][0]
    drawn = [points[0]]
    for before, after in pairwise(points):
        drawn += [after] if after[0] - before[0] < 1.5 * window_s else [(before[0], math.nan), after]
    return drawn


def _steps(
    axes: Axes, points: Sequence[Sequence[float]], document: Mapping[str, Any], colour: str, name: str | None
) -> None:
    end_s = document["settings"]["phases"][-1]["until_s"]
    xs, ys = zip(*points, [end_s, points[-1][1]], strict=True)
    axes.step(xs, ys, where="post", color=colour, label=name, linewidth=1.6)


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, color=INK, loc="left")
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.grid(color="#E4E7EB", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


if __name__ == "__main__":
    main()
