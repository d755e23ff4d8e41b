"""What the engines can do by themselves, and what the machine could serve at most: no server, no network.

    python -m benchmarks.engines [--model models/NAME] [--engines NAME ...] [--photos DIR] [--batch-sizes 1 2 4 8]

For every engine and precision that is installed, img/s of

    batch of N      `infer` alone, in one process with one thread
    limit, N        as many such processes as there are cores, each decoding N photographs and classifying them, over
                    and over: no server on this machine can be faster than the better of the two

and what the numeric guard finds on the model's golden images. Each measurement runs in processes of its own, so that
the thread pools of two libraries never meet.
"""

import argparse
import itertools
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.synchronize import Barrier
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.arguments import CORES, ROUNDS
from benchmarks.pictures import photographs
from benchmarks.report import document, matrix, summarize
from benchmarks.subjects import model_args
from deployments.engines.artefacts import Artefacts
from deployments.engines.base import Engine
from deployments.engines.guard import Verdict
from deployments.engines.loading import load
from deployments.engines.registry import KINDS, Choice
from deployments.errors import ConfigError
from deployments.imaging import preprocess
from deployments.messages import Pixels
from deployments.settings import Limits, ModelSettings, Precision

BATCH_SIZES = (1, 2, 4, 8)
SECONDS = 3.0
PRECISIONS: tuple[str, ...] = get_args(Precision)
# Until all processes have loaded their engine.
LOAD_TIMEOUT_S = 300.0
LIMITS = Limits()

Row = dict[str, dict[str, float]]  # by load and metric, as in benchmarks.report


@dataclass(frozen=True)
class Job:
    """What a process of its own measures. Plain data, since it travels there."""

    choice: Choice
    model: dict[str, Any]  # the keys of ModelSettings
    device: Literal["cpu", "cuda"]
    pictures: Sequence[bytes]
    batch_sizes: Sequence[int]
    seconds: float


def main() -> None:
    args = _arguments()
    jobs, refusals, verdicts = _jobs(args), {}, {}
    rows: dict[str, list[Row]] = {}
    for number, job in tqdm(list(itertools.product(range(args.rounds), jobs)), desc="engines", unit="engine"):
        name = str(job.choice)
        if name in refusals:
            continue
        try:
            row, verdicts[name] = measure(job)
        except ConfigError as refusal:
            refusals[name] = str(refusal)
            tqdm.write(f"round {number + 1}: {refusal}")
            continue
        rows.setdefault(name, []).append(row)
    results = {name: summarize(found) for name, found in rows.items()}
    print(f"\n{matrix(results, 'per_second')}\n")
    for name in results:
        print(f"{name:24}{verdicts[name]}")
    guard = {name: asdict(verdict) for name, verdict in verdicts.items()}
    print(document("engines", args.rounds, vars(args), results, guard=guard, refused=refusals))


def measure(job: Job) -> tuple[Row, Verdict]:
    """The engine alone and, on a CPU, as many as there are cores. Raises ConfigError if it cannot be loaded."""
    (row, verdict) = _in_processes(1, _alone, job)[0]
    if job.device == "cpu":
        shares = _in_processes(CORES, _share, job)
        row |= {load: {"per_second": sum(share[load] for share in shares)} for load in shares[0]}
    return row, verdict


def _in_processes(count: int, run: Callable[[Job], Any], job: Job) -> list[Any]:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count, timeout=LOAD_TIMEOUT_S)
    with ProcessPoolExecutor(count, context, initializer=_join, initargs=(barrier,)) as pool:
        return list(pool.map(run, [job] * count))


_barrier: Barrier


def _join(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _alone(job: Job) -> tuple[Row, Verdict]:
    engine, verdict = _load(job)
    pixels = [_decode(picture, engine) for picture in job.pictures[: max(job.batch_sizes)]]
    batches = {size: np.resize(np.stack(pixels), (size, *pixels[0].shape)) for size in job.batch_sizes}  # (N, H, W, 3)
    row = {
        f"batch of {size}": {"per_second": size * _runs_per_second(partial(_infer, engine, batch), job.seconds)}
        for size, batch in batches.items()
    }
    return row, verdict


def _share(job: Job) -> dict[str, float]:
    """img/s of this process by load, while the others do the same."""
    engine, _ = _load(job)
    shares = {}
    for size in sorted({1, max(job.batch_sizes)}):
        _barrier.wait()
        run = partial(_decode_and_infer, engine, job, size)
        shares[f"limit, {size}"] = size * _runs_per_second(run, job.seconds)
    return shares


def _infer(engine: Engine, batch: NDArray[np.uint8], _: int) -> None:
    engine.infer(batch)


def _decode_and_infer(engine: Engine, job: Job, size: int, run: int) -> None:
    chosen = (job.pictures[(run * size + offset) % len(job.pictures)] for offset in range(size))
    engine.infer([_decode(picture, engine) for picture in chosen])


def _runs_per_second(run: Callable[[int], None], seconds: float) -> float:
    started, runs = time.perf_counter(), 0
    while (elapsed_s := time.perf_counter() - started) < seconds:
        run(runs)
        runs += 1
    return runs / elapsed_s


def _load(job: Job) -> tuple[Engine, Verdict]:
    return load(Artefacts(ModelSettings.model_validate(job.model)), job.choice, job.device)


def _decode(picture: bytes, engine: Engine) -> Pixels:
    return preprocess(picture, engine.info().preprocessing, LIMITS)


def _jobs(args: argparse.Namespace) -> list[Job]:
    pictures = photographs(args.photos)
    return [
        Job(choice, _model(args, choice), args.device, pictures, args.batch_sizes, args.seconds)
        for choice in _installed(args.engines, args.device)
        if choice.precision in args.precisions
    ]


def _model(args: argparse.Namespace, choice: Choice) -> dict[str, Any]:
    return model_args(
        args.model,
        engine=choice.engine,
        precision=choice.precision,
        max_batch_size=max(args.batch_sizes),
        device=args.device,
    )


def _installed(engines: Sequence[str], device: Literal["cpu", "cuda"]) -> list[Choice]:
    return [
        Choice(name, precision)
        for name, kind in KINDS.items()
        if name in engines and kind.is_installed()
        for precision in kind.precisions.get(device, ())
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a directory like models/NAME; default: a ResNet-18 of made-up weights")
    parser.add_argument("--engines", nargs="+", default=tuple(KINDS), choices=tuple(KINDS), help="leave the others out")
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS, help="leave the others out")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--photos", help="a folder of pictures to decode; default: made-up ones of 500 x 375")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=BATCH_SIZES)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="medians are over this many")
    return parser.parse_args()


if __name__ == "__main__":
    main()
