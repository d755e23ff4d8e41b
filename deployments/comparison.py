"""What is counted of two versions of a model: what the candidate says of images that the other one has answered.

Each Ingress replica counts for itself, and `merge` makes one of all. Memory is bounded, whatever comes: histograms, the
ten worst disagreements by the hash of their image, never an image.
"""

from dataclasses import dataclass, field
from typing import Final, Literal

from deployments.differences import Difference, difference_of, unshared_labels
from deployments.histograms import Histogram, Scale
from deployments.messages import Answer
from deployments.settings.promotion import Stage

# From 100 us to 100 s; a quantile is off by 6 % at most.
SECONDS: Final = Scale(lowest=1e-4, decades=6, per_decade=40)
# Of probabilities: from rounding to certainty of the contrary.
DIFFERENCES: Final = Scale(lowest=1e-7, decades=7, per_decade=4)
WORST: Final = 10
# A trial is a stage of one configuration; older ones are of interest only while somebody looks.
MAX_TRIALS: Final = 8
# Of which there are figures; more than a model ever serves at once.
MAX_VERSIONS: Final = 16

# Why an image was not mirrored: too much waited already, it waited too long, or the replica had real work.
SkipReason = Literal["full", "expired", "busy"]


@dataclass(frozen=True, slots=True)
class Trial:
    """What one set of figures is about. `configuration`: a digest of the settings that began it."""

    configuration: str
    stable: int
    candidate: int
    stage: Stage


@dataclass(frozen=True, slots=True)
class Disagreement:
    """`image`: SHA-256, in hex, of the file as it was sent, or of the bytes of its pixels where these were."""

    image: str
    difference: Difference


@dataclass(slots=True)
class Served:
    """Images that a version has answered itself, with the latency of their answers, and those that it failed on."""

    latency: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    errors: int = 0

    @property
    def count(self) -> int:
        return self.latency.count + self.errors

    def merge(self, other: "Served") -> None:
        self.latency.merge(other.latency)
        self.errors += other.errors

    def since(self, earlier: "Served") -> "Served":
        return Served(self.latency.since(earlier.latency), max(0, self.errors - earlier.errors))


@dataclass(slots=True)
class Comparison:
    """Of one trial. Latencies of mirrored images are those on the engine, where the stable version may have run others
    with them; latencies of `served` images are of the whole answer.
    """

    differences: Histogram = field(default_factory=lambda: Histogram(DIFFERENCES))
    agreements: int = 0
    stable_engine: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    candidate_engine: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    # Mirrored images that the candidate failed on.
    errors: int = 0
    skipped: dict[SkipReason, int] = field(default_factory=dict)
    worst: list[Disagreement] = field(default_factory=list)
    # Labels that only one of the two knows: its probabilities are compared with 0.
    unshared_labels: int = 0
    stable_served: Served = field(default_factory=Served)
    candidate_served: Served = field(default_factory=Served)

    @property
    def count(self) -> int:
        """Images that both have answered."""
        return self.differences.count

    @property
    def agreement(self) -> float:
        """The share of images with the same first label; 1 while there is none."""
        return self.agreements / self.count if self.count else 1.0

    def add(self, stable: Answer, candidate: Answer) -> Difference:
        """Counts a mirrored image by its two answers."""
        difference = difference_of(stable, candidate)
        self.differences.add(difference.greatest)
        self.agreements += difference.agrees
        self.stable_engine.add(stable.stages.inference_s)
        self.candidate_engine.add(candidate.stages.inference_s)
        self.unshared_labels = unshared_labels(stable.info.labels, candidate.info.labels)
        return difference

    def skip(self, reason: SkipReason, images: int = 1) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + images

    def is_among_the_worst(self, difference: Difference) -> bool:
        if difference.agrees:
            return False
        return len(self.worst) < WORST or difference.greatest > self.worst[-1].difference.greatest

    def keep(self, disagreement: Disagreement) -> None:
        """Remembers it while there are less than ten that are worse, and each image once."""
        by_image = {known.image: known for known in self.worst}
        known = by_image.get(disagreement.image, disagreement)
        by_image[disagreement.image] = max(known, disagreement, key=_badness)
        self.worst = sorted(by_image.values(), key=_badness, reverse=True)[:WORST]

    def merge(self, other: "Comparison") -> None:
        for name in ("differences", "stable_engine", "candidate_engine", "stable_served", "candidate_served"):
            getattr(self, name).merge(getattr(other, name))
        self.agreements += other.agreements
        self.errors += other.errors
        self.unshared_labels = max(self.unshared_labels, other.unshared_labels)
        for reason, images in other.skipped.items():
            self.skip(reason, images)
        for disagreement in other.worst:
            self.keep(disagreement)

    def since(self, earlier: "Comparison") -> "Comparison":
        """The counts that came after `earlier`; the worst disagreements remain those of all."""
        return Comparison(
            differences=self.differences.since(earlier.differences),
            agreements=max(0, self.agreements - earlier.agreements),
            stable_engine=self.stable_engine.since(earlier.stable_engine),
            candidate_engine=self.candidate_engine.since(earlier.candidate_engine),
            errors=max(0, self.errors - earlier.errors),
            skipped={reason: max(0, now - earlier.skipped.get(reason, 0)) for reason, now in self.skipped.items()},
            worst=list(self.worst),
            unshared_labels=self.unshared_labels,
            stable_served=self.stable_served.since(earlier.stable_served),
            candidate_served=self.candidate_served.since(earlier.candidate_served),
        )


class Comparisons:
    """Of one model: every version's own figures, and the comparison of each trial, the latest last."""

    def __init__(self) -> None:
        self.served: dict[int, Served] = {}
        self.trials: dict[Trial, Comparison] = {}

    def of(self, trial: Trial) -> Comparison:
        # The one in use stays the latest.
        comparison = self.trials.pop(trial) if trial in self.trials else Comparison()
        self.trials[trial] = comparison
        _forget_the_oldest(self.trials, MAX_TRIALS)
        return comparison

    def answered(self, version: int, latency_s: float, trial: Trial | None) -> None:
        """Counts an answer of that version to an image of a real request."""
        for served in self._served_by(version, trial):
            served.latency.add(latency_s)

    def failed(self, version: int, trial: Trial | None) -> None:
        """Counts an image of a real request on which that version failed."""
        for served in self._served_by(version, trial):
            served.errors += 1

    def copy(self) -> "Comparisons":
        """For another thread, while this one goes on counting."""
        copied = Comparisons()
        copied.merge(self)
        return copied

    def merge(self, other: "Comparisons") -> None:
        for version, served in other.served.items():
            self._of_version(version).merge(served)
        for trial, comparison in other.trials.items():
            self.of(trial).merge(comparison)

    def _served_by(self, version: int, trial: Trial | None) -> list[Served]:
        kept = [self._of_version(version)]
        if trial is not None and version == trial.stable:
            kept.append(self.of(trial).stable_served)
        elif trial is not None and version == trial.candidate:
            kept.append(self.of(trial).candidate_served)
        return kept

    def _of_version(self, version: int) -> Served:
        if version not in self.served:
            self.served[version] = Served()
            _forget_the_oldest(self.served, MAX_VERSIONS)
        return self.served[version]


def _badness(disagreement: Disagreement) -> tuple[float, str]:
    # The hash makes the order one order, whichever replica's figures come first.
    return disagreement.difference.greatest, disagreement.image


def _forget_the_oldest(kept: dict[Trial, Comparison] | dict[int, Served], most: int) -> None:
    while len(kept) > most:
        del kept[next(iter(kept))]  # type: ignore[arg-type]
