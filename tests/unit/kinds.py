"""Kinds of engines for tests of how one is chosen: eager torch, with something done to it."""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray

from deployments.engines import create_engine, measurement
from deployments.engines.artefacts import Artefacts
from deployments.engines.base import Engine, Images, stack
from deployments.engines.golden import made_up_pixels
from deployments.engines.network import Normalized
from deployments.engines.registry import KINDS, Build, Choice, Kind
from deployments.messages import ModelInfo
from deployments.settings import EngineName, ModelSettings, Precision, PreprocessingSpec
from tests.unit.checkpoints import LABELS

Logits = NDArray[np.float32]

# Milliseconds for a batch: what is tested here takes hundreds of them.
TINY_ARCHITECTURE = "squeezenet1_1"
TINY_SPEC = PreprocessingSpec(resize_size=36, crop_size=32)


def tiny_network() -> torch.nn.Module:
    """Random weights whose answers differ: each class is as probable as the others over many images."""
    torch.manual_seed(5)
    network: torch.nn.Module = torchvision.models.get_model(TINY_ARCHITECTURE, weights=None, num_classes=len(LABELS))
    network.eval()
    pixels = torch.from_numpy(made_up_pixels(TINY_SPEC))
    last = network.get_submodule("classifier.1")
    assert isinstance(last, torch.nn.Conv2d)
    assert last.bias is not None
    with torch.no_grad():
        last.weight.normal_(std=0.5)
        # Far from zero, where the ReLU behind would cut them off.
        last.bias.fill_(50)
        last.bias += 50 - Normalized(network, TINY_SPEC)(pixels).mean(dim=0)
    return network


class Clock:
    """Stands in for time.perf_counter while engines are measured: the fastest is the one that the test says."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


class Eager:
    """The reference itself as an engine; a batch takes `batch_s` on the clock, and is answered with changed logits."""

    def __init__(
        self, build: Build, info: ModelInfo, change: Callable[[Logits], Logits], batch_s: float, clock: Clock
    ) -> None:
        self._network = build.artefacts.network
        self._sizes = range(1, build.artefacts.settings.max_batch_size + 1)
        self._info, self._change, self._batch_s, self._clock = info, change, batch_s, clock
        self.batches: list[int] = []
        # As compiled networks are: what is not collected stays in memory.
        self._cycle = self

    def info(self) -> ModelInfo:
        return self._info

    def batch_sizes(self) -> Sequence[int]:
        return self._sizes

    def runners(self) -> int:
        return 1

    @torch.inference_mode()
    def infer(self, images: Images) -> Logits:
        self.batches.append(len(images))
        self._clock.now_s += self._batch_s
        logits: Logits = self._network(torch.from_numpy(stack(images, len(images)))).numpy()
        return self._change(logits)


class Registry:
    """Stands in for the kinds that there are, and counts what is built."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.builds: list[Build] = []
        # How many engines there were in memory already, each time that one was built.
        self.alive_before: list[int] = []
        self._alive: weakref.WeakSet[Eager] = weakref.WeakSet()
        self._built: list[str] = []
        self._monkeypatch = monkeypatch
        self._clock = Clock()
        monkeypatch.setattr(measurement, "time", self._clock)
        for name in list(KINDS):
            monkeypatch.delitem(KINDS, name)

    def add(
        self,
        name: EngineName,
        change: Callable[[Logits], Logits] = lambda logits: logits,
        *,
        batch_s: float = 1.0,
        precisions: Sequence[Precision] = ("fp32",),
        fails: Exception | None = None,
        before: Callable[[Artefacts], object] = lambda artefacts: None,
        module: str = "torch",
        automatic: bool = True,
    ) -> None:
        """An engine of this name; when it is built, `before` is called and `fails` raised."""

        def create(build: Build) -> Engine:
            self.builds.append(build)
            self._built.append(str(Choice(name, build.precision)))
            before(build.artefacts)
            if fails is not None:
                raise fails
            self.alive_before.append(len(self._alive))
            info = build.artefacts.describe(name, build.precision, "cpu")
            engine = Eager(build, info, change, batch_s, self._clock)
            self._alive.add(engine)
            return engine

        kind = Kind(create, module, {"cpu": precisions}, ("cpu",) if automatic else ())
        self._monkeypatch.setitem(KINDS, name, kind)

    def built(self) -> list[str]:
        """What was built since this was last asked."""
        built, self._built = self._built, []
        return built


def wrong(logits: Logits) -> Logits:
    return np.roll(logits, 1, axis=1)


def coarse(logits: Logits) -> Logits:
    """As a lower precision would have it: the classes stay, the probabilities move by a few percent."""
    changed: Logits = logits * np.float32(1.05)
    return changed


def settings(model_path: Path, **more: Any) -> ModelSettings:
    return ModelSettings.model_validate(
        {"name": "shapes", "path": str(model_path), "device": "cpu", "max_batch_size": 2, **more}
    )


def running(settings: ModelSettings) -> str:
    """Which engine and precision these settings end in."""
    info = create_engine(settings).info()
    return f"{info.engine} {info.precision}"
