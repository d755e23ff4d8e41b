"""What a model has done so far, in the terms of Triton's statistics extension.

Each Ingress replica counts requests, each Classifier replica counts batches; their sums are the model's. The parts of a
request (queue, input, inference, output) add up to its whole. A replica that ends takes its counts along.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Total:
    """How often something happened, and how long it took altogether."""

    count: int = 0
    ns: int = 0

    def add(self, duration_s: float) -> None:
        self.count += 1
        self.ns += max(0, round(duration_s * 1e9))

    def merge(self, other: "Total") -> None:
        self.count += other.count
        self.ns += other.ns


@dataclass(slots=True)
class RequestStatistics:
    """Requests for one model. `last_ms`: when the last one was answered, in milliseconds since 1970, or 0.

    `cache_hit`: those for which nothing was computed, and how long they took beside waiting for images that others had
    sent as well; they are in `success` and `queue`, and in none of the three below it. `cache_miss`: of a model with a
    cache, the others that succeeded.
    """

    success: Total = field(default_factory=Total)
    fail: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    compute_input: Total = field(default_factory=Total)
    compute_infer: Total = field(default_factory=Total)
    compute_output: Total = field(default_factory=Total)
    cache_hit: Total = field(default_factory=Total)
    cache_miss: Total = field(default_factory=Total)
    last_ms: int = 0

    def durations(self) -> dict[str, Total]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "last_ms"}

    def merge(self, other: "RequestStatistics") -> None:
        for name, total in self.durations().items():
            total.merge(getattr(other, name))
        self.last_ms = max(self.last_ms, other.last_ms)


@dataclass(slots=True)
class BatchStatistics:
    """Batches that a model's engine has run, by how many images they had."""

    by_size: dict[int, Total] = field(default_factory=dict)

    def add(self, size: int, duration_s: float) -> None:
        self.by_size.setdefault(size, Total()).add(duration_s)

    def merge(self, other: "BatchStatistics") -> None:
        for size, total in other.by_size.items():
            self.by_size.setdefault(size, Total()).merge(total)


@dataclass(slots=True)
class ModelStatistics:
    requests: RequestStatistics
    batches: BatchStatistics

    @property
    def inference_count(self) -> int:
        """Images that the engine has classified."""
        return sum(size * total.count for size, total in self.batches.by_size.items())

    @property
    def execution_count(self) -> int:
        """Batches that the engine has run."""
        return sum(total.count for total in self.batches.by_size.values())


def summed(
    requests: Iterable[Mapping[int, RequestStatistics]], batches: Iterable[Mapping[int, BatchStatistics]]
) -> dict[int, ModelStatistics]:
    """The statistics of a model by version, ascending, from those of its replicas."""
    totals: dict[int, ModelStatistics] = {}
    for of_ingress in requests:
        for version, counted in of_ingress.items():
            totals.setdefault(version, ModelStatistics(RequestStatistics(), BatchStatistics())).requests.merge(counted)
    for of_classifier in batches:
        for version, run in of_classifier.items():
            totals.setdefault(version, ModelStatistics(RequestStatistics(), BatchStatistics())).batches.merge(run)
    return dict(sorted(totals.items()))
