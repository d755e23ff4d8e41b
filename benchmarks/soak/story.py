"""What is told of a soak: a report for people, one line of JSON, and a plot of it over time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.plots import DPI, FAINT, INK, OURS, SECOND, WIDTH_IN
from benchmarks.report import document
from benchmarks.soak.census import Identity, Sample
from benchmarks.soak.ledger import BAD, FATES
from benchmarks.soak.session import Plan, Soaked

HEIGHT_IN = 6.4
# Of the kinds of processes that have most memory.
COLOURS = (OURS, SECOND, "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe and Ito, 2008
# Above the highest line, for the legend.
HEADROOM = 1.35
BIN_S = 5


def report(soaked: Soaked) -> str:
    parts = [_requests(soaked), _kills(soaked), _processes(soaked)]
    if soaked.ledger.examples:
        parts.append("\n".join(["What went wrong:", *soaked.ledger.examples]))
    checks = (f"{'holds' if each.holds else 'BROKEN':7} {each.what}: {each.found}" for each in soaked.checks)
    return "\n\n".join([*parts, "\n".join(checks)])


def _requests(soaked: Soaked) -> str:
    fates = [fate for fate in FATES if soaked.ledger.count(fate) or fate in BAD]
    width = max(map(len, soaked.ledger.fates), default=0) + 2
    lines = [f"{'requests':{width}}" + "".join(f"{fate:>10}" for fate in fates)]
    for kind, counts in sorted(soaked.ledger.fates.items()):
        lines.append(f"{kind:{width}}" + "".join(f"{counts[fate]:>10}" for fate in fates))
    lines.append(f"{'together':{width}}" + "".join(f"{soaked.ledger.count(fate):>10}" for fate in fates))
    return "\n".join(lines)


def _kills(soaked: Soaked) -> str:
    lines = (
        f"{each.at_s:7.0f} s  {each.what}: "
        + ("no successor" if each.recovery_s is None else f"a successor after {each.recovery_s:.1f} s")
        for each in soaked.kills
    )
    return "\n".join(["kill -9", *lines])


def _processes(soaked: Soaked) -> str:
    lines = [f"{'process':40}{'id':>8}{'lived s':>9}{'MB':>7}{'grown MB':>10}"]
    for each in sorted(soaked.processes, key=lambda one: -one.growth_bytes):
        figures = f"{each.lived_s:>9.0f}{each.resident_bytes / 1e6:>7.0f}{each.growth_bytes / 1e6:>+10.1f}"
        lines.append(f"{each.role[:39]:40}{each.process_id:>8}{figures}")
    before, after = soaked.descriptors
    kinds = (f"{kind} {before.get(kind, 0)} to {after.get(kind, 0)}" for kind in sorted({*before, *after}))
    return "\n".join([*lines, f"descriptors, after the warm-up and at the end: {', '.join(kinds)}"])


def line(plan: Plan, soaked: Soaked) -> str:
    results = {kind: dict(counts) for kind, counts in soaked.ledger.fates.items()}
    return document(
        "soak",
        1,
        vars(plan),
        results,
        kills=[vars(each) for each in soaked.kills],
        processes=[vars(each) for each in soaked.processes],
        checks=[vars(each) for each in soaked.checks],
    )


def draw(soaked: Soaked, into: Path) -> Path:
    """soak.png in `into`: requests, memory and descriptors over time, with the kills."""
    figure, axes = plt.subplots(3, 1, figsize=(WIDTH_IN, HEIGHT_IN), sharex=True, layout="constrained")
    requests, memory, descriptors = axes
    _draw_requests(requests, soaked)
    roles = _by_role(soaked.census.series)
    largest = sorted(roles, key=lambda role: -max(mb for _, mb, _ in roles[role]))
    colours = dict(zip(largest, COLOURS, strict=False))
    _draw_roles(memory, {role: [(at_s, mb) for at_s, mb, _ in points] for role, points in roles.items()}, colours)
    _draw_roles(descriptors, {role: [(at_s, n) for at_s, _, n in points] for role, points in roles.items()}, colours)
    titles = ("requests that end, each second", "memory, MB (all processes of a kind)", "descriptors (likewise)")
    for panel, title in zip(axes, titles, strict=True):
        for kill in soaked.kills:
            panel.axvline(kill.at_s, color=FAINT, linewidth=0.6, linestyle=":")
        _dress(panel, title)
    descriptors.set_xlabel("s; dotted: a replica is killed", fontsize=8, color=INK)
    path = into / "soak.png"
    figure.savefig(path, dpi=DPI, facecolor="white")
    plt.close(figure)
    return path


def _draw_requests(axes: Axes, soaked: Soaked) -> None:
    seconds = soaked.ledger.seconds
    edges = np.arange(0, max(seconds, default=0) + BIN_S, BIN_S)
    drawn = [fate for fate in FATES if soaked.ledger.count(fate)]
    for fate, colour in zip(drawn, (*COLOURS, FAINT), strict=False):
        rates = [sum(seconds[at][fate] for at in range(edge, edge + BIN_S) if at in seconds) / BIN_S for edge in edges]
        axes.plot(edges + BIN_S / 2, rates, color=colour, label=fate, linewidth=1.2)


def _by_role(series: Mapping[Identity, Sequence[Sample]]) -> dict[str, list[tuple[float, float, float]]]:
    """Of each role, the points (second, MB, descriptors), summed over its processes."""
    sums: dict[str, dict[float, tuple[float, float]]] = {}
    for samples in series.values():
        for at_s, holding in samples:  # One census has one moment for all processes.
            role = sums.setdefault(holding.role, {})
            mb, count = role.get(at_s, (0.0, 0.0))
            role[at_s] = mb + holding.resident_bytes / 1e6, count + holding.descriptors
    return {role: [(at_s, *both) for at_s, both in sorted(points.items())] for role, points in sums.items()}


def _draw_roles(axes: Axes, roles: Mapping[str, Sequence[tuple[float, float]]], colours: Mapping[str, str]) -> None:
    for role, colour in colours.items():
        axes.plot(*zip(*roles[role], strict=True), color=colour, label=role.removeprefix("ray::"), linewidth=1.2)


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, color=INK, loc="left")
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.grid(color="#E4E7EB", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_ylim(0, HEADROOM * axes.get_ylim()[1])
    axes.spines[:].set_visible(False)
    axes.legend(fontsize=6, frameon=False, labelcolor=INK, loc="upper left", ncols=3)
