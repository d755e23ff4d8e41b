"""Spans of what a Preprocessor and a Classifier do for images of requests that are traced (tracing.py).

They are made when the work is done, of moments in time.monotonic() that it has noted anyway.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deployments.errors import ApertureError
from deployments.messages import ModelInfo, Pixels
from deployments.trace_context import TraceContext
from deployments.tracing import ImageTrace, note_error, spans

if TYPE_CHECKING:
    from deployments.spans import Spans


@dataclass(slots=True)
class Traced:
    """Pixels that wait for a batch since `arrived`, which is None once there is a span of that."""

    pixels: Pixels
    trace: ImageTrace
    arrived: float | None


def record_decode(trace: ImageTrace | None, started: float, ended: float, waited_s: float, outcome: object) -> None:
    """What a Preprocessor has done for an image. `waited_s`: before that, for a thread or a decoder."""
    if trace is None or not trace.has_spans or (here := spans()) is None:
        return
    decode = here.part("decode", trace.context, started)
    decode.set_attribute("aperture.waited_s", round(waited_s, 6))
    if isinstance(outcome, ApertureError):
        note_error(here, decode, outcome)
    here.end(decode, ended)


def record_batch(
    items: Sequence[Pixels | Traced],
    info: ModelInfo,
    started: float,
    ended: float,
    results: Sequence[object] | BaseException,
) -> None:
    """What an engine has run, if anything in it is traced. `results`: of each item, or why there are none."""
    traced = [(index, item) for index, item in enumerate(items) if isinstance(item, Traced)]
    if not traced or (here := spans()) is None:
        return
    requests = dict.fromkeys(item.trace.context for _, item in traced)
    batch = here.part("batch", None, started, links=list(requests))
    batch.set_attributes(_attributes_of(info, len(items)))
    if isinstance(results, BaseException):
        note_error(here, batch, results)
    for index, item in traced:
        if item.trace.has_spans:
            result = results if isinstance(results, BaseException) else results[index]
            _record_item(here, item, here.context_of(batch), started, ended, result)
    here.end(batch, ended)


def _record_item(
    here: "Spans", item: Traced, batch: TraceContext, started: float, ended: float, result: object
) -> None:
    if item.arrived is not None:
        here.end(here.part("queue", item.trace.context, item.arrived), started)
        item.arrived = None
    inference = here.part("inference", item.trace.context, started, links=[batch])
    if isinstance(result, BaseException):
        note_error(here, inference, result)
    here.end(inference, ended)


def _attributes_of(info: ModelInfo, size: int) -> dict[str, str | int]:
    return {
        "aperture.batch.size": size,
        "aperture.model.name": info.name,
        "aperture.model.version": info.version,
        "aperture.engine": info.engine,
        "aperture.precision": info.precision,
        "aperture.device": info.device,
    }
