"""The gate of a candidate version: whether its figures take it further, leave it where it is, or take it out.

A step forward wants the stated number of images and every bound held. A step back wants less: it is taken as soon as
chance does not explain what is seen, over all of the stage or over the last minute of it. This module knows no clock.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from deployments.comparison import SECONDS, Comparison, Comparisons, Trial
from deployments.histograms import Histogram
from deployments.settings.promotion import Bounds, Promotion, Stage

# Standard deviations that a figure must be beyond its bound before a canary is rolled back: by chance once in 30,000
# looks, while all of the first five images failing is enough.
EVIDENCE: Final = 4.0
# Images that failed, disagree or were slow, below which nothing is rolled back.
LEAST_EVENTS: Final = 5
# A 99th percentile is the greatest of so many; of fewer there is none.
LEAST_FOR_P99: Final = 100
# A median of so many is within some percent, where latencies are spread as they usually are.
LEAST_FOR_MEDIAN: Final = 30
# From here on the mean of differences is spread as the normal distribution has it.
LEAST_FOR_MEAN: Final = 30


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value and its bound."""

    name: str
    value: float
    bound: float
    is_least: bool = False

    @property
    def holds(self) -> bool:
        return self.value >= self.bound if self.is_least else self.value <= self.bound

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g} (at {'least' if self.is_least else 'most'} {self.bound:g})"


@dataclass(frozen=True, slots=True)
class Decision:
    """Where the candidate is to be, which may be where it is, and why, in a sentence with the figures."""

    stage: Stage
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """What all Ingress replicas have counted of a model, and what is on trial there, if anything is."""

    model: str
    promotion: Promotion | None
    trial: Trial | None
    counted: Comparisons


def decide(promotion: Promotion, total: Comparison, recent: Comparison) -> Decision:
    """By what was counted in the stage that the candidate is in: altogether, and lately."""
    if promotion.stage == "shadow":
        return _after_shadow(promotion, total)
    if promotion.stage == "canary":
        return _after_canary(promotion, total, recent)
    return Decision(promotion.stage, promotion.reason)


def figures_of(stage: Stage, comparison: Comparison, bounds: Bounds) -> tuple[Figure, ...]:
    """What the candidate is judged by in that stage, as far as anything was counted."""
    figures = list(_agreement(comparison, bounds))
    if stage == "canary":
        served = comparison.candidate_served
        rate = _rate(served.errors, served.count)
        slow = _ratio(0.99, LEAST_FOR_P99, comparison.stable_served.latency, served.latency)
        latency = "p99 of latency over the stable one's"
    else:
        rate = _rate(comparison.errors, comparison.count + comparison.errors)
        # Mirrors give way to all else, so that their slowest say more of the machine than of the candidate.
        slow = _ratio(0.5, LEAST_FOR_MEDIAN, comparison.stable_engine, comparison.candidate_engine)
        latency = "median time on the engine over the stable one's"
    figures.append(Figure("error rate", rate, bounds.max_error_rate))
    if slow is not None:
        figures.append(Figure(latency, slow, bounds.max_p99_ratio))
    return tuple(figures)


def _agreement(comparison: Comparison, bounds: Bounds) -> Iterator[Figure]:
    if comparison.count:
        yield Figure("top-1 agreement", comparison.agreement, bounds.min_agreement, is_least=True)
        yield Figure("mean difference", comparison.differences.mean, bounds.max_mean_difference)
        yield Figure("greatest difference", comparison.differences.greatest, bounds.max_difference)


def _after_shadow(promotion: Promotion, total: Comparison) -> Decision:
    # What the candidate fails on counts as compared: one that always fails would never come to its verdict.
    return _forward(promotion, total, "canary", total.count + total.errors, "compared")


def _after_canary(promotion: Promotion, total: Comparison, recent: Comparison) -> Decision:
    answered = total.candidate_served.count
    if clear := next(_clearly_out(promotion.bounds, total, recent), None):
        return Decision("rolled_back", f"Out of bounds after {answered} images answered: {clear}.")
    return _forward(promotion, total, "stable", answered, "answered")


