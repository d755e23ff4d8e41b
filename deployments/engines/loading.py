"""One choice of engine and precision: built, warmed up, and put before the numeric guard.

The guard runs at every load. Where the same choice has passed under the same conditions before, it compares some of the
golden images, and all of them only if these do not pass.
"""

import hashlib
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deployments.engines.artefacts import Artefacts
from deployments.engines.base import Engine, warm_up
from deployments.engines.guard import Verdict, judge
from deployments.engines.hardware import describe_hardware
from deployments.engines.registry import KINDS, Build, Choice, Device
from deployments.errors import ConfigError
from deployments.metrics import count_verdict

logger = logging.getLogger("ray.serve")

# All MAX_GOLDEN_IMAGES take ResNet-18 12 seconds on one core of 2021, these under 2.
KNOWN_TO_PASS_IMAGES: Final = 32
# Of what a library says when it fails; some append their whole graph.
MAX_REASON_CHARACTERS: Final = 200


class Refused(ConfigError):
    """An engine that can be asked for but not be served: the guard or its library says no."""


def load(artefacts: Artefacts, choice: Choice, device: Device) -> tuple[Engine, Verdict]:
    """The engine, warm, and what the guard found. Raises Refused, or ConfigError if the settings are at fault."""
    name = artefacts.settings.name
    if choice.precision != "fp32" and not artefacts.golden.are_photographs:
        raise Refused(
            f"{choice} of model {name!r} cannot be judged without golden images; set golden to a folder of images."
        )
    try:
        threads = _threads(artefacts)
        build = Build(artefacts, choice.precision, device, threads, artefacts.settings.lone_threads)
        engine = KINDS[choice.engine].create(build)
        warm_up(engine)
        verdict = _guard(engine, artefacts, choice, device)
    except ConfigError:
        raise
    except Exception as err:
        raise cannot_run(name, choice, err) from err
    count_verdict(name, choice.engine, choice.precision, "passed" if verdict.refusal is None else "refused")
    if verdict.refusal is not None:
        raise Refused(f"{choice} of model {name!r} is refused: {verdict.refusal} ({verdict}).")
    return engine, verdict


def cannot_run(name: str, choice: Choice, err: Exception) -> Refused:
    """What a library raised, as a refusal of its own; all of it is in the log."""
    logger.warning("Model %s cannot run on %s", name, choice, exc_info=err)
    return Refused(f"Model {name!r} cannot run on {choice}: {_reason(err)}.")


def conditions(artefacts: Artefacts, choice: Choice, device: Device) -> dict[str, Any]:
    """Whatever a verdict on `choice` depends on, beside the model itself."""
    settings = artefacts.settings
    return {
        "choice": asdict(choice),
        "version": _version(KINDS[choice.engine].module),
        "hardware": describe_hardware(device),
        "threads": _threads(artefacts),
        "lone_threads": settings.lone_threads,
        "max_batch_size": settings.max_batch_size,
        "tolerance": settings.tolerance.model_dump(),
        "golden": artefacts.golden.identity,
        "calibration": artefacts.calibration_identity if choice.precision == "int8" else None,
    }


def identity_of_conditions(content: object) -> str:
    """24 hex digits for the name of an artefact."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def _guard(engine: Engine, artefacts: Artefacts, choice: Choice, device: Device) -> Verdict:
    met = conditions(artefacts, choice, device)
    passed = f"passed-{choice.engine}-{choice.precision}-{identity_of_conditions(met)}"
    if artefacts.holds(passed):
        verdict = _compare(engine, artefacts, choice, KNOWN_TO_PASS_IMAGES)
        if verdict.refusal is None:
            return verdict
    verdict = _compare(engine, artefacts, choice, len(artefacts.golden.pixels))

    def write(directory: Path) -> None:
        (directory / "verdict.json").write_text(json.dumps({"conditions": met, "verdict": asdict(verdict)}, indent=1))

    if verdict.refusal is None:
        artefacts.directory(passed, write)
    return verdict


def _compare(engine: Engine, artefacts: Artefacts, choice: Choice, at_most: int) -> Verdict:
    """On the golden images, evenly picked if there are more, in batches of every size that the engine has."""
    golden = artefacts.golden
    picked = np.linspace(0, len(golden.pixels) - 1, min(at_most, len(golden.pixels))).round().astype(int)
    # As when it serves: on other threads than this one, and on all of them at once.
    with ThreadPoolExecutor(engine.runners()) as runners:
        logits = np.concatenate(list(runners.map(engine.infer, _batches(golden.pixels[picked], engine.batch_sizes()))))
    return judge(golden.logits[picked], logits, choice.precision, artefacts.settings.tolerance)


def _batches(pixels: NDArray[np.uint8], sizes: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    start = 0
    for size in itertools.cycle(sizes):
        if start >= len(pixels):
            return
        yield pixels[start : start + size]
        start += size


def _threads(artefacts: Artefacts) -> int:
    return artefacts.settings.threads or 1


def _version(module: str) -> str:
    try:
        return version_of(module)
    except PackageNotFoundError:  # Installed under another name, as onnxruntime-gpu is.
        return "unknown"


def _reason(err: Exception) -> str:
    """The first sentence of what the library says."""
    said = " ".join(str(err).split()).partition(". ")[0][:MAX_REASON_CHARACTERS].rstrip(".: ")
    return said or type(err).__name__
