"""From settings to the engine that serves: measured where it is left open, and guarded in any case."""

import logging
from collections.abc import Sequence

from deployments.engines.artefacts import Artefacts
from deployments.engines.base import Engine
from deployments.engines.hardware import choose_device
from deployments.engines.loading import Refused, load
from deployments.engines.measurement import NonePasses, fastest_first
from deployments.engines.registry import KINDS, Choice, Device, automatic
from deployments.errors import ConfigError
from deployments.settings import EngineName, ModelSettings, Precision

logger = logging.getLogger("ray.serve")


def choose_engine(settings: ModelSettings) -> Engine:
    """Loaded, warm and within tolerance of eager float32. Raises ConfigError if no engine is."""
    artefacts = Artefacts(settings)
    device = choose_device(settings)
    asked_for = (settings.engine, settings.precision)
    refusals: list[str] = []
    for choice in _in_order(artefacts, device):
        try:
            engine, verdict = load(artefacts, choice, device)
        except ConfigError as refusal:
            if not isinstance(refusal, Refused) and (choice.engine, choice.precision) == asked_for:
                raise  # What is at fault are the settings.
            logger.warning("%s", refusal)
            refusals.append(str(refusal))
            if settings.on_refusal == "fail":
                break
            continue
        logger.info("Model %s runs on %s: %s.", settings.name, choice, verdict)
        return engine
    raise ConfigError("; ".join(refusal.removesuffix(".") for refusal in refusals) + ".")


def _in_order(artefacts: Artefacts, device: Device) -> Sequence[Choice]:
    """What the settings name, or what was measured to be best; then what to fall back on."""
    settings = artefacts.settings
    if settings.engine != "auto":
        _check_installed(settings, settings.engine)
    if settings.engine == "auto" or settings.precision == "auto":
        return _measured(artefacts, device)
    _check_offered(settings, settings.engine, settings.precision, device)
    asked_for = Choice(settings.engine, settings.precision)
    others = [Choice(settings.engine, "fp32"), *automatic(device, None, ("fp32",))]
    return list(dict.fromkeys([asked_for, *others]))


def _measured(artefacts: Artefacts, device: Device) -> Sequence[Choice]:
    settings = artefacts.settings
    engine = None if settings.engine == "auto" else settings.engine
    choices = automatic(device, engine, None if settings.precision == "auto" else (settings.precision,))
    if not choices:
        raise ConfigError(
            f"No engine that is installed runs model {settings.name!r} on {device} at precision {settings.precision!r}."
        )
    try:
        return fastest_first(artefacts, choices, device)
    except NonePasses as refusal:
        others = [choice for choice in automatic(device, None, ("fp32",)) if choice not in choices]
        if settings.on_refusal == "fail" or not others:
            raise
        logger.warning("%s", refusal)
        return fastest_first(artefacts, others, device)


def _check_installed(settings: ModelSettings, engine: EngineName) -> None:
    if not KINDS[engine].is_installed():
        raise ConfigError(
            f"Engine {engine!r} of model {settings.name!r} is not installed; install the extra {engine!r} of this "
            f"project."
        )


def _check_offered(settings: ModelSettings, engine: EngineName, precision: Precision, device: Device) -> None:
    offered = KINDS[engine].precisions.get(device, ())
    if precision not in offered:
        raise ConfigError(
            f"Engine {engine!r} of model {settings.name!r} has no precision {precision!r} on {device}; it has "
            f"{', '.join(offered) or 'nothing'}."
        )
