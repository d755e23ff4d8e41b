"""Engines: what turns a batch of uint8 pixels into logits. `create_engine` picks one by name.

Model libraries are imported inside the creators, so that a replica loads only the one that it runs.
"""

from collections.abc import Callable

from deployments.engines.base import Engine
from deployments.errors import ConfigError
from deployments.settings import ModelSettings


def create_engine(settings: ModelSettings) -> Engine:
    """The engine that `settings.engine` names, loaded but not warm.

    Raises ConfigError with one sentence if the model cannot be served.
    """
    return _CREATORS[settings.engine](settings)


def _create_torch(settings: ModelSettings) -> Engine:
    try:
        from deployments.engines.torch_engine import TorchEngine
    except ImportError as err:
        raise ConfigError(f"Engine 'torch' of model {settings.name!r} cannot be imported: {err}.") from err
    return TorchEngine(settings)


def _create_dummy(settings: ModelSettings) -> Engine:
    from deployments.engines.dummy import DummyEngine

    return DummyEngine(settings)


_CREATORS: dict[str, Callable[[ModelSettings], Engine]] = {"torch": _create_torch, "dummy": _create_dummy}
