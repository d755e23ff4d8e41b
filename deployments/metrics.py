"""Counters that Prometheus gets, one of each to a process, under the names and labels that stand here.

Serve adds the labels deployment, replica and application.
"""

import functools
from typing import Final, Literal

from ray.serve.metrics import Counter, Gauge

# Where work ended before it was done: where it waited to come in, on the way between deployments, for a decoder, or for
# a batch.
Place = Literal["ingress", "gathering", "preprocessor", "classifier"]
# Why: its deadline passed or could not be met, or its caller left.
Reason = Literal["expired", "abandoned"]
CacheOutcome = Literal["hits", "joined", "misses", "evictions"]
CACHE_OUTCOMES: Final[dict[CacheOutcome, str]] = {
    "hits": "Images answered with what the cache had.",
    "joined": "Images answered with what was being computed for an identical one.",
    "misses": "Images computed although there is a cache.",
    "evictions": "Answers that the cache gave up for want of room.",
}

# What became of an image of a real request, by the version that had it.
VersionOutcome = Literal["answered", "failed"]
# What became of an image that was offered to a candidate; the last three never reached it.
MirrorOutcome = Literal["agreed", "disagreed", "failed", "full", "expired", "busy"]


def count_dropped(place: Place, reason: Reason, images: int = 1) -> None:
    """Images that were dropped before they cost anything at that place."""
    _dropped().inc(images, {"place": place, "reason": reason})


def count_refused(code: str) -> None:
    """A request, or an image of one, that was answered with the error of that code."""
    _refused().inc(1, {"code": code})


def count_cached(model: str, outcome: CacheOutcome, images: int = 1, saved_s: float = 0.0) -> None:
    """Images that the answer cache was asked for, or answers that it gave up.

    `saved_s`: how long preprocessing and inference of what was not computed again had taken.
    """
    _cached(outcome).inc(images, {"model": model})
    if saved_s > 0:
        _saved_s().inc(saved_s, {"model": model})


def set_cache_bytes(model: str, held_bytes: int) -> None:
    """What this replica's answer cache holds for that model."""
    _cache_bytes().set(held_bytes, {"model": model})


def count_of_version(model: str, version: int, outcome: VersionOutcome, images: int) -> None:
    _of_version().inc(images, {"model": model, "version": str(version), "outcome": outcome})


def set_latency(model: str, version: int, quantile: float, latency_s: float) -> None:
    """Of the answers of that version, in this replica."""
    _latency_s().set(latency_s, {"model": model, "version": str(version), "quantile": f"{quantile:g}"})


def count_mirrored(model: str, version: int, outcome: MirrorOutcome, images: int) -> None:
    """`version`: the candidate's."""
    _mirrored().inc(images, {"model": model, "version": str(version), "outcome": outcome})


def set_difference(model: str, version: int, statistic: Literal["mean", "greatest"], difference: float) -> None:
    """Of the candidate's probabilities from those of the version that answers, in this replica."""
    _difference().set(difference, {"model": model, "version": str(version), "statistic": statistic})


@functools.cache
def _of_version() -> Counter:
    return Counter(
        "aperture_version_images",
        "Images of requests, by the version that had them.",
        tag_keys=("model", "version", "outcome"),  # type: ignore[arg-type]
    )


@functools.cache
def _latency_s() -> Gauge:
    return Gauge(
        "aperture_version_latency_seconds",
        "Latency of a version's answers, preprocessing included.",
        tag_keys=("model", "version", "quantile"),  # type: ignore[arg-type]
    )


@functools.cache
def _mirrored() -> Counter:
    return Counter(
        "aperture_mirrored_images",
        "Images offered to a candidate.",
        tag_keys=("model", "version", "outcome"),  # type: ignore[arg-type]
    )


@functools.cache
def _difference() -> Gauge:
    return Gauge(
        "aperture_mirrored_difference",
        "How far a candidate's probabilities are from those of the version that answers.",
        tag_keys=("model", "version", "statistic"),  # type: ignore[arg-type]
    )


@functools.cache
def _cached(outcome: CacheOutcome) -> Counter:
    return Counter(f"aperture_cache_{outcome}", CACHE_OUTCOMES[outcome], tag_keys=("model",))


@functools.cache
def _saved_s() -> Counter:
    return Counter(
        "aperture_cache_saved_seconds",
        "Preprocessing and inference that hits and joined images did not repeat.",
        tag_keys=("model",),
    )


@functools.cache
def _cache_bytes() -> Gauge:
    return Gauge("aperture_cache_bytes", "What the answer cache holds.", tag_keys=("model",))


@functools.cache
def _dropped() -> Counter:
    return Counter(
        "aperture_dropped_images",
        "Images dropped before they cost anything.",
        tag_keys=("place", "reason"),  # type: ignore[arg-type]  # Ray types a tuple of any length as one of one.
    )


@functools.cache
def _refused() -> Counter:
    return Counter("aperture_refusals", "Requests and images answered with an error.", tag_keys=("code",))
