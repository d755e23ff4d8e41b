"""Counters that Prometheus gets, one of each to a process, under the names and labels that stand here.

Serve adds the labels deployment, replica and application.
"""

import functools
from typing import Literal

from ray.serve.metrics import Counter

# Where work ended before it was done: where it waited to come in, on the way between deployments, for a decoder, or for
# a batch.
Place = Literal["ingress", "gathering", "preprocessor", "classifier"]
# Why: its deadline passed or could not be met, or its caller left.
Reason = Literal["expired", "abandoned"]


def count_dropped(place: Place, reason: Reason, images: int = 1) -> None:
    """Images that were dropped before they cost anything at that place."""
    _dropped().inc(images, {"place": place, "reason": reason})


def count_refused(code: str) -> None:
    """A request, or an image of one, that was answered with the error of that code."""
    _refused().inc(1, {"code": code})


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
