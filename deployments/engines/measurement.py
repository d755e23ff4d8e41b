"""Which engine is the fastest here: the candidates are loaded, judged and timed one after the other.

The outcome is kept by hardware, model and versions, so that only the first start pays for it.
"""

import gc
import json
import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deployments.engines.artefacts import Artefacts
from deployments.engines.base import Engine
from deployments.engines.loading import cannot_run, conditions, identity_of_conditions, load
from deployments.engines.registry import Choice, Device
from deployments.errors import ConfigError

logger = logging.getLogger("ray.serve")

# Of each engine and batch size; at least this long and this often, since the fastest run is the one that counts: other
# work on the machine only ever adds.
MEASURE_S: Final = 0.5
MEASURE_RUNS: Final = 3


@dataclass(frozen=True)
class Row:
    """What came of one choice."""

    choice: Choice
    images_per_s: dict[int, float]  # by batch size; empty if it is out
    verdict: str  # the guard's figures, or why it is out

    @property
    def score(self) -> float:
        """The geometric mean: a lone request and a full batch count alike. 0 if it is out."""
        speeds = self.images_per_s.values()
        return math.prod(speeds) ** (1 / len(speeds)) if speeds else 0.0


class NonePasses(ConfigError):
    """Not one of the candidates. Nothing is kept of it, so that the next start tries again."""


def fastest_first(artefacts: Artefacts, choices: Sequence[Choice], device: Device) -> list[Choice]:
    """Those of `choices` that pass the guard on this machine, by a measurement made now or at an earlier start.

    Raises NonePasses, or ConfigError if the settings are at fault.
    """
    met = [conditions(artefacts, choice, device) for choice in choices]
    name = f"fastest-{identity_of_conditions(met)}"

    def write(directory: Path) -> None:
        # Models that start together would otherwise measure each other's work.
        with artefacts.alone():
            rows = _measure(artefacts, choices, device)
        content = {"conditions": met, "rows": [asdict(row) for row in rows]}
        (directory / "rows.json").write_text(json.dumps(content, indent=1))

    where, rows = artefacts.read(name, write, lambda directory: (directory, _read_rows(directory)))
    logger.info("Engines for model %s, kept in %s:\n%s", artefacts.settings.name, where, _table(rows))
    return [row.choice for row in rows if row.images_per_s]


def images_per_s(engine: Engine, pixels: NDArray[np.uint8], batch_size: int, runners: int) -> float:
    """Of the fastest of several runs, in each of which `runners` threads run a batch at once."""
    batch = np.resize(pixels, (batch_size, *pixels.shape[1:]))  # Repeats the images where they are too few.
    fastest_s, runs, end = math.inf, 0, time.perf_counter() + MEASURE_S
    with ThreadPoolExecutor(runners) as pool:
        while runs < MEASURE_RUNS or time.perf_counter() < end:
            started = time.perf_counter()
            for _ in pool.map(engine.infer, [batch] * runners):
                pass
            fastest_s, runs = min(fastest_s, time.perf_counter() - started), runs + 1
    return runners * batch_size / fastest_s


def _measure(artefacts: Artefacts, choices: Sequence[Choice], device: Device) -> list[Row]:
    rows = []
    for choice in choices:
        rows.append(_row(artefacts, choice, device))
        # It gives its memory back before the next one takes its own; compiled networks are in cycles.
        gc.collect()
    if not any(row.images_per_s for row in rows):
        raise NonePasses(
            f"No engine passes for model {artefacts.settings.name!r}: "
            f"{'; '.join(row.verdict.removesuffix('.') for row in rows)}."
        )
    return sorted(rows, key=lambda row: row.score, reverse=True)


def _row(artefacts: Artefacts, choice: Choice, device: Device) -> Row:
    try:
        engine, verdict = load(artefacts, choice, device)
        return Row(choice, _speeds(engine, artefacts.golden.pixels), str(verdict))
    except ConfigError as refusal:
        return Row(choice, {}, str(refusal))
    except Exception as err:
        return Row(choice, {}, str(cannot_run(artefacts.settings.name, choice, err)))


def _speeds(engine: Engine, pixels: NDArray[np.uint8]) -> dict[int, float]:
    largest = engine.batch_sizes()[-1]
    speeds = {1: images_per_s(engine, pixels, 1, runners=1)}
    # Under load all runners are at work, each on a batch of its own.
    speeds[largest] = images_per_s(engine, pixels, largest, engine.runners())
    return speeds


def _read_rows(directory: Path) -> list[Row]:
    return [_row_of(row) for row in json.loads((directory / "rows.json").read_text())["rows"]]


def _row_of(content: dict[str, Any]) -> Row:
    speeds = {int(size): float(speed) for size, speed in content["images_per_s"].items()}
    return Row(Choice(**content["choice"]), speeds, content["verdict"])


def _table(rows: Sequence[Row]) -> str:
    lines = [f"  {'engine':14}{'precision':11}{'img/s by batch size':26}verdict"]
    for row in rows:
        speeds = ", ".join(f"{size}: {speed:.1f}" for size, speed in row.images_per_s.items()) or "refused"
        lines.append(f"  {row.choice.engine:14}{row.choice.precision:11}{speeds:26}{row.verdict}")
    return "\n".join(lines)
