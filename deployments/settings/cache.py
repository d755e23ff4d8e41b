"""What a model may keep of its answers."""

from deployments.settings.frozen import Frozen, Positive, PositiveFloat


class Cache(Frozen):
    """`cache:` in a model's `user_config`. Without it, nothing is kept and each image is computed."""

    # Of answers, with their keys and Python's own overhead, in each Ingress replica.
    max_bytes: Positive
    # Compute identical images that are in flight at the same time once.
    single_flight: bool = True
    # Answers older than this are computed anew; null: they are good for as long as their version is.
    max_age_s: PositiveFloat | None = None
