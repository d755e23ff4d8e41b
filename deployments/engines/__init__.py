"""Engines: what turns a batch of uint8 pixels into logits. `create_engine` picks, builds and checks one.

    settings -> recorded: the version answers as when it was exported
             -> choice: which engines, in which order; measurement, if that is left open
             -> loading: the registry's creator builds it, and the guard says whether it is within tolerance

Each engine is built from the model's artefacts, which are derived from its weights once and kept on disk. What
comes before a load beside others that serve: memory, whether there is room for it, and rehearsal, in a process apart.
"""

from deployments.engines.base import Engine
from deployments.settings import ModelSettings


def create_engine(settings: ModelSettings, version: int | None = None) -> Engine:
    """The engine that `settings` ask for, warm and within tolerance of its reference: of `version`, or the highest.

    A model without a path has the one version 1; only the dummy engine takes any number.

    Raises ConfigError with one sentence for each reason why the model cannot be served.
    """
    if settings.engine == "dummy":
        from deployments.engines.dummy import DummyEngine

        return DummyEngine(settings, version)
    from deployments.engines.choice import choose_engine

    return choose_engine(settings, version)
