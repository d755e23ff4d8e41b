"""What an operator may set, validated once and handed down in the smallest piece that suffices.

`Settings` is the `args:` of the application in a Serve config, `LiveSettings` the `user_config:` of a model's
deployment (applied without a restart), `PreprocessingSpec` the part of a model that says how its pixels are made.
A wrong key or value raises `ConfigError` with one sentence that names the key, the value and what is allowed.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from deployments.errors import ConfigError
from deployments.settings.administration import Administration
from deployments.settings.frozen import Frozen
from deployments.settings.live import LiveSettings, VersionPolicy, live_batch_size
from deployments.settings.models import (
    RESERVED_NAMES,
    EngineName,
    InputName,
    ModelSettings,
    OutputName,
    Precision,
    PreprocessingSpec,
    Tolerance,
    check_batch_can_fill,
    with_fidelity,
    with_threads,
)
from deployments.settings.requests import Access, Admission, Gathering, ImageUrls, Limits, Pages
from deployments.settings.telemetry import Telemetry, Traces

__all__ = [
    "RESERVED_NAMES",
    "Access",
    "Administration",
    "Admission",
    "EngineName",
    "Frozen",
    "Gathering",
    "ImageUrls",
    "InputName",
    "Limits",
    "LiveSettings",
    "ModelSettings",
    "OutputName",
    "Pages",
    "Precision",
    "PreprocessingSpec",
    "Settings",
    "Telemetry",
    "Tolerance",
    "Traces",
    "VersionPolicy",
    "check_batch_can_fill",
    "check_messages_fit",
    "live_batch_size",
    "with_fidelity",
    "with_threads",
]

# Pickled arguments and Serve's own metadata around the payload of a message: a few hundred bytes for each image.
MESSAGE_OVERHEAD_BYTES = 2**20


class Settings(Frozen):
    """`args:` of the application."""

    models: Annotated[tuple[ModelSettings, ...], Field(min_length=1)]
    limits: Limits = Limits()
    admission: Admission = Admission()
    access: Access = Access()
    administration: Administration = Administration()
    pages: Pages = Pages()
    telemetry: Telemetry = Telemetry()
    # null: each image travels in a call of its own, as Serve's own rule of autoscaling, which counts calls, needs it.
    gathering: Gathering | None = Gathering()
    # null: no image is fetched from anywhere.
    image_urls: ImageUrls | None = None
    # Decoder threads of each Preprocessor replica; Pillow decodes without the GIL.
    preprocessor_threads: Annotated[int, Field(ge=1, le=64)] = 1

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [model.name for model in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"models has two entries named {name!r}; each model needs its own name.")
        return self


def check_messages_fit(settings: Settings, max_message_bytes: int) -> None:
    """Raises ConfigError if what the limits let in could not travel between deployments, or come out of decoding."""
    limits = settings.limits
    room = max_message_bytes - MESSAGE_OVERHEAD_BYTES
    sizes = {"limits.max_body_bytes": limits.max_body_bytes, "limits.max_array_bytes": limits.max_array_bytes}
    if settings.gathering is not None:
        sizes["gathering.max_bytes"] = settings.gathering.max_bytes
    for key, size in sizes.items():
        if size > room:
            raise ConfigError(
                f"{key} is {size}, but deployments exchange messages of at most {max_message_bytes} bytes, headers "
                f"included; lower it, or raise RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH in configs/ray.env."
            )
