"""The Preprocessor deployment: encoded images in, the model's pixels out, on CPU cores."""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from deployments import deadlines
from deployments.errors import ApertureError, CorruptImage, DeadlineExceeded
from deployments.imaging import preprocess
from deployments.messages import Pixels
from deployments.metrics import count_dropped
from deployments.settings import Limits, PreprocessingSpec
from deployments.workload import Workload

logger = logging.getLogger("ray.serve")

Job = tuple[bytes | Pixels, float]  # an image, seconds

# A GIF of one white pixel. Pillow imports its format plugins when it meets the first image.
WARM_UP_IMAGE = bytes.fromhex("47494638376101000100800000ffffffffffff2c00000000010001000002024401003b")


class Preprocessor:
    def __init__(self, limits: Limits, threads: int) -> None:
        self._limits = limits
        # Pillow decodes and resizes without the GIL, so threads use cores and the event loop stays free.
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        # An image is a batch of one, and a thread runs it.
        self._workload = Workload(runners=threads)
        self._queue_s = 0.0
        self._unfinished = 0
        preprocess(WARM_UP_IMAGE, PreprocessingSpec(), limits)

    async def preprocess(self, jobs: Sequence[Job], spec: PreprocessingSpec) -> Sequence[Pixels | ApertureError]:
        """For each image uint8 (crop_size, crop_size, 3), or the reason for refusing it.

        A job is an image, encoded or as uint8 (H, W, 3), and for how many seconds the caller still waits; what has
        expired when its turn comes is dropped.
        A refusal is returned, not raised: it is an answer, and Serve would count and log it as a replica's failure.
        """
        self._workload.arrive(len(jobs))
        return await asyncio.gather(*(self._in_turn(image, spec, deadlines.after(left)) for image, left in jobs))

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What autoscaling goes by (deployments/autoscaling.py). Serve calls this every metrics_interval_s."""
        waiting = max(0, self._unfinished - self._workload.runners)
        return self._workload.figures(waiting=waiting, queue_s=self._queue_s, max_batch_size=1)

    async def _in_turn(self, image: bytes | Pixels, spec: PreprocessingSpec, deadline: float) -> Pixels | ApertureError:
        submitted, loop = time.monotonic(), asyncio.get_running_loop()
        self._unfinished += 1
        try:
            started, ended, outcome = await loop.run_in_executor(self._decoders, self._timed, image, spec, deadline)
        finally:
            self._unfinished -= 1
        self._queue_s += started - submitted
        self._workload.batches.add(1, ended - started)
        return outcome

    def _timed(
        self, image: bytes | Pixels, spec: PreprocessingSpec, deadline: float
    ) -> tuple[float, float, Pixels | ApertureError]:
        started = time.monotonic()
        if started > deadline:
            count_dropped("preprocessor", "expired")
            return started, started, DeadlineExceeded("The deadline passed while the image waited to be decoded.")
        outcome = self._preprocess(image, spec)
        return started, time.monotonic(), outcome

    def _preprocess(self, image: bytes | Pixels, spec: PreprocessingSpec) -> Pixels | ApertureError:
        try:
            return preprocess(image, spec, self._limits)
        except ApertureError as refusal:
            if refusal.__cause__ is not None:
                logger.info("Refused an image: %s (%r)", refusal, refusal.__cause__)
            return refusal
        except MemoryError:
            logger.exception("Out of memory while decoding an image within the limits")
            return CorruptImage("The image needs more memory to decode than this service has.")
