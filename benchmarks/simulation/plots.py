"""The planner's pictures, in the style of benchmarks.plots."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # Files only; no window, wherever this runs.

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.plots import DPI, FAINT, INK, OTHERS, OURS, SECOND
from benchmarks.simulation.plan import Plan
from benchmarks.simulation.scenarios import Event
from benchmarks.simulation.validation import BARS, Comparison

WIDTH_IN = 7.2
THIRD = "#009E73"
TITLES = {"per_second": "img/s", "p50_ms": "p50, ms", "p99_ms": "p99, ms"}


def plan_picture(plan: Plan, events: Sequence[Event], path: Path) -> None:
    """Latencies, what is busy, and below each event second by second."""
    figure, axes = plt.subplots(
        1 + len(events), 2, figsize=(WIDTH_IN * 1.4, 2.9 * (1 + len(events))), layout="constrained", squeeze=False
    )
    _latencies(axes[0][0], plan)
    _occupation(axes[0][1], plan)
    for (left, right), event in zip(axes[1:], events, strict=True):
        _latency_over_time(left, event, plan.demand.p99_s * 1000)
        _replicas_over_time(right, event)
    counts = ", ".join(f"{count} {name}" for name, count in plan.replicas.items())
    small_print = f"{plan.demand.images_per_second:g} img/s: {counts}; simulated: one of {plan.cells} equal cells."
    figure.supxlabel(small_print, fontsize=7, color=FAINT)
    _save(figure, path)


def validation_picture(comparisons: Sequence[Comparison], small_print: str, path: Path) -> None:
    """Measured beside predicted, with the rounds' range."""
    figure, axes = plt.subplots(1, len(BARS), figsize=(WIDTH_IN * 1.3, 3.2), layout="constrained")
    for panel, metric in zip(axes, BARS, strict=True):
        rows = [one for one in comparisons if one.metric == metric]
        places = np.arange(len(rows))
        measured = [one.measured for one in rows]
        spread = [[one.measured - one.least for one in rows], [one.greatest - one.measured for one in rows]]
        panel.bar(places - 0.2, measured, 0.38, color=OTHERS, label="measured")
        panel.errorbar(places - 0.2, measured, yerr=spread, fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
        panel.bar(places + 0.2, [one.predicted for one in rows], 0.38, color=OURS, label="predicted")
        panel.set_xticks(places, [one.load for one in rows])
        _dress(panel, TITLES[metric], "")
    axes[0].legend(fontsize=8, frameon=False, labelcolor=INK)
    figure.supxlabel(small_print, fontsize=7, color=FAINT)
    _save(figure, path)


def _latencies(axes: Axes, plan: Plan) -> None:
    latencies_ms = np.sort(plan.found.latencies_s) * 1000
    axes.plot(latencies_ms, np.linspace(0, 100, len(latencies_ms)), color=OURS, linewidth=1.6)
    axes.axvline(plan.demand.p99_s * 1000, color=SECOND, linewidth=1.2, label="asked for, at 99 %")
    axes.set_ylim(0, 100)
    _dress(axes, "Latency: % of requests answered within", "ms")
    axes.legend(fontsize=8, frameon=False, labelcolor=INK, loc="lower right")


def _occupation(axes: Axes, plan: Plan) -> None:
    shares = dict(sorted(plan.found.occupation.items(), key=lambda item: item[1]))
    axes.barh(list(shares), [100 * share for share in shares.values()], color=OURS, height=0.6)
    axes.set_xlim(0, 100)
    _dress(axes, "How busy the parts are", "% of the time")


def _latency_over_time(axes: Axes, event: Event, limit_ms: float) -> None:
    axes.semilogy(event.p99_ms, color=OURS, linewidth=1.4)
    axes.axhline(limit_ms, color=SECOND, linewidth=1.2)
    axes.axvline(event.begins_s, color=FAINT, linewidth=0.8, linestyle=":")
    _dress(axes, f"{event.name}: p99 of each second, ms ({event.failed} failed)", "s")


def _replicas_over_time(axes: Axes, event: Event) -> None:
    for (name, counts), colour in zip(event.replicas.items(), (FAINT, THIRD, OURS), strict=True):
        axes.step(range(len(counts)), counts, where="post", color=colour, linewidth=1.4, label=name)
    load = axes.twinx()
    load.plot(event.requests, color=SECOND, linewidth=0.8, alpha=0.7)
    load.set_ylim(bottom=0)
    load.tick_params(colors=INK, labelsize=8, length=0)
    load.spines[:].set_visible(False)
    axes.set_ylim(bottom=0)
    _dress(axes, "Replicas of a cell, and requests a second (right)", "s")
    axes.legend(fontsize=7, frameon=False, labelcolor=INK)


def _dress(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=9, color=INK, loc="left")
    axes.set_xlabel(unit, fontsize=8, color=INK)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.grid(color="#E4E7EB", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, facecolor="white")
    plt.close(figure)
