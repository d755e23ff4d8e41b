"""The command line that the measurements of whole systems share."""

import argparse
import os
from typing import Any, get_args

from benchmarks import pictures as photographs
from benchmarks.subjects import model_args
from deployments.settings import EngineName, Precision

SECONDS, ROUNDS = 8.0, 3
MAX_BATCH_SIZE = 8
CORES = os.cpu_count() or 1
ENGINES: tuple[str, ...] = ("auto", *get_args(EngineName))
PRECISIONS: tuple[str, ...] = ("auto", *get_args(Precision))


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", help="a directory like models/NAME; default: a ResNet-18 of made-up weights")
    made.add_argument("--engine", default="openvino", choices=ENGINES)
    made.add_argument("--precision", default="fp32", choices=PRECISIONS)
    made.add_argument("--photos", help="a folder of pictures to send; default: made-up ones of 500 x 375")
    made.add_argument("--replicas", type=int, default=CORES, help="of Aperture's model (default: one a core)")
    made.add_argument("--threads", type=int, default=1, help="of each replica of Aperture's model")
    made.add_argument("--lone-threads", type=int, help="for an image alone in its batch (default: the same)")
    made.add_argument("--max-batch-size", type=int, default=MAX_BATCH_SIZE)
    made.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    made.add_argument("--rounds", type=int, default=ROUNDS, help="medians are over this many")
    made.add_argument("--rate", type=float, help="requests a second of one more open loop, the same for all")
    return made


def model(args: argparse.Namespace, threads: int) -> dict[str, Any]:
    """ModelSettings as a Serve config has them."""
    return model_args(
        args.model,
        engine=args.engine,
        precision=args.precision,
        threads=threads,
        lone_threads=args.lone_threads,
        max_batch_size=args.max_batch_size,
    )


def pictures(args: argparse.Namespace) -> list[bytes]:
    return photographs.photographs(args.photos)


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, for the record; of folders only whether there was one."""
    record = vars(args) | {"model": args.model or "made-up ResNet-18", "photos": "given" if args.photos else "made up"}
    return dict(record)
