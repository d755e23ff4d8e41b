"""What a replica has had to do so far, counted in images whatever calls they came in: what autoscaling goes by.

Counters only grow, from the replica's start on, so that whoever reads them now and then gets rates over any time.
"""

from dataclasses import dataclass, field

from deployments.statistics import BatchStatistics


@dataclass(slots=True)
class Workload:
    """`runners`: how many batches run at once."""

    runners: int
    calls: int = 0
    arrived: int = 0
    batches: BatchStatistics = field(default_factory=BatchStatistics)

    def arrive(self, images: int) -> None:
        """A call came with so many images."""
        self.calls += 1
        self.arrived += images

    def figures(self, *, waiting: int, queue_s: float, max_batch_size: int) -> dict[str, float]:
        """What deployments.autoscaling.FIGURES names. `queue_s`: how long all images together have waited so far.

        Batches are told by the sums from which the time of one by its size follows: of sizes, squared sizes, seconds,
        and sizes times seconds.
        """
        runs = [(size, total.count, total.ns / 1e9) for size, total in self.batches.by_size.items()]
        return {
            "arrived": self.arrived,
            "calls": self.calls,
            "queue_s": queue_s,
            "batches": sum(count for _, count, _ in runs),
            "images": sum(size * count for size, count, _ in runs),
            "squares": sum(size**2 * count for size, count, _ in runs),
            "busy_s": sum(run_s for _, _, run_s in runs),
            "cross_s": sum(size * run_s for size, _, run_s in runs),
            "waiting": waiting,
            "runners": self.runners,
            "max_batch_size": max_batch_size,
        }
