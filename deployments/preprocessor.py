"""The Preprocessor deployment: encoded images in, the model's pixels out, on CPU cores."""

import asyncio
import time
from collections.abc import Sequence

from ray import serve

from deployments import deadlines, tracing
from deployments.decoding import Decoders
from deployments.errors import ApertureError
from deployments.messages import Pixels
from deployments.metrics import expect_in, observe_queue
from deployments.settings import Limits, PreprocessingSpec, Traces
from deployments.tracing import ImageTrace
from deployments.watchdog import Watchdog
from deployments.work_spans import record_decode
from deployments.workload import Workload

Job = tuple[bytes | Pixels, float]  # an image, seconds

# A PNG of one white pixel, which costs nearly nothing, and which is decoded by this process.
BLANK = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63f80f0001"
    "010100b138f6140000000049454e44ae426082"
)
BLANK_SPEC = PreprocessingSpec(resize_size=1, crop_size=1)
# What blocks the event loop for so long has hung; nothing that belongs there takes a tenth of a second.
HANG_TIMEOUT_S = 5.0


class Preprocessor:
    def __init__(self, limits: Limits, threads: int, traces: Traces | None = None) -> None:
        self._traces = traces
        if traces is not None:
            tracing.start(traces, serve.get_replica_context())
        expect_in("Preprocessor")
        self._decoders = Decoders(limits, threads)
        # An image is a batch of one, and a thread runs it, or has it run.
        self._workload = Workload(runners=threads)
        self._queue_s = 0.0
        self._unfinished = 0
        self._watchdog = Watchdog(HANG_TIMEOUT_S)

    async def check_health(self) -> None:
        """Raises ApertureError if a tiny image is not decoded.

        Serve calls this every health_check_period_s, and first when the replica is ready. While images are being
        decoded it costs nothing: none takes longer than limits.decode_timeout_s.
        """
        self._watchdog.start()
        if self._unfinished == 0:
            decoded = await self._decoders.preprocess(BLANK, BLANK_SPEC, deadlines.after(HANG_TIMEOUT_S))
            if isinstance(decoded.outcome, ApertureError):
                raise decoded.outcome

    async def preprocess(
        self, jobs: Sequence[Job], spec: PreprocessingSpec, traces: Sequence[ImageTrace | None] | None = None
    ) -> Sequence[Pixels | ApertureError]:
        """For each image uint8 (crop_size, crop_size, 3), or the reason for refusing it.

        A job is an image, encoded or as uint8 (H, W, 3), and for how many seconds the caller still waits; what has
        expired when its turn comes is dropped. `traces`: of each image, where there are any.
        A refusal is returned, not raised: it is an answer, and Serve would count and log it as a replica's failure.
        """
        self._workload.arrive(len(jobs))
        return await asyncio.gather(
            *(
                self._in_turn(image, spec, deadlines.after(left), trace)
                for (image, left), trace in zip(jobs, traces or [None] * len(jobs), strict=True)
            )
        )

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What autoscaling goes by (deployments/autoscaling.py). Serve calls this every metrics_interval_s."""
        waiting = max(0, self._unfinished - self._workload.runners)
        return self._workload.figures(waiting=waiting, queue_s=self._queue_s, max_batch_size=1)

    def close(self) -> None:
        """Ends the decoders. A replica need not: they end with its process."""
        self._decoders.close()

    def __del__(self) -> None:
        """Serve calls this when nothing is asked any more, before it ends the process."""
        if self._traces is not None:
            tracing.stop()

    async def _in_turn(
        self, image: bytes | Pixels, spec: PreprocessingSpec, deadline: float, trace: ImageTrace | None
    ) -> Pixels | ApertureError:
        submitted = time.monotonic()
        self._unfinished += 1
        try:
            decoded = await self._decoders.preprocess(image, spec, deadline)
        finally:
            self._unfinished -= 1
        if decoded.ended > decoded.started:  # Not dropped, which would count as a batch that took no time.
            self._queue_s += decoded.started - submitted
            observe_queue("preprocessor", "", decoded.started - submitted)
            self._workload.batches.add(1, decoded.ended - decoded.started)
        record_decode(trace, decoded.started, decoded.ended, decoded.started - submitted, decoded.outcome)
        return decoded.outcome
