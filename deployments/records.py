"""One record to a request: opened where it comes in, filled on the way, and closed once.

What is closed feeds the metrics and is a line in the request log (request_log.py), if there is one. Its stages follow
each other and add up to its whole time, in whole hundredths of a millisecond:

    admission     until the images are handed to the data plane: reading, parsing, waiting at the door
    preprocess    of its slowest image
    queue         of its slowest image, hops to the model included
    inference     of its slowest image's batch
    response      all the rest; of a request that failed, all that came after its admission

Nothing of what a client sends is kept here but how much of it came. The names are the service's own: a route is what it
is declared as, and a model is one that is served. The request's id may be a client's, if it is one that a log can
repeat (protocols/request_ids.py).
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

from deployments import metrics, tracing
from deployments.errors import ApertureError
from deployments.messages import Answer, Cached, ModelInfo
from deployments.metrics import STAGES, Protocol, Result, Stage

CLIENT_LEFT: Final = "client_left"
# To a second. Durations are counted in them, so that they add up to the last digit.
TICKS: Final = 100_000
TICKS_OF_MS: Final = TICKS / 1000
# Where answers came from, what cost most first.
COSTLIEST: Final[Sequence[Cached]] = ("miss", "joined", "hit")

_current: ContextVar["Record | None"] = ContextVar("record", default=None)
_write_line: "Callable[[dict[str, Any]], None] | None" = None


class Record:
    """`started`: time.monotonic() when the request came."""

    __slots__ = (
        *("protocol", "route", "request_id", "started", "status", "outcome", "result", "is_answered"),
        *("model", "version", "images", "failed_images", "size_bytes", "megapixels", "batch_size", "cached"),
        *("key", "trace_id", "_stages_s", "_refused_images", "_is_closed"),
    )

    def __init__(self, protocol: Protocol, route: str | None, request_id: str, started: float) -> None:
        self.protocol: Protocol = protocol
        # As it is declared, or the name of an RPC or of a method; None if there is no such route.
        self.route = route
        self.request_id = request_id
        self.started = started
        # Of HTTP, and of what a handle would have got by HTTP; of gRPC the number of its code.
        self.status: int | None = None
        self.outcome = "ok"
        self.result: Result = "ok"
        # Whether all of the answer has been handed over. Whoever leaves then has got it.
        self.is_answered = False
        self.model = ""
        self.version: int | None = None
        self.images = self.failed_images = self.size_bytes = 0
        self.megapixels = 0.0
        self.batch_size: int | None = None
        self.cached: Cached | None = None
        # The name of the API key.
        self.key: str | None = None
        self.trace_id = tracing.trace_id()
        self._stages_s: dict[Stage, float] = {}
        self._refused_images: list[str] = []  # Their codes.
        self._is_closed = False

    def chose(self, info: ModelInfo) -> None:
        """That version is to answer."""
        self.model, self.version = info.name, info.version

    def admitted(self, sizes_bytes: Sequence[int], megapixels: Sequence[float]) -> None:
        """So many images, of those sizes, go to the data plane now. What else is asked for of them later is no more."""
        if "admission" in self._stages_s:
            return
        self.images, self.size_bytes, self.megapixels = len(sizes_bytes), sum(sizes_bytes), sum(megapixels)
        self._stages_s["admission"] = time.monotonic() - self.started

    def answered(self, outcomes: Sequence[Answer | ApertureError]) -> None:
        """What became of the images."""
        answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
        self._refused_images = [outcome.code for outcome in outcomes if isinstance(outcome, ApertureError)]
        self.failed_images = len(self._refused_images)
        if not answers:
            return
        slowest = max(answers, key=lambda answer: answer.stages.total_s())
        stages = slowest.stages
        self.batch_size = slowest.batch_size
        self._stages_s |= {"preprocess": stages.preprocess_s, "queue": stages.queue_s, "inference": stages.inference_s}
        found = {answer.cached for answer in answers}
        self.cached = next((cached for cached in COSTLIEST if cached in found), None)

    def fail(self, error: ApertureError) -> None:
        """It is answered with that error."""
        self.end(error.code, error.http_status)

    def end(self, outcome: str, http_status: int) -> None:
        """As `fail`, with a code and a status of our own."""
        self.outcome = outcome
        self.result = "failed" if http_status >= 500 or http_status == 408 else "refused"

    def leave(self) -> None:
        """Nobody is there any more for the answer."""
        if not self.is_answered:
            self.outcome, self.result, self.status = CLIENT_LEFT, "client_left", None

    def stages_ms(self, total_s: float) -> dict[Stage, float]:
        """All of them, in order; they add up to `total_ms` of the same time."""
        ticks = {stage: _ticks(self._stages_s.get(stage, 0.0)) for stage in STAGES[:-1]}
        if "admission" not in self._stages_s:
            ticks["admission"] = _ticks(total_s)
        ticks["response"] = max(0, _ticks(total_s) - sum(ticks.values()))
        return {stage: count / TICKS_OF_MS for stage, count in ticks.items()}

    def close(self) -> None:
        """Counts the request and writes its line. Only the first time."""
        if self._is_closed:
            return
        self._is_closed = True
        self._describe_span()
        total_s = time.monotonic() - self.started
        stages_ms = self.stages_ms(total_s)
        self._count(stages_ms)
        if _write_line is not None:
            _write_line(self._line(stages_ms))

    def _count(self, stages_ms: dict[Stage, float]) -> None:
        metrics.REQUESTS.add(1, self.protocol, self.model, self.outcome)
        total_s = sum(stages_ms.values()) / 1000
        metrics.REQUEST_DURATION.observe(total_s, self.protocol, self.model, self.result)
        if self.images:
            metrics.RECEIVED_IMAGES.add(self.images, self.protocol, self.model)
            metrics.RECEIVED_BYTES.add(self.size_bytes, self.protocol, self.model)
            metrics.RECEIVED_PIXELS.add(self.megapixels * 1e6, self.protocol, self.model)
        for code in self._refused_images if self.result == "ok" else self._refusal():
            metrics.REFUSALS.add(1, code)
        # A heat map takes seconds, which are no stage of an image.
        if self.images and self.result == "ok" and self.protocol != "explain":
            for stage, duration_ms in stages_ms.items():
                metrics.STAGE_DURATION.observe(duration_ms / 1000, self.model, stage)

    def _refusal(self) -> Sequence[str]:
        """The code of a request that was refused as a whole."""
        return () if self.result == "client_left" else (self.outcome,)

    def _describe_span(self) -> None:
        if self.trace_id is None:
            return
        found = {
            "request_id": self.request_id,
            "model.name": self.model,
            "model.version": self.version,
            "images": self.images,
            "images.failed": self.failed_images,
            "cached": self.cached,
        }
        if self.outcome != "ok":
            tracing.note({"error.type": self.outcome})
        tracing.note({f"aperture.{name}": value for name, value in found.items() if value})

    def _line(self, stages_ms: dict[Stage, float]) -> dict[str, Any]:
        total_ms = sum(stages_ms.values())
        return {
            "ts": datetime.fromtimestamp(time.time() - total_ms / 1000, UTC),
            "request_id": self.request_id,
            "trace_id": self.trace_id,
            "protocol": self.protocol,
            "route": self.route,
            "status": self.status,
            "outcome": self.outcome,
            "model": self.model or None,
            "version": self.version,
            "images": self.images,
            "failed_images": self.failed_images,
            "bytes_in": self.size_bytes,
            "megapixels": round(self.megapixels, 3),
            "batch_size": self.batch_size,
            "cached": self.cached,
            "key": self.key,
            "stages_ms": {stage: round(duration_ms, 2) for stage, duration_ms in stages_ms.items()},
            "total_ms": round(total_ms, 2),
        }


@contextmanager
def opened(protocol: Protocol, route: str | None, request_id: str, started: float | None = None) -> Iterator[Record]:
    """The record of the request that the block handles; closed at its end, whatever that is."""
    record = Record(protocol, route, request_id, time.monotonic() if started is None else started)
    token = _current.set(record)
    try:
        yield record
    except (asyncio.CancelledError, GeneratorExit):
        record.leave()
        raise
    except Exception as err:
        error = err if isinstance(err, ApertureError) else ApertureError("")
        record.fail(error)
        record.status = record.status or error.http_status
        raise
    finally:
        record.close()
        # What is given up, and collected later, ends in another context.
        with suppress(ValueError):
            _current.reset(token)


def current() -> Record:
    """That of the request that is being handled; where there is none, one that nobody reads."""
    return _current.get() or Record("other", None, "", time.monotonic())


def write_to(write_line: Callable[[dict[str, Any]], None] | None) -> None:
    """From now on each record of this process that is closed becomes a line there; None: nowhere."""
    global _write_line
    _write_line = write_line


def _ticks(duration_s: float) -> int:
    return round(duration_s * TICKS)
