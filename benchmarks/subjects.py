"""The model that is measured: one on disk, or a ResNet-18 whose weights come from a fixed seed, so that no download is
needed. It is made once, with the pictures that its lower precisions are calibrated on, under .cache/benchmarks."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pictures import made_up
from deployments.imaging import preprocess
from deployments.repository import write_manifest
from deployments.settings import Limits, PreprocessingSpec

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache/benchmarks"
ARCHITECTURE, CLASSES, SEED = "resnet18", 1000, 0
# Pictures of other seeds than those that are sent (benchmarks.pictures.COUNT).
FIRST_SEED = 1000
SETTLING, GOLDEN, CALIBRATION = 16, 32, 200
# Of the logits over classes and pictures: confident answers that differ from picture to picture.
LOGIT_DEVIATION = 3.0
# Lower precisions of weights that nobody trained say nothing about accuracy, and must not stop a measurement of speed.
ANYTHING_GOES = {"top1_agreement": 0.0, "max_probability_difference": 1.0}


def model_args(
    model: str | None,
    *,
    engine: str,
    precision: str,
    threads: int = 1,
    lone_threads: int | None = None,
    max_batch_size: int = 8,
    device: str = "cpu",
) -> dict[str, Any]:
    """ModelSettings as a Serve config has them, for the model directory `model` or the made-up one."""
    path = Path(model).resolve() if model else _cached("resnet18", _write_model)
    args: dict[str, Any] = {
        "name": path.name,
        "path": str(path),
        "engine": engine,
        "precision": precision,
        "device": device,
        "threads": threads,
        "lone_threads": lone_threads,
        "max_batch_size": max_batch_size,
        # Measuring something else than what was asked for is worse than not measuring.
        "on_refusal": "fail",
    }
    if model is None and precision != "fp32":
        args |= {"tolerance": ANYTHING_GOES, "golden": str(_cached("golden", _write_pictures(GOLDEN)))}
    if precision in ("int8", "auto"):
        args["calibration"] = str(_cached("calibration", _write_pictures(CALIBRATION)))
    return args


def _cached(name: str, write: Callable[[Path], None]) -> Path:
    """The directory `name` in the cache, which `write` fills the first time; an interrupted one is not kept."""
    found = CACHE / name
    if not found.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=CACHE))
        try:
            write(building)
            building.replace(found)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return found


def _write_pictures(count: int) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        for seed in range(FIRST_SEED, FIRST_SEED + count):
            (directory / f"{seed}.jpg").write_bytes(made_up(seed))

    return write


def _write_model(directory: Path) -> None:
    # Only whoever makes the model waits for torch.
    from safetensors.torch import save_file

    version = directory / "1"
    version.mkdir()
    save_file(_settled_network().state_dict(), version / "model.safetensors")
    write_manifest(
        version,
        architecture=ARCHITECTURE,
        weights="model.safetensors",
        labels=tuple(f"class {number}" for number in range(CLASSES)),
        preprocessing=PreprocessingSpec(),
    )


def _settled_network() -> Any:
    """Random weights whose batch norms know the activations, and whose answers differ from picture to picture.

    Without that, values grow from block to block and every picture gets the same class, which would make comparing
    answers pointless and quantising impossible.
    """
    import torch
    import torchvision

    torch.manual_seed(SEED)
    network = torchvision.models.get_model(ARCHITECTURE, weights=None, num_classes=CLASSES)
    pictures = [preprocess(made_up(FIRST_SEED + n), PreprocessingSpec(), Limits()) for n in range(SETTLING)]
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255  # (N, 3, H, W)
    batch = (batch - batch.mean(dim=(0, 2, 3), keepdim=True)) / batch.std(dim=(0, 2, 3), keepdim=True)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # A plain average, here of one batch.
    with torch.no_grad():
        network.train()(batch)
        logits = network.eval()(batch)  # (N, classes)
        spread = logits - logits.mean(dim=0)
        network.fc.weight *= LOGIT_DEVIATION / spread.std()
        network.fc.bias -= network(batch).mean(dim=0)
    return network
