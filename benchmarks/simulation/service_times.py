"""How long everything takes, and where each figure comes from.

Work is in CPU-seconds of one core. The defaults were measured on the machine of docs/benchmarks.md (2 virtual cores of
an AMD EPYC, Zen 3, 2.45 GHz); docs/scaling.md has the derivation. For another machine, measure there:
benchmarks.engines, benchmarks.preprocess and benchmarks.overhead print what `calibration` reads. There are no defaults
for GPUs.
"""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MS = 1e-3
# The ratio of the 90th percentile to the median of a log-normal distribution is exp(1.2816 sigma).
NORMAL_P90 = 1.2816


@dataclass(frozen=True)
class BatchTimes:
    """Seconds a batch by its size; between the sizes that were measured on a straight line, beyond the last one in
    proportion to it, below the first as long as that."""

    seconds: Mapping[int, float]

    def __post_init__(self) -> None:
        if not self.seconds or min(self.seconds) < 1 or min(self.seconds.values()) <= 0:
            raise ValueError(f"Batch times need sizes of at least 1 and times above 0, not {dict(self.seconds)!r}.")

    def table(self, largest: int) -> list[float]:
        """Seconds for a batch of 0 (nothing), 1, ... `largest`."""
        sizes = sorted(self.seconds)
        times = [self.seconds[size] for size in sizes]
        within = np.interp(range(largest + 1), sizes, times)
        beyond = times[-1] / sizes[-1]
        return [0.0, *(float(within[n]) if n <= sizes[-1] else n * beyond for n in range(1, largest + 1))]


@dataclass(frozen=True)
class HopTimes:
    """What an image costs besides decoding and inference, in CPU-seconds. `request` is paid once for each HTTP request,
    `image` for each image, `call` once for each call between deployments, whatever it carries, and `wake` whenever a
    process has slept, with `cold_wake` on top if it was for long."""

    proxy_request_s: float
    ingress_request_s: float
    ingress_call_s: float  # sending it and receiving its answer
    preprocessor_image_s: float  # without decoding
    preprocessor_call_s: float
    classifier_image_s: float  # without the engine
    classifier_call_s: float
    wake_s: float = 0.0
    cold_wake_s: float = 0.0


@dataclass(frozen=True)
class ServiceTimes:
    hops: HopTimes
    decode_median_s: float
    decode_p90_s: float
    batches: BatchTimes
    # Of all processes of Ray and Serve while nobody asks, on a node with the head: cores.
    idle_cores: float
    # 90th percentile of a batch's time by its median, for the same batch run over and over.
    batch_p90_ratio: float = 1.0
    # How much longer the same work takes when all cores of a small node are busy.
    slowdown: float = 1.0
    # One way between two nodes.
    network_s: float = 0.0
    sources: Mapping[str, str] = field(default_factory=dict)

    def decode_s(self, images: int, seed: int) -> NDArray[np.float64]:
        """(images,) CPU-seconds of decoding, log-normal about the median; the same for the same seed."""
        sigma = max(0.0, math.log(self.decode_p90_s / self.decode_median_s) / NORMAL_P90)
        normal = np.random.default_rng(seed).standard_normal(images)
        return self.decode_median_s * np.exp(sigma * normal)

    def batch_s(self, largest: int, seed: int) -> Callable[[int], float]:
        """Draws how long a batch of that size takes, up to `largest`; log-normal about its time."""
        table = self.batches.table(largest)
        sigma = math.log(max(1.0, self.batch_p90_ratio)) / NORMAL_P90
        if sigma == 0:
            return table.__getitem__
        draw = random.Random(seed).gauss
        return lambda size: table[size] * math.exp(draw(0.0, sigma))


# What a request costs that goes through the whole graph with next to no work in it, by the number of callers: CPU-ms,
# and requests a second; IDLE_CORES are taken besides. calibration.hop_times makes HopTimes of them.
OVERHEAD_CPU_MS = {1: 14.4, 8: 10.0, 32: 6.9}
OVERHEAD_PER_SECOND = {1: 81.7, 8: 166.4, 32: 242.0}
IDLE_CORES = 0.19
# Of one call between deployments, in both processes together, without what 150 KB of payload cost (docs/lab-notes.md,
# Hops: 0.9 of 1.0 to 1.4 ms).
CALL_S = 0.9 * MS
# How it is split over the processes, by their profile at 32 callers (docs/benchmarks.md).
PROFILE_CPU_MS = {"proxy": 0.6, "ingress": 2.5, "preprocessor": 1.7, "classifier": 0.9}
# The same requests took 1.26 to 1.40 times the CPU at 15 a second (open loop) that they took from one caller in the
# same run: 4 ms more of 12, with four processes to wake from a long sleep.
COLD_WAKE_S = 1.0 * MS
# What hop_times finds for those; a test holds the two together.
DEFAULT_HOPS = HopTimes(
    proxy_request_s=0.56 * MS,
    ingress_request_s=2.35 * MS,
    ingress_call_s=0.45 * MS,
    preprocessor_image_s=1.6 * MS,
    preprocessor_call_s=0.45 * MS,
    classifier_image_s=0.85 * MS,
    classifier_call_s=0.45 * MS,
    wake_s=0.59 * MS,
    cold_wake_s=COLD_WAKE_S,
)
DECODE_MEDIAN_S = 4.41 * MS
ENGINE_BATCHES = BatchTimes({1: 1 / 20.7, 8: 8 / 19.9})
# img/s of two processes that decode and classify at once, by batch size: "limit" in docs/benchmarks.md.
ENGINE_LIMITS = {1: 34.2, 8: 37.6}
