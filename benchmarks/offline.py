"""What examples/offline_batch.py labels in a second, beside what the service answers on the same cores.

    python -m benchmarks.offline [--model models/NAME] [--engine openvino] [--precision fp32] [--images 2000]

One config for both. The service has 32 callers in a closed loop. Of the offline run, only the time between its first
block and its last counts, since a million images hide the start; how long the start took is printed beside it. Which of
the two comes first alternates.
"""

import argparse
import asyncio
import logging
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import ray
import yaml
from tqdm import tqdm

from benchmarks import arguments, systems
from benchmarks.http_client import Target
from benchmarks.load import closed_loop
from benchmarks.measure import HEADERS, PATH, WARM_UP_CALLERS, WARM_UP_S, figures, settle
from benchmarks.report import document, summarize, table
from examples.offline_batch import label, parse_arguments

CALLERS = 32
LOAD = f"c={CALLERS}, or all at once"
IMAGES = 2000


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--images", type=int, default=IMAGES, help="of each offline run")
    args = parser.parse_args()
    logging.getLogger("ray").setLevel(logging.ERROR)
    model = arguments.model(args, args.threads)
    rounds: dict[str, list[dict[str, dict[str, float]]]] = {"served": [], "offline": []}
    measures = {"served": served, "offline": offline}
    with tqdm(total=2 * args.rounds, desc="offline", unit="run") as bar:
        for number in range(args.rounds):
            for name in sorted(measures, reverse=number % 2 == 0):
                rounds[name].append({LOAD: measures[name](args, model)})
                bar.update()
    results = {name: summarize(rows) for name, rows in rounds.items()}
    medians = {name: row[LOAD]["per_second"]["median"] for name, row in results.items()}
    print(f"\n{table(results)}\n\noffline / served: {medians['offline'] / medians['served']:.2f}\n")
    print(document("offline", args.rounds, arguments.settings(args), results))


def served(args: argparse.Namespace, model: dict[str, Any]) -> dict[str, float]:
    pictures = arguments.pictures(args)
    with systems.start(systems.APERTURE, model, args.replicas) as service:
        target = Target(f"{service.url}{PATH}", HEADERS)
        settle(service)
        asyncio.run(closed_loop(target, pictures, WARM_UP_CALLERS, WARM_UP_S))
        return figures(service, partial(closed_loop, target, pictures, CALLERS, args.seconds))


def offline(args: argparse.Namespace, model: dict[str, Any]) -> dict[str, float]:
    written: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as directory:
        config, pictures, output = (Path(directory) / name for name in ("config.yaml", "pictures", "output"))
        config.write_text(yaml.safe_dump(systems.aperture_config(model, args.replicas)))
        _fill(pictures, arguments.pictures(args), args.images)
        run = parse_arguments([str(pictures), "--output", str(output), "--config", str(config)])
        started = time.monotonic()
        counts = label(run, on_written=lambda images: written.append((time.monotonic(), images)))
        ray.shutdown()
    (first, before), (last, _) = written[0], written[-1]
    return {
        "per_second": (counts.labelled - before) / (last - first),
        "failed": sum(counts.refused.values()),
        "until_first_s": first - started,
    }


def _fill(directory: Path, pictures: list[bytes], count: int) -> None:
    directory.mkdir()
    for number in range(count):
        (directory / f"{number}.jpg").write_bytes(pictures[number % len(pictures)])


if __name__ == "__main__":
    main()
