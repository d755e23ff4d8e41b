"""Where images are decoded: here, in a few threads, or, if it could take long, in processes that can be stopped.

A thread cannot be killed, and a crash of native code takes its process with it. So only what is certainly short
(deployments/decode_cost.py: ordinary photographs) is decoded in this process. Whatever else comes waits in a line of
its own for one of as many decoders (deployments/decoder.py), where an image that takes too much time or memory, or
crashes, is refused alone. The first image that needs a decoder starts it; so does the next one after it was killed.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from deployments.decode_cost import is_short
from deployments.decoder_process import NOT_DECODED, DecoderProcess, Lost
from deployments.errors import ApertureError, CorruptImage, DeadlineExceeded, InferenceFailed
from deployments.imaging import OUT_OF_MEMORY, begins_like_an_image, preprocess, warm_up
from deployments.messages import Pixels
from deployments.metrics import count_dropped
from deployments.settings import Limits, PreprocessingSpec

logger = logging.getLogger("ray.serve")

Outcome = Pixels | ApertureError

# What it takes to start a decoder, about. Work for which nobody waits is not stopped before it has taken as long.
RESTART_S = 0.5


@dataclass(frozen=True, slots=True)
class Decoded:
    """`started` and `ended` are of this process's monotonic clock; what was dropped ended when it started."""

    started: float
    ended: float
    outcome: Outcome


@dataclass(slots=True)
class _Job:
    image: bytes | Pixels
    spec: PreprocessingSpec
    deadline: float
    stopped: bool = False
    at: DecoderProcess | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, decoder: DecoderProcess | None) -> bool:
        """Notes where the job is being done; False if it is not to be done any more."""
        with self.lock:
            self.at = decoder
            return not self.stopped

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            if self.at is not None:
                self.at.kill()


class Decoders:
    """`threads` for what is short, and as many processes for the rest."""

    def __init__(self, limits: Limits, threads: int) -> None:
        self._limits = limits
        # Pillow decodes and resizes without the GIL, so threads use cores and the event loop stays free.
        self._short = ThreadPoolExecutor(threads, "decode")
        # Each waits for a process of its own.
        self._long = ThreadPoolExecutor(threads, "decoder")
        self._own = threading.local()
        self._processes: set[DecoderProcess] = set()
        self._closed = False
        warm_up(limits)

    async def preprocess(self, image: bytes | Pixels, spec: PreprocessingSpec, deadline: float) -> Decoded:
        """Pixels or a refusal, which is returned, not raised.

        What has expired when its turn comes is dropped, and what its caller no longer waits for is dropped or stopped.
        """
        job = _Job(image, spec, deadline)
        if not isinstance(image, bytes) or is_short(image, spec) or not begins_like_an_image(image):
            future = self._short.submit(self._in_turn, job, self._here)
        else:
            future = self._long.submit(self._in_turn, job, self._elsewhere)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            _abandon(job, future)
            raise

    def close(self) -> None:
        """Ends the threads and processes, whatever they are at."""
        self._closed = True
        for threads in (self._short, self._long):
            threads.shutdown(wait=False, cancel_futures=True)
        for process in self.processes():
            process.kill()
        self._long.shutdown()
        for process in self.processes():
            process.close()

    def processes(self) -> list[DecoderProcess]:
        """Those that have been started and not replaced."""
        return list(self._processes)

    def _in_turn(self, job: _Job, decode: Callable[[_Job], Outcome]) -> Decoded:
        started = time.monotonic()
        if started > job.deadline:
            count_dropped("preprocessor", "expired")
            expired = DeadlineExceeded("The deadline passed while the image waited to be decoded.")
            return Decoded(started, started, expired)
        try:
            outcome = decode(job)
        except Exception:  # It is not the others' in the same call.
            logger.exception("An image could not be preprocessed")
            outcome = InferenceFailed("The image could not be preprocessed because of an internal error.")
        return Decoded(started, time.monotonic(), outcome)

    def _here(self, job: _Job) -> Outcome:
        try:
            return preprocess(job.image, job.spec, self._limits)
        except ApertureError as refusal:
            if refusal.__cause__ is not None:
                logger.info("Refused an image: %s (%r)", refusal, refusal.__cause__)
            return refusal
        except MemoryError:
            logger.exception("Out of memory while decoding an image within the limits")
            return CorruptImage(OUT_OF_MEMORY)

    def _elsewhere(self, job: _Job) -> Outcome:
        assert isinstance(job.image, bytes)
        # Twice, because a decoder may have been killed by whoever needed its memory.
        for _ in range(2):
            try:
                process = self._own_process()
                if not job.enter(process):
                    break
                wall_s = max(RESTART_S, job.deadline - time.monotonic())
                return process.preprocess(job.image, job.spec, self._limits.decode_timeout_s, wall_s)
            except Lost as err:
                logger.warning("A decoder was lost: %s", err)
            finally:
                job.enter(None)
        return CorruptImage(NOT_DECODED)

    def _own_process(self) -> DecoderProcess:
        process: DecoderProcess | None = getattr(self._own, "process", None)
        if process is None or process.has_ended:
            if process is not None:
                self._processes.discard(process)
            process = self._own.process = DecoderProcess(self._limits)
            self._processes.add(process)
        if self._closed:  # After it was added: `close` has seen it, or this sees that all is closed.
            process.close()
            raise Lost("the service has ended")
        return process


def _abandon(job: _Job, future: "Future[Decoded]") -> None:
    if future.cancel():
        count_dropped("preprocessor", "abandoned")
        job.image = b""  # The thread that finds the job cancelled, and holds it until then, may be busy for seconds.
    else:
        asyncio.get_running_loop().call_later(RESTART_S, job.stop)
