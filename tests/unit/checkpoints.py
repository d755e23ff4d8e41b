"""Small models with random weights, and the files that their weights come in: what is compared is arithmetic."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from deployments.settings import ModelSettings, PreprocessingSpec

ARCHITECTURE = "shufflenet_v2_x0_5"
LABELS = ("circle", "square", "star", "heart", "cross")
# Means and deviations that differ by channel, so that a swap of channels or of the two would show.
SPEC = PreprocessingSpec(resize_size=72, crop_size=64, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def settle(module: torch.nn.Module) -> torch.nn.Module:
    """`module` with the statistics of its activations, without which random layers fade all images to one answer."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        module.train()(torch.randn(16, 3, 64, 64))
    return module.eval()


def settings_of_file(
    tmp_path: Path, weights: Path, architecture: str = ARCHITECTURE, classes: int = 5
) -> ModelSettings:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(LABELS[:classes]))
    return ModelSettings(
        name="mine",
        architecture=architecture,
        weights=str(weights),
        labels=str(labels),
        preprocessing=SPEC,
        engine="torch",
        device="cpu",
    )


def cache(torch_home: Path, architecture: str, state: object) -> None:
    """Lays `state` where torch keeps the weights that it has downloaded."""
    url = torchvision.models.get_model_weights(architecture).DEFAULT.url
    checkpoints = torch_home / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(state, checkpoints / url.rpartition("/")[2])


def pretrained(architecture: str, **settings: Any) -> ModelSettings:
    """torchvision's weights, run by eager torch one image at a time unless `settings` say otherwise."""
    own = {"name": "big", "architecture": architecture, "weights": "IMAGENET1K_V1", "device": "cpu"}
    return ModelSettings.model_validate({**own, "engine": "torch", "max_batch_size": 1, **settings})


def move_download_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.value, "url", url)


class Trap:
    """Makes a directory when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self._sprung = sprung

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._sprung),)


def save_as_checkpoint(trap: Trap, path: Path) -> None:
    torch.save({"fc.weight": trap}, path)


def save_as_bare_pickle(trap: Trap, path: Path) -> None:
    path.write_bytes(pickle.dumps({"fc.weight": trap}, protocol=2))
