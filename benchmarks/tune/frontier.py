"""The picture: what rate can be had within what latency, by all that was measured.

    python -m benchmarks.tune.frontier FILE [--into docs/benchmarks]

for a FILE that ends in the JSON line of benchmarks.tune.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from benchmarks.plots import DPI, FAINT, INK, INTO, OTHERS, OURS, SECOND, WIDTH_IN, read
from benchmarks.tune.candidate import Candidate

HEIGHT_IN = 4.2

Document = Mapping[str, Any]
Point = tuple[float, float]  # p99 in ms, images a second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--into", type=Path, default=INTO)
    args = parser.parse_args()
    args.into.mkdir(parents=True, exist_ok=True)
    print(draw(read(args.file), args.into))


def draw(document: Document, into: Path) -> Path:
    """tune-CONFIG.png in `into`."""
    figure, axes = plt.subplots(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
    trials: Sequence[Document] = document["trials"]
    everything = [point for trial in trials for point in points(trial)]
    axes.scatter(*_columns(everything), s=14, color=OTHERS, label="each measurement", zorder=2)
    axes.step(*_columns(frontier(everything)), where="post", color=FAINT, linewidth=1.2, label="best of all", zorder=3)
    for role, colour, mark in (("as it is", SECOND, "s"), ("chosen", OURS, "o")):
        own = [point for trial in trials if role in trial["roles"] for point in points(trial)]
        axes.scatter(*_columns(own), s=30, color=colour, marker=mark, label=role, zorder=4)
    _dress(axes, document)
    figure.supxlabel(_small_print(document), fontsize=7, color=FAINT)
    path = into / f"tune-{document['settings']['config']}.png"
    figure.savefig(path, dpi=DPI, facecolor="white")
    plt.close(figure)
    return path


def points(trial: Document) -> list[Point]:
    """Of the measurements in which nothing failed among the 99 of 100."""
    return [(probe["p99_ms"], probe["per_second"]) for probe in trial["probes"] if probe["p99_ms"] is not None]


def frontier(measured: Sequence[Point]) -> list[Point]:
    """The points beside which no other has a higher rate at a shorter latency, by latency."""
    found: list[Point] = []
    for p99_ms, per_second in sorted(measured, key=lambda point: (point[0], -point[1])):
        if not found or per_second > found[-1][1]:
            found.append((p99_ms, per_second))
    return found


def _columns(measured: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point[0] for point in measured], [point[1] for point in measured]


def _dress(axes: Axes, document: Document) -> None:
    goal_ms = document["settings"]["p99_ms"]
    axes.axvline(goal_ms, color=INK, linewidth=0.8, linestyle="--")
    axes.annotate(
        f"goal: {goal_ms:g} ms", (goal_ms, 0), (4, 4), textcoords="offset points", fontsize=8, color=INK, va="bottom"
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(bottom=0)
    axes.set_title(f"What can be had of {document['settings']['config']} on this machine", fontsize=10, loc="left")
    axes.set_xlabel("p99 in ms from the moment a request was due, less is better", fontsize=8, color=INK)
    axes.set_ylabel("images a second offered, more is better", fontsize=8, color=INK)
    axes.tick_params(colors=INK, labelsize=8, length=0, which="both")
    axes.grid(color="#E4E7EB", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="best", labelcolor=INK)


def _small_print(document: Document) -> str:
    shared = (
        f"; other programs took {document['others_cores']:.1f} cores in the median" if document["others_cores"] else ""
    )
    chosen = f"Chosen: {Candidate.from_record(document['chosen'])}.\n" if document["chosen"] else ""
    return f"{chosen}{document['hardware']}; {len(document['trials'])} candidates{shared}."


if __name__ == "__main__":
    main()
