"""Answers that are kept, and images that are computed once although several ask for them at the same time.

    hit      the answer is kept: nothing is computed
    joined   the same image is being computed for somebody else, and its answer is shared
    miss     the image is computed, in a flight that others may join

A flight belongs to the cache and not to whoever asked first: it goes on for as long as anybody waits for it, and is
cancelled when nobody does. It is computed under the deadline of the one who began it, because what is urgent goes first
and what is too late is dropped, and neither works with a deadline later than its own. If it fails for a reason that is
not the image's, such as that deadline, those who joined and have time left compute it once more, together, under the
latest of their deadlines; that is the last time. What fails because of the image fails for all of them. No error is
ever kept.

The bound is in bytes, and what was used least recently goes first. Pure asyncio: this module knows no Ray and no
protocol.
"""

import asyncio
import contextvars
import copy
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from deployments.answer_keys import Key
from deployments.deadlines import budget_s
from deployments.errors import ApertureError, DeadlineExceeded, Overloaded
from deployments.messages import Answer, Stages
from deployments.metrics import count_cached, set_cache_bytes
from deployments.settings.cache import Cache

Outcome = Answer | ApertureError
# Given the deadline until which its outcome is wanted.
Compute = Callable[[float], Awaitable[Outcome]]

# Of an entry beside its numbers: the key, the answer, two array headers, and their places in the dictionary. By
# tracemalloc 758 bytes on CPython 3.11 (tests/unit/test_answer_cache.py measures it), rounded up.
ENTRY_BYTES: Final = 800


@dataclass(frozen=True, slots=True)
class _Entry:
    answer: Answer
    size_bytes: int
    compute_s: float
    stored: float  # time.monotonic() seconds


@dataclass(slots=True, eq=False)
class _Flight:
    key: Key
    deadline: float
    computing: "asyncio.Task[Outcome]"
    waiting: list[float] = field(default_factory=list)  # The deadlines of those who wait.
    is_kept: bool = True


