"""Draws what `compare`, `serve`, `overhead` and `engines` have printed, so that no plot needs a new measurement.

    python -m benchmarks.plots FILE ... [--into docs/benchmarks]

Each FILE ends in a measurement's JSON line. Bars are medians over the rounds, whiskers go from the least to the
greatest, and every plot says its unit and its hardware.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # Files only; no window, wherever this runs.

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.systems import APERTURE

ROOT = Path(__file__).resolve().parent.parent
INTO = ROOT / "docs/benchmarks"
# Dark enough to read beside white, told apart in grey, and by the colour-blind (Okabe and Ito, 2008).
OURS, OTHERS, SECOND = "#0072B2", "#9AA5AE", "#E69F00"
INK, FAINT = "#24292F", "#6E7781"
WIDTH_IN, ROW_IN, MARGIN_IN, DPI = 7.2, 0.42, 1.5, 160

Document = Mapping[str, Any]  # of benchmarks.report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--into", type=Path, default=INTO)
    args = parser.parse_args()
    args.into.mkdir(parents=True, exist_ok=True)
    for document in map(read, args.files):
        for path in draw(document, args.into):
            print(path)


def read(file: Path) -> Document:
    """The JSON document in the last line of what a measurement printed."""
    document: Document = json.loads(file.read_text().strip().splitlines()[-1])
    return document


def draw(document: Document, into: Path) -> list[Path]:
    """The plots that suit the document, as PNGs in `into`; none for what is a table alone."""
    return [plot(document, into) for plot in PLOTS.get(document["benchmark"], ())]


def _throughput(document: Document, into: Path) -> Path:
    return _bars(
        document,
        into / f"{document['benchmark']}-throughput.png",
        "Images a second, 32 callers",
        "img/s, more is better",
        {"": ("c=32", "per_second")},
    )


def _latency(document: Document, into: Path) -> Path:
    load = f"{document['settings']['rate']:g}/s"
    return _bars(
        document,
        into / f"{document['benchmark']}-latency.png",
        f"Latency at {load}, requests that do not wait for each other",
        "ms from the moment a request was due, less is better",
        {"p50": (load, "p50_ms"), "p99": (load, "p99_ms")},
    )


def _cpu(document: Document, into: Path) -> Path:
    return _bars(
        document,
        into / f"{document['benchmark']}-cpu.png",
        "CPU time an image, 32 callers",
        "CPU-ms an image (CPU-s per 1000), all processes, less is better",
        {"": ("c=32", "cpu_ms")},
    )


def _overhead(document: Document, into: Path) -> Path:
    return _bars(
        document,
        into / "overhead-cpu.png",
        "What the graph itself costs: requests with next to no work in them",
        "CPU-ms a request, all processes, less is better",
        {"1 caller": ("c=1", "cpu_ms"), "32 callers": ("c=32", "cpu_ms")},
    )


def _engines(document: Document, into: Path) -> Path:
    largest = f"batch of {max(document['settings']['batch_sizes'])}"
    return _bars(
        document,
        into / "engines-throughput.png",
        "One process, one thread, no server",
        "img/s, more is better",
        {"batch of 1": ("batch of 1", "per_second"), largest: (largest, "per_second")},
    )


def _bars(document: Document, path: Path, title: str, unit: str, series: Mapping[str, tuple[str, str]]) -> Path:
    """Horizontal bars, one group for each system, whose members are `series`: legend to load and metric."""
    results = document["results"]
    height_in = MARGIN_IN + ROW_IN * len(results) * len(series)
    figure, axes = plt.subplots(figsize=(WIDTH_IN, height_in), layout="constrained")
    thickness = 0.8 / len(series)
    for number, (legend, (load, metric)) in enumerate(series.items()):
        spreads = [row[load][metric] for row in results.values()]
        places = [row + (number - (len(series) - 1) / 2) * thickness for row in range(len(results))]
        _series(axes, places, spreads, thickness * 0.9, legend, _colours(list(results), number, len(series)))
    axes.set_yticks(range(len(results)), list(results))
    axes.invert_yaxis()
    _dress(axes, title, unit, with_legend=len(series) > 1)
    figure.supxlabel(_small_print(document), fontsize=7, color=FAINT)
    figure.savefig(path, dpi=DPI, facecolor="white")
    plt.close(figure)
    return path


def _series(
    axes: Axes,
    places: Sequence[float],
    spreads: Sequence[Mapping[str, float]],
    thickness: float,
    legend: str,
    colours: Sequence[str],
) -> None:
    medians = [spread["median"] for spread in spreads]
    whiskers = [
        [spread["median"] - spread["min"] for spread in spreads],
        [spread["max"] - spread["median"] for spread in spreads],
    ]
    axes.barh(places, medians, thickness, color=colours, label=legend)
    axes.errorbar(medians, places, xerr=whiskers, fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
    for place, spread in zip(places, spreads, strict=True):
        text = f"{spread['median']:.0f}" if spread["median"] >= 100 else f"{spread['median']:.1f}"
        axes.annotate(
            text, (spread["max"], place), (5, 0), textcoords="offset points", va="center", fontsize=8, color=INK
        )


def _colours(names: Sequence[str], number: int, series: int) -> list[str]:
    """One colour for each series; where there is but one, Aperture's own stands out."""
    if series > 1:
        return [(OURS, SECOND)[number]] * len(names)
    return [OURS if name.startswith(APERTURE) else OTHERS for name in names]


def _dress(axes: Axes, title: str, unit: str, *, with_legend: bool) -> None:
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(unit, fontsize=8, color=INK)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.grid(axis="x", color="#E4E7EB", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.spines[:].set_visible(False)
    if with_legend:
        axes.legend(fontsize=8, frameon=False, loc="best", labelcolor=INK)


def _model(settings: Document) -> str:
    if "model" not in settings:
        return ""
    engine = f", {settings['engine']} {settings['precision']}" if "engine" in settings else ""
    return f"{settings['model'] or 'made-up ResNet-18'}{engine}. "


def _small_print(document: Document) -> str:
    settings = document["settings"]
    length = f" of {settings['seconds']:g} s" if "seconds" in settings else ""
    rounds = f"Medians of rounds{length} ({document['rounds']}); whiskers: least and greatest."
    return f"{_model(settings)}{document['hardware']}. {rounds}"


PLOTS: Mapping[str, Sequence[Callable[[Document, Path], Path]]] = {
    "compare": (_throughput, _latency, _cpu),
    "serve": (_throughput, _cpu),
    "overhead": (_overhead,),
    "engines": (_engines,),
}


if __name__ == "__main__":
    main()
