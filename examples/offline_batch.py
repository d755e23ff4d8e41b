"""Labels many images without a server, by the code that serves one: the same imaging, engine, guard and limits.

    python -m examples.offline_batch ~/photos --output labels                    a folder, whatever is in it
    python -m examples.offline_batch '~/photos/**/*.jpg' --output labels         a glob
    python -m examples.offline_batch photos.parquet --column image --output labels

Ray Data streams the images through actors that decode and actors that classify, on this machine or, with --address, on
a cluster. The output is a folder of parquet files with a row for each image, described by SCHEMA in
examples/offline_parts.py; an image that is refused has `error` and `code`, as it would have over HTTP. Started again
with the same output, it goes on where it was: what is in a complete file is not done again.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ray
from tqdm import tqdm

from deployments.engines import create_engine
from deployments.errors import ConfigError
from deployments.messages import ModelInfo
from deployments.settings import Limits, ModelSettings, Settings, with_threads
from examples.offline_parts import Counts, Run, begin, counted, done_already
from examples.offline_sources import Source, source_of
from examples.offline_stages import Classify, Preprocess, Write, rows_of
from scripts.check_config import check_config

ROOT = Path(__file__).resolve().parent.parent
# As many images lie in one block at most, and so in one file: what is done again after an interruption.
BLOCK_IMAGES = 512
# Blocks for each actor that classifies, so that the last ones end at about the same time.
BLOCKS_PER_CLASSIFIER = 4
# Ray places actors by the cores that they count for. All together count for less than one of those that there are,
# since how many threads each has is said by us, and decoding gives way to nobody.
COUNTED_CORES = 0.9
# With 16, handing over costs a tenth of what an image does; with more, much memory lies in few batches.
BATCH_IMAGES = 32


@dataclass(frozen=True)
class Plan:
    """What classifies, with how many actors and threads. `decoders`: actors, of `decoder_threads` each."""

    model: ModelSettings
    limits: Limits
    info: ModelInfo
    classifiers: int
    decoders: int
    decoder_threads: int
    top_k: int


def main() -> None:
    args = parse_arguments()
    try:
        counts = label(args)
    except ConfigError as err:
        raise SystemExit(str(err)) from None
    except KeyboardInterrupt:
        raise SystemExit("Interrupted. The same command goes on where this one was.") from None
    print(counts.table())


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a folder, a glob, or parquet files with a column of encoded images")
    parser.add_argument("--output", type=Path, required=True, help="a folder for parquet files")
    parser.add_argument("--config", type=Path, default=ROOT / "configs/local.yaml", help="whose models and limits hold")
    parser.add_argument("--model", help="one of the config (default: its first)")
    parser.add_argument("--version", type=int, help="of the model (default: the highest)")
    parser.add_argument("--top-k", type=int, default=5, help="predictions of each image")
    parser.add_argument("--column", default="image", help="of parquet: bytes, or a struct with a field `bytes`")
    parser.add_argument("--id-column", help="of parquet: what names each row (default: file and number)")
    parser.add_argument("--classifiers", type=int, help="actors that classify (default: one a GPU, else one a core)")
    parser.add_argument("--decoder-threads", type=int, help="on each node (default: one for each core)")
    parser.add_argument(
        "--address", default="local", help="of a Ray cluster whose nodes all have the project and the files"
    )
    return parser.parse_args(arguments)


def label(args: argparse.Namespace, on_written: Callable[[int], object] = lambda images: None) -> Counts:
    """Does what is not done yet; what all that lies in the output then comes to. Raises ConfigError.

    `on_written` is told how many images each file has, once it is there.
    """
    model, limits = _of_config(args.config, args.model)
    source = source_of(args.source, args.column, args.id_column)
    if not ray.is_initialized():
        # What the actors say of each image stands in the output.
        ray.init(address=args.address, log_to_driver=False, logging_level=logging.ERROR)
    plan = _plan(args, model, limits)
    begin(args.output, Run.of(plan.info, plan.top_k))
    done = done_already(args.output)
    _stream(plan, source, done, args.output, on_written)
    return counted(args.output)


def _of_config(path: Path, name: str | None) -> tuple[ModelSettings, Limits]:
    settings = Settings.model_validate(check_config(path).applications[0].args)
    models = {model.name: model for model in settings.models}
    if name is not None and name not in models:
        raise ConfigError(f"The config {str(path)!r} has no model {name!r}; it has {', '.join(models)}.")
    return models[name or settings.models[0].name], settings.limits


def _plan(args: argparse.Namespace, model: ModelSettings, limits: Limits) -> Plan:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    on_gpu = gpus > 0 and model.device != "cpu"
    classifiers = args.classifiers or (gpus if on_gpu else cores)
    model = with_threads(model, 1 if on_gpu else cores // classifiers)
    # In a process of its own, before all others: what is measured is measured alone, and what fails fails at once.
    describe = ray.remote(num_cpus=COUNTED_CORES, num_gpus=1 if on_gpu else 0)(_describe)
    started = time.monotonic()
    info, failure = ray.get(describe.remote(model, args.version))
    if info is None:
        raise ConfigError(failure)
    print(
        f"{info.name} version {info.version} on {info.engine}, {info.precision}, {info.device}: ready after "
        f"{time.monotonic() - started:.1f} s",
        file=sys.stderr,
    )
    nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
    threads = args.decoder_threads or max(1, cores // nodes)
    return Plan(model, limits, info, classifiers, nodes, threads, args.top_k)


def _describe(model: ModelSettings, version: int | None) -> tuple[ModelInfo | None, str]:
    # Paths of a config are relative to the root, and an actor begins elsewhere.
    os.chdir(ROOT)
    try:
        return create_engine(model, version).info(), ""
    except ConfigError as err:
        return None, str(err)


def _stream(
    plan: Plan, source: Source, done: frozenset[str], output: Path, on_written: Callable[[int], object]
) -> None:
    items = source.items(done)
    total = sum(item["images"] for item in items)
    if not total:
        return
    # One bar for all of it is ours.
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    blocks = min(len(items), max(-(-total // BLOCK_IMAGES), BLOCKS_PER_CLASSIFIER * plan.classifiers))
    # Fewer than are wanted would do, which Ray Data wants to be told where there are few blocks.
    classifiers = ray.data.ActorPoolStrategy(min_size=1, initial_size=plan.classifiers, max_size=plan.classifiers)
    share = COUNTED_CORES / (plan.classifiers + plan.decoders + 2)
    written = (
        ray.data.from_items(items, override_num_blocks=blocks)
        .map_batches(cast(Any, rows_of), batch_size=None, fn_args=[source, done], num_cpus=share)
        .map_batches(
            Preprocess,
            batch_size=BATCH_IMAGES,
            fn_constructor_args=[plan.limits, plan.info.preprocessing, plan.decoder_threads],
            compute=ray.data.ActorPoolStrategy(size=plan.decoders),
            num_cpus=share,
        )
        .map_batches(
            Classify,
            batch_size=BATCH_IMAGES,
            fn_constructor_args=[plan.model, plan.info.version, plan.top_k, ROOT],
            compute=classifiers,
            num_cpus=share,
            num_gpus=1 if plan.info.device == "cuda" else 0,
        )
        .map_batches(Write(output), batch_size=None, num_cpus=share)
    )
    with tqdm(total=total, unit=" images", disable=None) as progress:
        for batch in written.iter_batches(batch_size=None):
            images = int(batch["images"].sum())
            progress.update(images)
            on_written(images)


if __name__ == "__main__":
    main()
