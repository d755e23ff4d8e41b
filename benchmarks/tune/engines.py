"""The engines alone, without a service: which pass the numeric guard, how fast they are, and which are worth serving.

What this costs is seconds for each, and what it saves are served measurements of half a minute. Of several runs the
fastest counts, as for `engine: auto`: other work on the machine only ever adds.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Self

from benchmarks.tune.candidate import Subject
from deployments.engines.artefacts import Artefacts
from deployments.engines.loading import load
from deployments.engines.measurement import images_per_s
from deployments.engines.registry import KINDS, Choice, Device
from deployments.errors import ConfigError
from deployments.imaging import preprocess
from deployments.settings import EngineName, Limits, ModelSettings, Precision, PreprocessingSpec

# One engine is left out for another only if that is better by more than such short measurements are off.
CLEARLY = 1.15
DECODED, DECODE_RUNS = 8, 3


@dataclass(frozen=True)
class Speed:
    """One engine and precision that may be served. `alone` are img/s of one thread, or of the device, by batch size;
    `decode_s` is what decoding an image takes."""

    engine: EngineName
    precision: Precision
    alone: dict[int, float]
    decode_s: float
    verdict: str  # of the numeric guard

    @property
    def choice(self) -> Choice:
        return Choice(self.engine, self.precision)

    @property
    def best(self) -> float:
        return max(self.alone.values())

    def batch_ms(self, size: int) -> float:
        return 1000 * size / self.alone[size]


@dataclass(frozen=True)
class Engines:
    """`refused`: why each of the others is not to be served, the guard's figures included."""

    speeds: Sequence[Speed]
    refused: dict[str, str]

    def record(self) -> dict[str, Any]:
        return {"speeds": [asdict(speed) for speed in self.speeds], "refused": self.refused}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """JSON has made strings of the batch sizes."""
        speeds = [
            Speed(**{**each, "alone": {int(size): speed for size, speed in each["alone"].items()}})
            for each in record["speeds"]
        ]
        return cls(speeds, record["refused"])

    @property
    def decode_s(self) -> float:
        """Engines decode alike, so the fastest that was seen is what it takes."""
        return min((speed.decode_s for speed in self.speeds), default=0.0)

    def limit(self, speed: Speed, cores: int) -> float:
        """img/s above which no service gets whose cores decode and classify, and do nothing else."""
        return cores / (self.decode_s + 1 / speed.best)

    def lone_ms(self, speed: Speed) -> float:
        """Of an image that is decoded and classified by itself."""
        return 1000 * self.decode_s + speed.batch_ms(1)


def installed(
    subject: Subject, device: Device, engines: Sequence[str] | None = None, precisions: Sequence[str] | None = None
) -> list[Choice]:
    """What can run the model on the device: of the engines that `engine: auto` considers, or of those named."""
    kind = Artefacts(subject.model_settings).format
    return [
        Choice(name, precision)
        for name, each in KINDS.items()
        if each.is_installed() and (device in each.automatic if engines is None else name in engines)
        for precision in each.offered(device, kind)
        if precisions is None or precision in precisions
    ]


def measured(
    subject: Subject,
    choices: Sequence[Choice],
    device: Device,
    pictures: Sequence[bytes],
    batch_sizes: Sequence[int],
    done: Callable[[str], object],
) -> Engines:
    """One after the other; `done` is told the name of each."""
    speeds: list[Speed] = []
    refused: dict[str, str] = {}
    for choice in choices:
        job = _Job(_settings(subject, choice, max(batch_sizes)), choice, device, pictures, batch_sizes)
        try:
            # A process of its own, so that the thread pools of two libraries never meet.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                speeds.append(pool.submit(_measure, job).result())
        except ConfigError as refusal:
            refused[str(choice)] = str(refusal)
        except Exception as err:  # A process that crashed, or a library's own kind; the others may work.
            refused[str(choice)] = f"{choice} cannot be measured: {type(err).__name__}: {err}"
        done(str(choice))
    return Engines(speeds, refused)


def worth_serving(engines: Engines, goal_ms: float, threads: int) -> tuple[list[Choice], dict[str, str]]:
    """The engines that no other is clearly better than both for one image and under load, and why the rest is not.

    Decoding counts: where it takes most of the time, a faster engine gains little. An engine whose lone image takes
    longer than the goal even if `threads` divided that time perfectly has no chance.
    """
    kept: list[Choice] = []
    left_out: dict[str, str] = {}
    for speed in engines.speeds:
        better = [other for other in engines.speeds if _is_clearly_better(engines, other, speed)]
        if speed.batch_ms(1) / threads > goal_ms:
            left_out[str(speed.choice)] = f"one image takes {speed.batch_ms(1):.0f} ms on one thread"
        elif better:
            best = max(better, key=lambda other: other.best)
            left_out[str(speed.choice)] = f"{_told(engines, speed)}, where {best.choice} has {_told(engines, best)}"
        else:
            kept.append(speed.choice)
    return kept, left_out


def batch_sizes_worth_trying(
    engines: Engines, kept: Sequence[Choice], sizes: Sequence[int], goal_ms: float, threads: int
) -> list[int]:
    """Those whose full batch can be done within the goal on one of the engines, if threads divide its time."""
    speeds = [speed for speed in engines.speeds if speed.choice in kept]
    return [
        size
        for size in sizes
        if size == min(sizes) or any(speed.batch_ms(size) / threads <= goal_ms for speed in speeds)
    ]


def _is_clearly_better(engines: Engines, one: Speed, other: Speed) -> bool:
    is_sooner = CLEARLY * engines.lone_ms(one) < engines.lone_ms(other)
    return is_sooner and engines.limit(one, 1) > CLEARLY * engines.limit(other, 1)


def _told(engines: Engines, speed: Speed) -> str:
    return f"with decoding {engines.lone_ms(speed):.3g} ms an image and {engines.limit(speed, 1):.3g} img/s on a core"


def _settings(subject: Subject, choice: Choice, max_batch_size: int) -> dict[str, Any]:
    model = subject.config["applications"][0]["args"]["models"][subject.place]
    return {
        **model,
        "engine": choice.engine,
        "precision": choice.precision,
        "max_batch_size": max_batch_size,
        "threads": 1,
        "lone_threads": None,
        "on_refusal": "fail",
    }


@dataclass(frozen=True)
class _Job:
    """Plain data, since it travels to another process; `model` are the keys of ModelSettings."""

    model: dict[str, Any]
    choice: Choice
    device: Device
    pictures: Sequence[bytes]
    batch_sizes: Sequence[int]


def _measure(job: _Job) -> Speed:
    """Raises ConfigError if the engine is refused."""
    artefacts = Artefacts(ModelSettings.model_validate(job.model))
    engine, verdict = load(artefacts, job.choice, job.device)
    pixels = artefacts.golden.pixels
    alone = {size: images_per_s(engine, pixels, size, runners=1) for size in job.batch_sizes}
    decode_s = _decode_s(job.pictures[:DECODED], engine.info().preprocessing)
    return Speed(job.choice.engine, job.choice.precision, alone, decode_s, str(verdict))


def _decode_s(pictures: Sequence[bytes], spec: PreprocessingSpec) -> float:
    """The mean over the pictures of the fastest run of each."""
    limits, fastest_s = Limits(), []
    for picture in pictures:
        runs_s = []
        for _ in range(DECODE_RUNS):
            started = time.perf_counter()
            preprocess(picture, spec, limits)
            runs_s.append(time.perf_counter() - started)
        fastest_s.append(min(runs_s))
    return sum(fastest_s) / len(fastest_s)
