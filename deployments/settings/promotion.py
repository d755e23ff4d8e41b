"""A candidate version beside the one that serves: what is mirrored to it, and what takes it further.

    shadow --bounds hold--> canary --bounds hold--> stable
                               |
                               +--bounds are left--> rolled back, until the configuration changes

In `user_config` of a model's deployment:

    default: stable
    labels: {stable: 1, canary: 2}
    shadow: {candidate: canary, share: 0.2}
    promotion: {candidate: canary, canary_share: 0.1, min_requests: 1000, bounds: {min_agreement: 0.98}}
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from deployments.errors import ConfigError
from deployments.settings.frozen import Frozen, Positive, PositiveFloat
from deployments.settings.references import VersionRef

Share = Annotated[float, Field(ge=0, le=1)]
# Where a candidate stands. Only the configuration takes it back from a later one to an earlier one.
Stage = Literal["shadow", "canary", "stable", "rolled_back"]


class Shadow(Frozen):
    """Which version gets copies of what others answer. Nobody waits for it, and nobody gets its answers."""

    # A version or a label.
    candidate: VersionRef
    # Of the images that another version has answered; fewer where real requests leave no room.
    share: Annotated[float, Field(gt=0, le=1)]


class Bounds(Frozen):
    """Within which a candidate is as good as what it is to replace; all of them must hold."""

    # Images of which both versions say the same first label.
    min_agreement: Share = 0.98
    # The greatest difference between the two probabilities of one label, for each image; mean and maximum of these.
    # Versions that were trained apart may differ by 1 on some image, so that the maximum binds only where it is set.
    max_mean_difference: Share = 0.05
    # The maximum of these.
    max_difference: Share = 1.0
    # Images that the version itself failed on; what the service refuses, and what is too late, is not its fault.
    max_error_rate: Share = 0.01
    # The candidate's 99th percentile of latency over the other's while canary. While in shadow, that of the medians on
    # the engine: mirrors run at a low priority, when there is room.
    max_p99_ratio: PositiveFloat = 1.5


class Automatic(Frozen):
    """Which steps are taken without asking; of the others the log and the report say when they are due."""

    # From the shadow.
    canary: bool = True
    # From canary.
    stable: bool = True
    # Of a canary that leaves its bounds.
    rollback: bool = True


class Promotion(Frozen):
    """What a candidate must show before it gets requests, and then all of them."""

    # The same as that of `shadow`.
    candidate: VersionRef
    # Of the requests that ask for no version, while the candidate is canary.
    canary_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    # While in shadow, images that both versions have answered; while canary, images that the candidate has.
    min_requests: Positive = 1000
    bounds: Bounds = Bounds()
    automatic: Automatic = Automatic()
    # Where the candidate stands, to begin with. Written here, it is a step by hand.
    stage: Stage = "shadow"
    # Why it stands there, with its figures; the service's own words.
    reason: str = ""


def shares_of(promotion: Promotion, default: VersionRef) -> dict[str, float]:
    """How requests that ask for no version are divided between `default` and the candidate, by its stage."""
    if promotion.stage == "canary":
        return {default: 1 - promotion.canary_share, promotion.candidate: promotion.canary_share}
    return {promotion.candidate if promotion.stage == "stable" else default: 1.0}


def check_promotion(
    shadow: Shadow | None,
    promotion: Promotion | None,
    default: str | None,
    labels: Mapping[str, int],
    traffic: Mapping[str, float],
) -> None:
    """Raises ConfigError if these parts of a `user_config` do not go together."""
    for key, part in (("shadow", shadow), ("promotion", promotion)):
        if part is not None and not part.candidate.isdecimal() and part.candidate not in labels:
            known = ", ".join(labels) or "none"
            raise ConfigError(
                f"user_config.{key}.candidate is {part.candidate!r}, which is none of its labels ({known})."
            )
    if promotion is None:
        return
    if shadow is None or _version(shadow.candidate, labels) != _version(promotion.candidate, labels):
        raise ConfigError("user_config.promotion goes by the figures of user_config.shadow of the same candidate.")
    if default is None or traffic:
        raise ConfigError(
            "user_config.promotion needs user_config.default, the version that the candidate is to replace, and no "
            "user_config.traffic, which it decides itself."
        )
    if _version(default, labels) == _version(promotion.candidate, labels):
        raise ConfigError(
            f"user_config.promotion.candidate, {promotion.candidate!r}, and user_config.default, {default!r}, are the "
            f"same version; a candidate is compared with another one."
        )


def _version(reference: str, labels: Mapping[str, int]) -> int | None:
    return int(reference) if reference.isdecimal() else labels.get(reference)
