"""Counts in buckets of equal ratio: quantiles of a million values in the memory of some hundred numbers.

Histograms of one scale can be added up, over replicas, and subtracted, for what came since an earlier look.
"""

import bisect
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Scale:
    """Buckets that end at lowest, then at `per_decade` ends for each tenfold, and one for all that is greater."""

    lowest: float
    decades: int
    per_decade: int

    @property
    def relative_error(self) -> float:
        """How far a quantile may be from the true one, as a share of it, where the scale reaches: one bucket."""
        return float(10 ** (1 / self.per_decade) - 1)


@functools.cache
def ends_of(scale: Scale) -> tuple[float, ...]:
    """The upper ends of the buckets, but for the last, which has none. A value on an end is below it."""
    return tuple(scale.lowest * 10 ** (step / scale.per_decade) for step in range(scale.decades * scale.per_decade + 1))


@dataclass(slots=True)
class Histogram:
    scale: Scale
    total: float = 0.0
    squares: float = 0.0
    greatest: float = 0.0
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.counts:
            self.counts = [0] * (len(ends_of(self.scale)) + 1)

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """0 where there is no value."""
        return self.total / max(1, self.count)

    def add(self, value: float) -> None:
        """Any value of at least 0."""
        self.counts[bisect.bisect_left(ends_of(self.scale), value)] += 1
        self.total += value
        self.squares += value * value
        self.greatest = max(self.greatest, value)

    def merge(self, other: "Histogram") -> None:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total
        self.squares += other.squares
        self.greatest = max(self.greatest, other.greatest)

    def since(self, earlier: "Histogram") -> "Histogram":
        """What came after `earlier`. A replica that ended in between took its counts along: no bucket is below 0.

        `greatest` remains that of all, and total and squares are as good as no replica has ended.
        """
        counts = [max(0, now - then) for now, then in zip(self.counts, earlier.counts, strict=True)]
        total, squares = max(0.0, self.total - earlier.total), max(0.0, self.squares - earlier.squares)
        return Histogram(self.scale, total, squares, self.greatest, counts)

    def quantile(self, share: float) -> float:
        """The value that `share` of all are not above; 0 where there is none.

        By the logarithm within its bucket, so not more than `scale.relative_error` off, between `scale.lowest` and
        `greatest`.
        """
        rank, ends = share * self.count, ends_of(self.scale)
        for bucket, count in enumerate(self.counts):
            if count and rank <= count:
                return min(self.greatest, _within(ends, bucket, rank / count))
            rank -= count
        return self.greatest

    def above(self, threshold: float) -> int:
        """How many values are greater for certain: those of buckets that begin at the threshold or later."""
        return sum(self.counts[bisect.bisect_left(ends_of(self.scale), threshold) + 1 :])

    def buckets(self) -> Iterator[tuple[float, float, int]]:
        """From, to, and how many, for each bucket that has any; the last one ends at the greatest value."""
        ends = ends_of(self.scale)
        for bucket, count in enumerate(self.counts):
            if count:
                low = ends[bucket - 1] if bucket else 0.0
                yield low, ends[bucket] if bucket < len(ends) else self.greatest, count


def _within(ends: tuple[float, ...], bucket: int, share: float) -> float:
    if bucket == 0:
        return ends[0]
    if bucket == len(ends):
        return float("inf")
    low, high = ends[bucket - 1], ends[bucket]
    return float(low * (high / low) ** share)
