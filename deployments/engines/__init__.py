"""Engines: what turns a batch of uint8 pixels into logits. `create_engine` picks, builds and checks one.

    settings -> choice: which engines, in which order; measurement, if that is left open
             -> loading: the registry's creator builds it, and the guard says whether it is within tolerance

Each engine is built from the model's artefacts, which are derived from its weights once and kept on disk.
"""

from deployments.engines.base import Engine
from deployments.settings import ModelSettings


def create_engine(settings: ModelSettings) -> Engine:
    """The engine that `settings` ask for, warm and within tolerance of eager float32.

    Raises ConfigError with one sentence for each reason why the model cannot be served.
    """
    if settings.engine == "dummy":
        from deployments.engines.dummy import DummyEngine

        return DummyEngine(settings)
    from deployments.engines.choice import choose_engine

    return choose_engine(settings)
