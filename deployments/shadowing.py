"""Mirrors: images that a version has answered, sent to a candidate as well, when real requests leave room for it.

Nobody waits for a mirror. What is offered waits in a short queue; one task takes from it, one image at a time, while
`is_free` says that there is room. What does not fit, and what waits too long, is dropped and counted. Pure asyncio:
this module knows no Ray.
"""

import asyncio
import contextvars
import hashlib
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np

from deployments.comparison import Comparison, Disagreement
from deployments.errors import ApertureError, DeadlineExceeded, InferenceFailed, Overloaded
from deployments.messages import Answer, ImageInput, ModelInfo, Pixels, Prepared

logger = logging.getLogger("ray.serve")

# What waits for a free moment, at most: a burst of requests, and as many bytes as a few large pictures have.
MAX_WAITING_IMAGES: Final = 32
MAX_WAITING_BYTES: Final = 32 * 2**20
# How long an image may wait, and then how long its mirror may take. A service that is never free for so long has no
# capacity left to compare anything on.
MAX_AGE_S: Final = 10.0
# After a replica has said that it has real work: it may be that of another Ingress, of which this one hears nothing.
REFUSED_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Target:
    """Where mirrors go now: a share of what the stable version has answered. `comparison`: where they are counted."""

    candidate: ModelInfo
    stable: int
    share: float
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class _Offer:
    image: ImageInput
    # What the candidate gets: the image, or its pixels where both versions want the same.
    mirrored: ImageInput
    answer: Answer
    target: Target
    size_bytes: int
    offered: float  # time.monotonic()


class Mirrors:
    """Of one model in one Ingress replica."""

    def __init__(
        self,
        target: Callable[[], Target | None],
        mirror: Callable[[ImageInput, ModelInfo], Awaitable[Answer | ApertureError]],
        is_free: Callable[[], bool],
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`mirror` asks the candidate; it returns Overloaded where real requests are in the way.

        `is_free` is asked before each mirror, and anew after `freed`. `draw`: numbers in [0, 1).
        """
        self._target = target
        self._mirror = mirror
        self._is_free = is_free
        self._draw = draw
        self._waiting: deque[_Offer] = deque()
        self._waiting_bytes = 0
        self._changed = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def offer(self, image: ImageInput, pixels: Pixels, answer: Answer) -> None:
        """An image with its answer, and its pixels as that version got them. Returns at once and raises nothing."""
        try:
            self._offer(image, pixels, answer)
        except Exception:
            logger.exception("An image could not be offered to a candidate")

    def freed(self) -> None:
        """To be called when `is_free` may have become true."""
        if self._waiting:
            self._changed.set()

    async def close(self) -> None:
        """Gives up what waits, and the mirror that is on its way."""
        self._waiting.clear()
        self._waiting_bytes = 0
        if self._worker is not None:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker
            self._worker = None

    def _offer(self, image: ImageInput, pixels: Pixels, answer: Answer) -> None:
        target = self._target()
        if target is None or answer.info.version != target.stable or self._draw() >= target.share:
            return
        now = time.monotonic()
        self._drop_expired(now)
        is_same = answer.info.preprocessing == target.candidate.preprocessing
        if isinstance(image, Prepared) and not is_same:
            return  # Nobody has the picture that it was made of.
        mirrored: ImageInput = Prepared(pixels) if is_same else image
        size_bytes = _size_bytes(image) + (_size_bytes(mirrored) if is_same else 0)
        if len(self._waiting) >= MAX_WAITING_IMAGES or self._waiting_bytes + size_bytes > MAX_WAITING_BYTES:
            target.comparison.skip("full")
            return
        self._waiting.append(_Offer(image, mirrored, answer, target, size_bytes, now))
        self._waiting_bytes += size_bytes
        self._start()

    def _start(self) -> None:
        if self._worker is None or self._worker.done():
            # Not in the context of this request: Serve would cancel what runs in it when its client leaves.
            self._worker = asyncio.create_task(self._work(), context=contextvars.Context())
        self._changed.set()

    async def _work(self) -> None:
        while True:
            self._drop_expired(time.monotonic())
            if self._waiting and self._is_free():
                await self._mirror_one(self._take())
                continue
            self._changed.clear()
            oldest = self._waiting[0].offered if self._waiting else None
            with suppress(TimeoutError):
                async with asyncio.timeout(None if oldest is None else oldest + MAX_AGE_S - time.monotonic()):
                    await self._changed.wait()

    async def _mirror_one(self, offer: _Offer) -> None:
        outcome = await self._outcome(offer)
        if isinstance(outcome, Answer):
            await _compare(offer, outcome)
        elif outcome is None:
            offer.target.comparison.skip("expired")
        elif isinstance(outcome, Overloaded | DeadlineExceeded):
            offer.target.comparison.skip("busy")
            await asyncio.sleep(REFUSED_S)
        else:
            offer.target.comparison.errors += 1

    async def _outcome(self, offer: _Offer) -> Answer | ApertureError | None:
        """None if there was none in time."""
        try:
            async with asyncio.timeout(MAX_AGE_S):
                return await self._mirror(offer.mirrored, offer.target.candidate)
        except ApertureError as refusal:
            return refusal
        except TimeoutError:
            return None
        except Exception:
            logger.exception("A mirrored image failed on version %d", offer.target.candidate.version)
            return InferenceFailed("The mirror failed.")

    def _take(self) -> _Offer:
        offer = self._waiting.popleft()
        self._waiting_bytes -= offer.size_bytes
        return offer

    def _drop_expired(self, now: float) -> None:
        while self._waiting and self._waiting[0].offered + MAX_AGE_S <= now:
            self._take().target.comparison.skip("expired")


async def _compare(offer: _Offer, outcome: Answer) -> None:
    difference = offer.target.comparison.add(offer.answer, outcome)
    if offer.target.comparison.is_among_the_worst(difference):
        # On a thread: ten megabytes take as many milliseconds.
        image = await asyncio.to_thread(image_hash, offer.image)
        offer.target.comparison.keep(Disagreement(image, difference))


def image_hash(image: ImageInput) -> str:
    """SHA-256 in hex: of a file what `sha256sum` prints, of pixels that of their bytes, row by row."""
    content = image if isinstance(image, bytes) else np.ascontiguousarray(_pixels_of(image)).data
    return hashlib.sha256(content).hexdigest()


def _size_bytes(image: ImageInput) -> int:
    return len(image) if isinstance(image, bytes) else _pixels_of(image).nbytes


def _pixels_of(image: Pixels | Prepared) -> Pixels:
    return image.pixels if isinstance(image, Prepared) else image
