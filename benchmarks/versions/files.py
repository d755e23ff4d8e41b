"""A model directory whose versions differ in ways that are known: version 1 is the bundled model.

Versions other than the first wait beside the directory until `publish` puts them in, whole, as whoever exports a model
does it.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torchvision
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.service import ROOT
from deployments.engines.golden import GOLDEN, pick_images
from deployments.engines.recorded import Forward, record
from deployments.repository import MANIFEST, write_manifest
from deployments.settings import PreprocessingSpec
from deployments.weight_files import sha256_of

BUNDLED: Final = ROOT / "models/shapes/1"
WEIGHTS: Final = "model.safetensors"
FIRST, SECOND, CORRUPT, WRONG, SLOW = 1, 2, 3, 4, 5
# The second version's last layer has other weights, by so many of their standard deviations, all of them so many times
# as large: with these it says another first label of about one picture in ten, and another probability of every one.
NOISE, SHARPNESS, SEED = 0.6, 1.6, 4
# Pixels along a side of what the slow version looks at: 16 times as many as the others do.
SLOW_SIDE = 512
# On golden pictures each load of a version is guarded; of the slow one each takes a tenth of a second.
GOLDEN_COUNT, SLOW_GOLDEN_COUNT = 64, 8

State = dict[str, Tensor]


class ModelFiles:
    """`root` is what the service gets as a model's path. `golden`: how many pictures a version is guarded on."""

    def __init__(self, folder: Path, golden: int = GOLDEN_COUNT) -> None:
        self._golden = golden
        self.root = folder / "shapes"
        self._waiting = folder / "waiting"
        self.root.mkdir(parents=True)
        with one_thread():
            self._make_all()
        self.publish(FIRST)

    def publish(self, version: int) -> None:
        """At once: a version that is half there would be one that is broken."""
        (self._waiting / str(version)).rename(self.root / str(version))

    def directory(self, version: int) -> Path:
        waiting = self._waiting / str(version)
        return waiting if waiting.exists() else self.root / str(version)

    def _make_all(self) -> None:
        first, manifest = load_file(BUNDLED / WEIGHTS), yaml.safe_load((BUNDLED / MANIFEST).read_text())
        spec = PreprocessingSpec.model_validate(manifest["preprocessing"])
        second, large = another(first), spec.model_copy(update={"resize_size": SLOW_SIDE, "crop_size": SLOW_SIDE})
        self._make(FIRST, first, manifest, spec)
        self._make(SECOND, second, manifest, spec)
        damage(self._make(CORRUPT, second, manifest, spec) / WEIGHTS)
        exchange_weights(self._make(WRONG, first, manifest, spec), second)
        self._make(SLOW, second, manifest, large, SLOW_GOLDEN_COUNT)

    def _make(
        self, version: int, state: State, manifest: dict[str, Any], spec: PreprocessingSpec, golden: int | None = None
    ) -> Path:
        """A version as examples/finetune.py exports it: with what it answers to its golden pictures."""
        directory = self._waiting / str(version)
        (directory / GOLDEN).mkdir(parents=True)
        for picture in pick_images(BUNDLED / GOLDEN, golden or self._golden):
            shutil.copy(picture, directory / GOLDEN)
        save_file(state, directory / WEIGHTS)
        network = torchvision.models.get_model(manifest["architecture"], num_classes=len(manifest["labels"]))
        network.load_state_dict(state)
        write_manifest(
            directory,
            architecture=manifest["architecture"],
            weights=WEIGHTS,
            labels=tuple(manifest["labels"]),
            preprocessing=spec,
            recorded=record(directory, spec, eager(network, spec)),
        )
        return directory


@contextmanager
def one_thread() -> Iterator[None]:
    """For torch. On cores that others use, threads that wait for each other make seconds minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def eager(network: nn.Module, spec: PreprocessingSpec) -> Forward:
    """As it was trained: float32, and pixels normalised as by torchvision's Normalize."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    network.eval()

    @torch.inference_mode()
    def forward(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (N, 3, H, W)
        logits = [network((image[None] / 255 - mean) / deviation) for image in images]
        return np.asarray(torch.cat(logits).numpy())

    return forward


def another(state: State) -> State:
    """With another last layer, the same every time."""
    random = torch.Generator().manual_seed(SEED)
    weights, bias = state["fc.weight"], state["fc.bias"]
    noise = NOISE * weights.std() * torch.randn(weights.shape, generator=random)
    return {**state, "fc.weight": SHARPNESS * (weights + noise), "fc.bias": SHARPNESS * bias}


def damage(weights: Path) -> None:
    """One byte in the middle of the file."""
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 0xFF
    weights.write_bytes(content)


def exchange_weights(directory: Path, state: State) -> None:
    """As somebody does who changes the weights and the hash of a version, but exports nothing anew."""
    save_file(state, directory / WEIGHTS)
    manifest = yaml.safe_load((directory / MANIFEST).read_text())
    manifest["sha256"] = sha256_of(directory / WEIGHTS)
    (directory / MANIFEST).write_text(yaml.safe_dump(manifest, sort_keys=False))