class AnswerCache:
    """Of one model, for one event loop."""

    def __init__(self, model: str, settings: Cache | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """`settings`: None keeps nothing and shares nothing."""
        self.held_bytes = 0
        self._model = model
        self._settings = settings
        self._clock = clock
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()  # What was used last comes last.
        self._flights: set[_Flight] = set()
        self._open: dict[Key, _Flight] = {}  # Those that may be joined.
        self._generations: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_on(self) -> bool:
        return self._settings is not None

    def generation(self, version: int) -> int:
        """How often that version was forgotten: a part of its keys, so that old ones lead to nothing new."""
        return self._generations[version]

    def configure(self, settings: Cache | None) -> None:
        """From now on. What does not fit any more goes at once; None empties the cache."""
        if settings == self._settings:
            return
        self._settings = settings
        self._evict(0 if settings is None else settings.max_bytes)

    def forget(self, version: int) -> None:
        """Drops what is kept of that version; what of it is being computed is not kept, and nobody joins it."""
        self._generations[version] += 1
        for key in [key for key in self._entries if key.version == version]:
            self._drop(key)
        for flight in self._flights:
            if flight.key.version == version:
                flight.is_kept = False
                self._close(flight)
        self._tell_size()

    async def answer(
        self, key: Key, compute: Compute, deadline: float, on_spared: Callable[[], None] = lambda: None
    ) -> Outcome:
        """What is kept under `key`, or what `compute` returns, or what it is about to return to somebody else.

        `deadline` is the caller's (time.monotonic(), seconds): after it, DeadlineExceeded is returned. `on_spared` is
        called as soon as it is clear that the caller's own image is not computed. Raises what `compute` raises, unless
        it is an ApertureError, which is returned.
        """
        if self._settings is None:
            return await compute(deadline)
        if (kept := self._kept(key)) is not None:
            on_spared()
            return kept
        flight = self._open.get(key) if self._settings.single_flight else None
        if flight is None:
            return await self._led(self._begin(key, compute, deadline), deadline)
        on_spared()
        joined = time.monotonic()
        outcome = await self._landed(flight, deadline)
        if _says_nothing_of(deadline, outcome, flight):
            latest = max([deadline, *flight.waiting])
            again = self._open.get(key)
            if again is None or again.deadline < latest:
                return await self._led(self._begin(key, compute, latest), deadline)
            outcome = await self._landed(again, deadline)
        return self._shared(outcome, time.monotonic() - joined)

    # Flights

    def _begin(self, key: Key, compute: Compute, deadline: float) -> _Flight:
        count_cached(self._model, "misses")
        # Not in the context of this request: Serve would cancel the calls, for which others wait, if this one left.
        computing = asyncio.create_task(_returned(compute, deadline), context=contextvars.Context())
        flight = self._open[key] = _Flight(key, deadline, computing)
        self._flights.add(flight)
        # Before whoever waits wakes up: callbacks are called in their order.
        computing.add_done_callback(lambda _: self._land(flight))
        return flight

    async def _landed(self, flight: _Flight, deadline: float) -> Outcome:
        """The flight's outcome, or DeadlineExceeded. The last one who leaves ends the flight."""
        computing = flight.computing
        flight.waiting.append(deadline)
        try:
            await asyncio.wait([computing], timeout=budget_s(deadline))
        finally:
            flight.waiting.remove(deadline)
            if not flight.waiting and not computing.done():
                self._close(flight)
                computing.cancel()
        if not computing.done():
            return DeadlineExceeded("The deadline passed while the image was computed.")
        if computing.cancelled():
            raise ConnectionError("The computation was cancelled.")
        return computing.result()

    def _land(self, flight: _Flight) -> None:
        self._flights.discard(flight)
        self._close(flight)
        # Asked for, an exception is no longer one that nobody has heard of.
        if flight.computing.cancelled() or flight.computing.exception() is not None or not flight.is_kept:
            return
        if isinstance(outcome := flight.computing.result(), Answer):
            self._keep(flight.key, outcome)

    def _close(self, flight: _Flight) -> None:
        """Nobody joins it any more."""
        if self._open.get(flight.key) is flight:
            del self._open[flight.key]

    async def _led(self, flight: _Flight, deadline: float) -> Outcome:
        outcome = await self._landed(flight, deadline)
        return replace(outcome, cached="miss") if isinstance(outcome, Answer) else outcome

    def _shared(self, outcome: Outcome, waited_s: float) -> Outcome:
        if isinstance(outcome, ApertureError):
            return copy.copy(outcome)  # Each raise adds to an exception's traceback.
        count_cached(self._model, "joined", saved_s=_compute_s(outcome))
        return replace(outcome, stages=Stages(0.0, waited_s, 0.0), cached="joined", batch_size=None)

    # What is kept

    def _kept(self, key: Key) -> Answer | None:
        entry = self._entries.get(key)
        if entry is None or self._settings is None:
            return None
        if self._settings.max_age_s is not None and self._clock() - entry.stored > self._settings.max_age_s:
            self._drop(key)
            self._tell_size()
            return None
        self._entries.move_to_end(key)
        count_cached(self._model, "hits", saved_s=entry.compute_s)
        return entry.answer

    def _keep(self, key: Key, answer: Answer) -> None:
        most = 0 if self._settings is None else self._settings.max_bytes
        size_bytes = ENTRY_BYTES + answer.logits.nbytes + answer.probabilities.nbytes
        self._drop(key)
        if size_bytes <= most:
            self._entries[key] = _Entry(_detached(answer), size_bytes, _compute_s(answer), self._clock())
            self.held_bytes += size_bytes
        self._evict(most)

    def _evict(self, most_bytes: int) -> None:
        evicted = 0
        while self.held_bytes > most_bytes:
            self._drop(next(iter(self._entries)))
            evicted += 1
        if evicted:
            count_cached(self._model, "evictions", evicted)
        self._tell_size()

    def _drop(self, key: Key) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self.held_bytes -= entry.size_bytes

    def _tell_size(self) -> None:
        set_cache_bytes(self._model, self.held_bytes)


async def _returned(compute: Compute, deadline: float) -> Outcome:
    try:
        return await compute(deadline)
    except ApertureError as failure:
        return failure


def _says_nothing_of(deadline: float, outcome: Outcome, flight: _Flight) -> bool:
    """Whether the flight failed for what may not hold for somebody else with that deadline."""
    if not flight.computing.done():
        return False
    if isinstance(outcome, DeadlineExceeded):
        return deadline > flight.deadline
    return isinstance(outcome, Overloaded)


def _detached(answer: Answer) -> Answer:
    """As it is given out from the cache: read-only, and without the batch or the message of which it was a part."""
    logits, probabilities = np.array(answer.logits), np.array(answer.probabilities)
    logits.setflags(write=False)
    probabilities.setflags(write=False)
    return replace(
        answer, logits=logits, probabilities=probabilities, stages=Stages(0.0, 0.0, 0.0), cached="hit", batch_size=None
    )


def _compute_s(answer: Answer) -> float:
    return answer.stages.preprocess_s + answer.stages.inference_s
