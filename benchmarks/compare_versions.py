"""What a service says of a candidate version: GET /v2/models/{model}/comparison, as a table and as a plot.

    python -m benchmarks.compare_versions --url http://127.0.0.1:8000 --model shapes [--plot FILE.png]

A service that asks for API keys gets the one in the environment variable that --api-key-env names; it needs the scope
read. The last line is the JSON document itself.
"""

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

Document = Mapping[str, Any]

TIMEOUT_S = 30.0
# Of an answer: the document has some kilobytes for each of eight trials.
MAX_BYTES = 2**24
QUANTILES = ("p50", "p90", "p99", "p99.9")
HEIGHT_IN = 3.6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", required=True)
    parser.add_argument("--api-key-env", help="the name of an environment variable with an API key")
    parser.add_argument("--plot", type=Path, help="a file to draw into, .png or .svg")
    args = parser.parse_args()
    if args.plot is not None and args.plot.suffix not in (".png", ".svg"):
        parser.error("--plot must end in .png or .svg.")
    if args.api_key_env is not None and args.api_key_env not in os.environ:
        parser.error(f"there is no environment variable {args.api_key_env}.")
    try:
        document = read(args.url, args.model, os.environ.get(args.api_key_env or ""))
    except (OSError, ValueError) as err:
        sys.exit(f"The comparison cannot be read: {err}.")
    print("\n".join(lines(document)))
    if args.plot is not None and document["trial"] is None:
        print("There is nothing on trial to draw.")
    elif args.plot is not None:
        print(draw(document, args.plot))
    print(json.dumps(document))


def read(url: str, model: str, key: str | None = None) -> Document:
    """Raises OSError if the service does not answer with it."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{url.rstrip('/')}/v2/models/{quote(model, safe='')}/comparison", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            document: Document = json.loads(response.read(MAX_BYTES))
    except urllib.error.HTTPError as err:
        raise OSError(f"the service answers {err.code}, {err.read(500).decode(errors='replace')}") from err
    return document


def lines(document: Document) -> Iterator[str]:
    """The report for people."""
    yield f"Model {document['model']}"
    yield ""
    yield from table(
        ("version", "images", "errors", *(f"{name} ms" for name in QUANTILES)),
        [
            (version, f"{of['images']}", f"{of['errors']}", *_quantiles(of["latency_ms"]))
            for version, of in document["versions"].items()
        ],
    )
    if document["trial"] is None:
        yield ""
        yield "Nothing is on trial."
    for trial in filter(None, (document["trial"], *document["earlier"])):
        yield ""
        yield from _trial_lines(trial)


def _trial_lines(trial: Document) -> Iterator[str]:
    mirrored = trial["mirrored"]
    yield f"Version {trial['candidate']} beside version {trial['stable']}, {trial['stage']}"
    if verdict := trial.get("verdict"):
        step = "" if verdict["next"] == trial["stage"] else f" Next: {verdict['next']}."
        yield f"  verdict      {verdict['reason']}{step}"
    skipped = ", ".join(f"{count} {reason}" for reason, count in mirrored["skipped"].items()) or "none"
    yield f"  mirrored     {mirrored['images']} images; failed: {mirrored['errors']}; not mirrored: {skipped}"
    if not mirrored["images"]:
        return
    difference = mirrored["difference"]
    yield f"  agreement    {mirrored['agreement']:.4f} of first labels"
    yield f"  difference   mean {difference['mean']:.4g}, greatest {difference['greatest']:.4g} of a probability"
    if mirrored["unshared_labels"]:
        yield f"  labels       {mirrored['unshared_labels']} are known to one version alone; compared by label"
    for version in ("stable", "candidate"):
        took = ", ".join(
            f"{name} {value} ms"
            for name, value in zip(QUANTILES, _quantiles(mirrored["engine_ms"][version]), strict=True)
        )
        yield f"  engine       {version}: {took}"
    yield from _worst_lines(mirrored["worst"])


def _worst_lines(worst: Sequence[Document]) -> Iterator[str]:
    if worst:
        yield "  worst disagreements, by SHA-256 of the image"
        rows = [(each["sha256"], each["stable"], each["candidate"], f"{each['difference']:.4f}") for each in worst]
        yield from (f"    {line}" for line in table(("image", "stable", "candidate", "difference"), rows))


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in [names, *rows]) for column in range(len(names))]
    for row in [names, *rows]:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _quantiles(milliseconds: Document | None) -> tuple[str, ...]:
    return tuple("-" if milliseconds is None else f"{milliseconds[name]:.1f}" for name in QUANTILES)


def draw(document: Document, path: Path) -> Path:
    """Latency by quantile and the histogram of differences, of the trial that is on."""
    # Only where something is drawn: it takes a second to import.
    from matplotlib import pyplot as plt

    from benchmarks.plots import DPI, FAINT, WIDTH_IN

    trial = document["trial"]
    figure, (latency, differences) = plt.subplots(1, 2, figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
    _draw_latency(latency, trial)
    _draw_differences(differences, trial["mirrored"])
    said = f"{document['model']}: version {trial['candidate']} beside version {trial['stable']}, {trial['stage']}"
    figure.supxlabel(f"{said}; {trial['mirrored']['images']} images mirrored", fontsize=7, color=FAINT)
    figure.savefig(path, dpi=DPI, facecolor="white")
    plt.close(figure)
    return path


def _draw_latency(axes: Any, trial: Document) -> None:
    from benchmarks.plots import OURS, SECOND

    served = trial["served"]["candidate"]["latency_ms"]
    # Only a canary has answers of its own.
    kind = "engine" if served is None else "answers"
    for version, colour in (("stable", OURS), ("candidate", SECOND)):
        quantiles = (
            trial["mirrored"]["engine_ms"][version] if served is None else trial["served"][version]["latency_ms"]
        )
        if quantiles is not None:
            axes.plot(list(quantiles), list(quantiles.values()), color=colour, marker="o", markersize=4, label=version)
    axes.set_yscale("log")
    axes.tick_params(axis="x", rotation=45)
    _dress(axes, f"Latency, {kind}", "ms")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)


def _draw_differences(axes: Any, mirrored: Document) -> None:
    from benchmarks.plots import OURS

    # Buckets are of equal ratio; the first one begins at 0, which such an axis has not.
    buckets = [
        (each["from"] or each["to"] / 10, each["to"], each["images"]) for each in mirrored["difference"]["histogram"]
    ]
    for low, high, images in buckets:
        axes.bar(low, images, high - low, align="edge", color=OURS, edgecolor="white", linewidth=0.5)
    axes.set_xscale("log")
    axes.set_xlabel("greatest difference of a probability, for each image", fontsize=8)
    _dress(axes, "Differences", "images")


def _dress(axes: Any, title: str, unit: str) -> None:
    from benchmarks.plots import INK

    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_ylabel(unit, fontsize=8, color=INK)
    axes.tick_params(colors=INK, labelsize=7, length=0)
    axes.grid(axis="y", color="#E4E7EB", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


if __name__ == "__main__":
    main()
