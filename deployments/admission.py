"""Admission: what a replica of the Ingress takes on, and what it refuses at once because it could not be done in time.

    bounds           images, bytes and megapixels in hand, whatever they wait for (settings.Admission)
    deadline rule    what is ahead of a request, at the rate at which its model has been answering, must be done within
                     a share of the time that its caller waits

A `Visit` is one request in hand. It begins before the body is read and ends with the request, however that ends. Large
images cost more than small ones. What has everything to itself is always let in, so that nothing is too large for ever,
and a rate that was once too low is measured again. For one event loop; this module knows no protocol and no Ray.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Final, Self

from deployments.draining import DrainRate
from deployments.errors import DeadlineExceeded, Overloaded
from deployments.metrics import IMAGES_IN_HAND
from deployments.settings import Admission as Bounds

# Of the time that a caller waits, how much may be expected to pass until its answer. The rest is for what is not
# expected: batches that come out late, neighbours on the same cores. With the most, 99 in 100 were in time in every
# simulated case (tests/unit/test_admission_overload.py), and no queue ran dry. Where more are late it is less, down to
# the least: each one that is late takes a tenth of it, and each answer gives back so little that one in a hundred is.
MOST_SHARE: Final = 0.6
LEAST_SHARE: Final = 0.3
LOST_BY_LATE: Final = 0.1
REGAINED_BY_ANSWER: Final = 0.002
# An answer in the last tenth of its time is as good as late: there is still its way to the caller.
LATE_FROM: Final = 0.9
# A body that is still coming after this long no longer holds a place in line, nor bytes that have not come: else a few
# clients that announce much and send nothing would shut everybody out.
READING_S: Final = 1.0
# What an image costs grows with its pixels once they are many, since decoding does: as much as one more a megapixel.
MEGAPIXELS_OF_ONE: Final = 1.0
# When to come again, where no rate is known yet.
UNKNOWN_RETRY_S: Final = 1.0
# The longest time to send anybody away for: by then there is another replica, or another rate.
MOST_RETRY_S: Final = 60.0

TOO_MUCH: Final = "The service has more requests than it can answer in time; try again."

# The request that is being handled, for whoever admits its images.
current_visit: ContextVar["Visit | None"] = ContextVar("current_visit", default=None)


class Admission:
    """What is in hand, and whether more may come."""

    def __init__(self, bounds: Bounds, models: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.bounds = bounds
        self.clock = clock
        self.images = 0
        self.bytes = 0
        self.megapixels = 0.0
        self._lines = {name: Line(clock()) for name in models}
        # Visits whose bodies are coming, the oldest first.
        self._reading: deque[Visit] = deque()

    def enter(self, model: str, timeout_s: float, announced_bytes: int = 0) -> "Visit":
        """A request for `model` whose body is still to be read, and whose caller waits `timeout_s` seconds.

        Raises Overloaded if it could not be done in time or does not fit.
        """
        now = self.clock()
        self._give_up_on_slow_readers(now)
        line = self._lines[model]
        self._check_bytes(announced_bytes)
        self._check_wait(line, 1.0, timeout_s, now)
        visit = Visit(self, line, announced_bytes, now)
        self._reading.append(visit)
        return visit

    def work(self, model: str, timeout_s: float, megapixels: Sequence[float], total_bytes: int) -> "Work":
        """The images of a request, one number for each, once they are there. Raises Overloaded.

        Those of the current visit, if there is one, take its place in line and count its bytes only once.
        """
        visit = current_visit.get()
        if visit is not None:
            visit.stop_reading()
        now, line = self.clock(), self._lines[model]
        held_bytes = visit.bytes if visit is not None else 0
        extra_bytes = max(0, total_bytes - held_bytes)
        self._check_room(len(megapixels), sum(megapixels))
        self._check_bytes(extra_bytes, held_bytes)
        self._check_wait(line, sum(map(cost_of, megapixels)), timeout_s, now)
        return Work(self, line, megapixels, extra_bytes, late_from=now + LATE_FROM * timeout_s)

    def _check_room(self, images: int, megapixels: float) -> None:
        bounds = self.bounds
        if self.images and self.images + images > bounds.max_images:
            raise self.full()
        if self.megapixels and self.megapixels + megapixels > bounds.max_megapixels:
            raise self.full()

    def _check_bytes(self, more: int, own: int = 0) -> None:
        if not self.has_room(more, own):
            raise self.full()

    def _check_wait(self, line: "Line", cost: float, timeout_s: float, now: float) -> None:
        if not line.ahead:
            return
        expected_s = max(line.rate.wait_s(line.ahead + cost, now), line.rate.stalled_s(now))
        if expected_s > line.share * timeout_s:
            line.rate.press(now)
            raise _overloaded(expected_s - line.share * timeout_s)

    def has_room(self, more_bytes: int, own_bytes: int = 0) -> bool:
        """For so many more, beside `own_bytes` of the same request."""
        return not more_bytes or self.bytes <= own_bytes or self.bytes + more_bytes <= self.bounds.max_bytes

    def full(self) -> Overloaded:
        now = self.clock()
        waits = [line.rate.wait_s(line.ahead, now) for line in self._lines.values() if line.ahead]
        return _overloaded(max(waits, default=0.0) or UNKNOWN_RETRY_S)

    def _give_up_on_slow_readers(self, now: float) -> None:
        while self._reading and (self._reading[0].is_read or now - self._reading[0].since > READING_S):
            self._reading.popleft().stop_reading()


class Line:
    """What waits for one model."""

    def __init__(self, now: float) -> None:
        self.rate = DrainRate(now)
        self.reading = 0  # Requests whose bodies are coming.
        self.share = MOST_SHARE

    @property
    def ahead(self) -> float:
        return self.rate.in_hand + self.reading

    def end(self, cost: float, now: float, *, answered: bool, late: bool) -> None:
        """An image that `rate` has taken is answered, or misses its deadline, or both, or neither."""
        if answered:
            self.rate.answer(cost, now)
            self.share += (MOST_SHARE - self.share) * REGAINED_BY_ANSWER
        else:
            self.rate.leave(cost, now)
        if late:
            self.rate.press(now)
            self.share = max(LEAST_SHARE, self.share * (1 - LOST_BY_LATE))


class Visit:
    """A request in hand. As a context it ends with the block, and is the current visit inside of it."""

    def __init__(self, admission: Admission, line: Line, announced_bytes: int, now: float) -> None:
        self.bytes = announced_bytes
        self.since = now
        self.is_read = False
        self.refusal: Overloaded | None = None
        self._admission = admission
        self._line = line
        self.arrived_bytes = 0
        admission.bytes += announced_bytes
        line.reading += 1

    def arrive(self, more_bytes: int) -> bool:
        """Whether there is room for a part of the body that has come; if not, `refusal` says so from now on."""
        arrived_bytes = self.arrived_bytes + more_bytes
        if not self._admission.has_room(max(0, arrived_bytes - self.bytes), self.bytes):
            self.refusal = self._admission.full()
            # At once, or all who come before it has gone would be refused for what it held.
            self.stop_reading()
            self._hold(0)
            return False
        self.arrived_bytes = arrived_bytes
        self._hold(max(self.bytes, arrived_bytes))
        return True

    def stop_reading(self) -> None:
        """Its images are there, or are long in coming: it gives up its place in line, and bytes that have not come."""
        if not self.is_read:
            self.is_read = True
            self._line.reading -= 1
            self._hold(self.arrived_bytes)

    def __enter__(self) -> Self:
        self._outer = current_visit.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        current_visit.reset(self._outer)
        self.stop_reading()
        self._hold(0)

    def _hold(self, held_bytes: int) -> None:
        self._admission.bytes += held_bytes - self.bytes
        self.bytes = held_bytes


class Place:
    """One image in hand."""

    def __init__(self, admission: Admission, line: Line, megapixels: float, late_from: float) -> None:
        self._admission = admission
        self._late_from = late_from
        self._line = line
        self._megapixels = megapixels
        self._cost = cost_of(megapixels)
        admission.images += 1
        IMAGES_IN_HAND.set(admission.images)
        admission.megapixels += megapixels
        line.rate.take(self._cost, admission.clock())

    def decoded(self) -> None:
        self._admission.megapixels -= self._megapixels
        self._megapixels = 0.0

    def end(self, *, answered: bool = False, late: bool = False) -> None:
        """The image is classified, or missed its deadline, or neither. Only the first call counts."""
        if not self._cost:
            return
        self.decoded()
        self._admission.images -= 1
        IMAGES_IN_HAND.set(self._admission.images)
        if not self._admission.images:
            self._admission.megapixels = 0.0  # Sums of floats leave something over.
        cost, self._cost = self._cost, 0.0
        now = self._admission.clock()
        self._line.end(cost, now, answered=answered, late=late or (answered and now > self._late_from))


class Work:
    """The images of a request in hand: `places`, in their order. As a context it ends with the block."""

    def __init__(
        self, admission: Admission, line: Line, megapixels: Sequence[float], extra_bytes: int, late_from: float
    ) -> None:
        self.places = [Place(admission, line, each, late_from) for each in megapixels]
        self._admission = admission
        self._extra_bytes = extra_bytes
        admission.bytes += extra_bytes

    def __enter__(self) -> Sequence[Place]:
        return self.places

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._admission.bytes -= self._extra_bytes
        late = kind is not None and issubclass(kind, DeadlineExceeded)
        for place in self.places:
            place.end(late=late)


def cost_of(megapixels: float) -> float:
    """Of an image, in images of up to a megapixel."""
    return max(1.0, megapixels / MEGAPIXELS_OF_ONE)


def _overloaded(retry_after_s: float) -> Overloaded:
    return Overloaded(TOO_MUCH, min(retry_after_s, MOST_RETRY_S))
