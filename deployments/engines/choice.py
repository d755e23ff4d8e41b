"""From settings to the engine that serves: measured where it is left open, and guarded in any case."""

import logging
from collections.abc import Sequence

from deployments.engines.artefacts import Artefacts
from deployments.engines.base import Engine
from deployments.engines.hardware import choose_device
from deployments.engines.loading import Refused, load
from deployments.engines.measurement import NonePasses, fastest_first
from deployments.engines.recorded import check_recorded
from deployments.engines.registry import KINDS, Choice, Device, automatic, reading
from deployments.errors import ConfigError
from deployments.settings import EngineName, ModelSettings, Precision

logger = logging.getLogger("ray.serve")


def choose_engine(settings: ModelSettings, version: int | None = None) -> Engine:
    """Of `version`, or of the highest: loaded, warm and within tolerance of the reference.

    Raises ConfigError if no engine is.
    """
    artefacts = Artefacts(settings, version)
    check_recorded(artefacts)
    device = _device(artefacts)
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


def _device(artefacts: Artefacts) -> Device:
    """Raises ConfigError if nothing that the settings allow reads the format of the weights."""
    settings, kind = artefacts.settings, artefacts.format
    able = reading(kind)
    if settings.engine != "auto" and settings.engine not in able:
        raise ConfigError(
            f"Engine {settings.engine!r} of model {settings.name!r} does not read weights of the format {kind!r}, "
            f"which {', '.join(able)} do; set engine to one of these or to 'auto'."
        )
    device = choose_device(settings)
    if device == "cuda" and settings.device == "auto" and not automatic(device, None, None, kind):
        logger.info("Model %s runs on the CPU: nothing that is installed runs %s on a GPU.", settings.name, kind)
        device = "cpu"
    if device == "cpu" and not any(KINDS[name].offered(device, kind) for name in able):
        raise ConfigError(
            f"Model {settings.name!r} has weights of the format {kind!r}, which run only on a CUDA GPU with "
            f"{', '.join(able)} installed."
        )
    return device


def _in_order(artefacts: Artefacts, device: Device) -> Sequence[Choice]:
    """What the settings name, or what was measured to be best; then what to fall back on."""
    settings = artefacts.settings
    if settings.engine != "auto":
        _check_installed(settings, settings.engine)
    if settings.engine == "auto" or settings.precision == "auto":
        return _measured(artefacts, device)
    _check_offered(artefacts, settings.engine, settings.precision, device)
    asked_for = Choice(settings.engine, settings.precision)
    others = [Choice(settings.engine, "fp32"), *automatic(device, None, ("fp32",), artefacts.format)]
    return list(dict.fromkeys([asked_for, *others]))


def _measured(artefacts: Artefacts, device: Device) -> Sequence[Choice]:
    settings = artefacts.settings
    engine = None if settings.engine == "auto" else settings.engine
    precisions = None if settings.precision == "auto" else (settings.precision,)
    choices = automatic(device, engine, precisions, artefacts.format)
    if not choices:
        raise ConfigError(
            f"No engine that is installed runs model {settings.name!r} on {device} at precision "
            f"{settings.precision!r}; its weights of the format {artefacts.format!r} are read by "
            f"{', '.join(reading(artefacts.format))}."
        )
    try:
        return fastest_first(artefacts, choices, device)
    except NonePasses as refusal:
        fp32 = automatic(device, None, ("fp32",), artefacts.format)
        others = [choice for choice in fp32 if choice not in choices]
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


def _check_offered(artefacts: Artefacts, engine: EngineName, precision: Precision, device: Device) -> None:
    offered = KINDS[engine].offered(device, artefacts.format)
    if precision not in offered:
        weights = f" for weights of the format {artefacts.format!r}" if artefacts.format != "state_dict" else ""
        raise ConfigError(
            f"Engine {engine!r} of model {artefacts.settings.name!r} has no precision {precision!r} on {device}"
            f"{weights}; it has {', '.join(offered) or 'nothing'}."
        )