def _forward(promotion: Promotion, total: Comparison, following: Stage, images: int, verb: str) -> Decision:
    if images < promotion.min_requests:
        return Decision(promotion.stage, f"{images} of {promotion.min_requests} images {verb} so far.")
    figures = figures_of(promotion.stage, total, promotion.bounds)
    if out := [figure for figure in figures if not figure.holds]:
        return Decision(promotion.stage, f"Out of bounds after {images} images {verb}: {_list(out)}.")
    if not any(figure.name.endswith(" over the stable one's") for figure in figures):
        return Decision(promotion.stage, f"Too few images of either version to compare latency, after {images} {verb}.")
    return Decision(following, f"In bounds after {images} images {verb}: {_list(figures)}.")


def _clearly_out(bounds: Bounds, total: Comparison, recent: Comparison) -> Iterator[str]:
    for period, counted in (("", total), (" lately", recent)):
        served = counted.candidate_served
        if _exceeds(served.errors, served.count, bounds.max_error_rate):
            rate = Figure("error rate", _rate(served.errors, served.count), bounds.max_error_rate)
            yield f"{served.errors} of {served.count} images failed{period}, {rate}"
        disagreements = counted.count - counted.agreements
        if _exceeds(disagreements, counted.count, 1 - bounds.min_agreement):
            agreement = Figure("top-1 agreement", counted.agreement, bounds.min_agreement, is_least=True)
            yield f"{disagreements} of {counted.count} images compared disagree{period}, {agreement}"
    if _mean_exceeds(total, bounds.max_mean_difference):
        yield str(Figure("mean difference", total.differences.mean, bounds.max_mean_difference))
    if total.differences.greatest > bounds.max_difference:
        yield str(Figure("greatest difference", total.differences.greatest, bounds.max_difference))
    yield from _clearly_slow(bounds, total, recent)


def _clearly_slow(bounds: Bounds, total: Comparison, recent: Comparison) -> Iterator[str]:
    # At the same time, if that suffices: load makes both slower.
    for stable in (recent.stable_served.latency, total.stable_served.latency):
        if stable.count >= LEAST_FOR_P99:
            break
    else:
        return
    most_s = bounds.max_p99_ratio * stable.quantile(0.99)
    candidate = recent.candidate_served.latency
    slow, half_s = candidate.above(most_s), candidate.quantile(0.5)
    if _exceeds(slow, candidate.count, 0.01):
        yield (
            f"{slow} of {candidate.count} images took longer than {1000 * most_s:.4g} ms lately, which is "
            f"{bounds.max_p99_ratio:g} times the stable one's p99, and half of them {1000 * half_s:.4g} ms or more"
        )


def _ratio(quantile: float, least: int, stable: Histogram, candidate: Histogram) -> float | None:
    if min(stable.count, candidate.count) < least:
        return None
    return candidate.quantile(quantile) / max(SECONDS.lowest, stable.quantile(quantile))


def _exceeds(events: int, of: int, rate: float) -> bool:
    """Whether the true rate is beyond that one, for all that chance can do: the lower end of Wilson's interval."""
    if events < LEAST_EVENTS:
        return False
    share, spread = events / of, EVIDENCE**2 / of
    margin = EVIDENCE * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    return (share + spread / 2 - margin) / (1 + spread) > rate


def _mean_exceeds(counted: Comparison, bound: float) -> bool:
    count, mean = counted.count, counted.differences.mean
    if count < LEAST_FOR_MEAN:
        return False
    variance = max(0.0, counted.differences.squares / count - mean * mean)
    return mean - EVIDENCE * math.sqrt(variance / count) > bound


def _rate(events: int, of: int) -> float:
    return events / of if of else 0.0


def _list(figures: list[Figure] | tuple[Figure, ...]) -> str:
    return ", ".join(map(str, figures))
