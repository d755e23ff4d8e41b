"""`user_config:` of a model's deployment: what changes while it serves, without a restart."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from deployments.errors import ConfigError
from deployments.settings.cache import Cache
from deployments.settings.frozen import Frozen, Positive, PositiveFloat
from deployments.settings.models import ModelSettings
from deployments.settings.promotion import Promotion, Shadow, check_promotion, shares_of
from deployments.settings.references import Label, Version, VersionRef


class VersionPolicy(Frozen):
    """Which versions of a model's directory are served, in TensorFlow Serving's terms.

    `latest: n` are the n highest that pass every step of loading, `specific` exactly these, `all` whatever passes.
    """

    # How many of the highest.
    latest: Positive | None = None
    # These and no others.
    specific: Annotated[tuple[Version, ...], Field(min_length=1)] | None = None
    # Every one.
    all: Literal[True] | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if [self.latest, self.specific, self.all].count(None) != 2:
            raise ConfigError("versions must have one of latest, specific and all.")
        if self.specific is not None and len(set(self.specific)) < len(self.specific):
            raise ConfigError("versions.specific names a version twice.")
        return self

    def candidates(self, on_disk: tuple[int, ...]) -> tuple[int, ...]:
        """In the order in which they are to be loaded: the highest first."""
        return tuple(sorted(on_disk if self.specific is None else self.specific, reverse=True))

    @property
    def most(self) -> int | None:
        """How many of the candidates are wanted; None: all of them."""
        return self.latest


class LiveSettings(Frozen):
    """`user_config:` of a model's deployment."""

    # At most max_batch_size in args, for which the engine is warmed up.
    max_batch_size: Positive | None = None
    # All: written `versions: all`.
    versions: Annotated[VersionPolicy, BeforeValidator(lambda value: {"all": True} if value == "all" else value)] = (
        VersionPolicy(latest=1)
    )
    # Names for versions, such as stable and canary. A label moves once its version is available, and not before.
    labels: dict[Label, Version] = Field(default_factory=dict)
    # What requests get that ask for no version; null: the highest that is available.
    default: VersionRef | None = None
    # In place of `default`, the weights by which requests are divided: {stable: 90, canary: 10}. Those with the same
    # x-routing-key go the same way; without one, each by its request id.
    traffic: dict[VersionRef, PositiveFloat] = Field(default_factory=dict)
    # How often to look for new versions; null: only when the configuration changes, or an administrator says so.
    poll_s: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    # null: no answer is kept, nor shared.
    cache: Cache | None = None
    # null: no candidate is looked at (settings/promotion.py).
    shadow: Shadow | None = None
    promotion: Promotion | None = None

    @model_validator(mode="after")
    def _says_where_requests_go(self) -> Self:
        if self.default is not None and self.traffic:
            raise ConfigError("Of user_config.default and user_config.traffic only one may be set.")
        named = [*self.traffic, *([] if self.default is None else [self.default])]
        for reference in named:
            if not reference.isdecimal() and reference not in self.labels:
                known = ", ".join(self.labels) or "none"
                raise ConfigError(
                    f"user_config sends requests to {reference!r}, which is none of its labels ({known})."
                )
        check_promotion(self.shadow, self.promotion, self.default, self.labels, self.traffic)
        return self

    @property
    def shares(self) -> dict[VersionRef, float]:
        """How requests are divided that ask for no version; empty: the highest that is available gets them."""
        if self.promotion is not None and self.default is not None:
            return shares_of(self.promotion, self.default)
        return self.traffic or ({} if self.default is None else {self.default: 1.0})


def live_batch_size(model: ModelSettings, live: LiveSettings) -> int:
    """The batch size that `user_config` asks for. Raises ConfigError if the model is not warmed up for it."""
    if live.max_batch_size is None:
        return model.max_batch_size
    if live.max_batch_size > model.max_batch_size:
        raise ConfigError(
            f"user_config.max_batch_size of {model.name!r} is {live.max_batch_size}, but the model is warmed up for "
            f"batches of at most {model.max_batch_size}, its max_batch_size in args."
        )
    return live.max_batch_size
