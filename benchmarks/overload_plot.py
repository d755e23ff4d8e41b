"""Draws what `benchmarks.overload` has measured: goodput over offered load, both in capacities.

python -m benchmarks.overload_plot FILE [--into docs/benchmarks], for a FILE that ends in its JSON line.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.overload_figures import CAPACITY, LEAST_SHARE, LOADS
from benchmarks.plots import DPI, FAINT, INK, INTO, OTHERS, OURS, SECOND, WIDTH_IN
from benchmarks.systems import APERTURE

HEIGHT_IN = 3.8
# Told apart by colour and by mark; the greys are for whoever is not first or second to be looked at.
COLOURS, MARKS = (SECOND, FAINT, OTHERS), ("s", "^", "D")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--into", type=Path, default=INTO)
    args = parser.parse_args()
    args.into.mkdir(parents=True, exist_ok=True)
    print(draw(args.file.read_text().strip().splitlines()[-1], args.into))


def draw(line: str, into: Path) -> Path:
    """overload.png in `into`, from the JSON document."""
    document = json.loads(line)
    figure, axes = plt.subplots(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
    others = [name for name in document["results"] if name != APERTURE]
    looks = {name: (COLOURS[place % 3], MARKS[place % 3]) for place, name in enumerate(others)}
    for name, row in document["results"].items():
        colour, mark = looks.get(name, (OURS, "o"))
        _line(axes, name, row, colour, mark)
    axes.axhline(LEAST_SHARE, color=FAINT, linewidth=0.8, linestyle="--")
    axes.annotate(
        f"target past capacity: {LEAST_SHARE:.0%}",
        (1, LEAST_SHARE),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=7,
        color=FAINT,
    )
    _dress(axes, document["settings"])
    figure.supxlabel(_small_print(document), fontsize=7, color=FAINT)
    path = into / "overload.png"
    figure.savefig(path, dpi=DPI, facecolor="white")
    plt.close(figure)
    return path


def _line(axes: Axes, name: str, row: Mapping[str, Any], colour: str, mark: str) -> None:
    shares = [row[load]["share"] for load in LOADS]
    medians = [share["median"] for share in shares]
    whiskers = [
        [share["median"] - share["min"] for share in shares],
        [share["max"] - share["median"] for share in shares],
    ]
    capacity = row[CAPACITY]["goodput"]["median"]
    axes.errorbar(
        list(LOADS.values()),
        medians,
        yerr=whiskers,
        color=colour,
        marker=mark,
        markersize=5,
        linewidth=1.6,
        elinewidth=0.8,
        capsize=2,
        label=f"{name} (capacity {capacity:.0f}/s)",
    )


def _dress(axes: Axes, settings: Mapping[str, Any]) -> None:
    title = f"Answers within {settings['deadline_s']:g} s, when more is asked for than can be done"
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel("offered load, in the system's own capacities", fontsize=8, color=INK)
    axes.set_ylabel("goodput, in capacities", fontsize=8, color=INK)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(LOADS.values()), list(LOADS))
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.grid(color="#E4E7EB", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK)


def _small_print(document: Mapping[str, Any]) -> str:
    settings = document["settings"]
    rounds = f"Medians of rounds of {settings['seconds']:g} s ({document['rounds']}); whiskers: least and greatest."
    return f"{settings['model']}, {settings['engine']} fp32. {document['hardware']}. {rounds}"


if __name__ == "__main__":
    main()
