"""Pictures to train on: drawn shapes, or a user's directory with one subdirectory per class.

Every item is (uint8 (H, W, 3) pixels of the model's input size, class index). Held-out pictures go through the
service's own preprocessing; training pictures of a directory are decoded as it does, then cropped and mirrored at
random. What it would refuse is left out.
"""

import hashlib
import shutil
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import RandomResizedCrop
from tqdm import tqdm

from deployments.engines.golden import MAX_GOLDEN_IMAGES
from deployments.errors import ApertureError
from deployments.imaging import decode, preprocess, resize_and_crop
from deployments.settings import Limits, PreprocessingSpec
from examples.shape_pictures import LABELS, draw_shape

Pictures = Dataset[tuple[Tensor, int]]
LIMITS = Limits()
# Of a user's pictures, kept back for the final accuracy.
HELD_OUT_SHARE = 0.1
# Over this first part of the drawings, plain ones give way to hard ones. Without it the loss was still at chance after
# 400 steps (docs/lab-notes.md): colour, place and style vary far more than the class does.
PLAIN_UNTIL_SHARE = 0.35
# Held-out drawings take their seeds from here on; training never reaches it.
HELD_OUT_SEED = 10**9
# The same for the drawings on which the service compares engines; the held-out ones never reach these.
GOLDEN_SEED = 2 * 10**9
# Lossless, they would be three times as large; as JPEGs they are under a megabyte, and are what clients send.
GOLDEN_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Split:
    labels: tuple[str, ...]
    pictures: "DrawnShapes | PictureFiles"


def shape_splits(count: int, held_out: int, spec: PreprocessingSpec) -> tuple[Split, Split]:
    _refuse_gaps(LABELS, range(min(count, len(LABELS))), held_out)
    train = DrawnShapes(0, count, spec, plain_until=int(count * PLAIN_UNTIL_SHARE))
    return Split(LABELS, train), Split(LABELS, DrawnShapes(HELD_OUT_SEED, held_out, spec))


def folder_splits(root: Path, spec: PreprocessingSpec) -> tuple[Split, Split]:
    labels = tuple(sorted(entry.name for entry in root.glob("*") if entry.is_dir()))
    if len(labels) < 2:
        raise SystemExit(f"{root} needs at least two subdirectories, one per class; it has {len(labels)}.")
    files = [
        (file, index)
        for index, label in enumerate(labels)
        for file in sorted((root / label).rglob("*"))
        if file.is_file()
    ]
    files = _without_refused(files, spec)
    held_out = [item for item in files if _is_held_out(item[0])]
    train = [item for item in files if not _is_held_out(item[0])]
    _refuse_gaps(labels, {label for _, label in train}, len(held_out))
    return Split(labels, PictureFiles(train, spec, augment=True)), Split(
        labels, PictureFiles(held_out, spec, augment=False)
    )


class DrawnShapes(Pictures):
    """Every index draws its own picture, the classes in turn: the same index, the same picture.

    Before `plain_until` the share of plain pictures falls from one to zero, so these are to be taken in order.
    """

    in_order = True

    def __init__(self, first_seed: int, count: int, spec: PreprocessingSpec, plain_until: int = 0) -> None:
        self.first_seed, self.count, self.spec, self.plain_until = first_seed, count, spec, plain_until

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        label = index % len(LABELS)
        plain_share = 1 - index / self.plain_until if index < self.plain_until else 0.0
        picture = draw_shape(LABELS[label], self.first_seed + index, plain_share)
        return torch.from_numpy(np.array(resize_and_crop(picture, self.spec, LIMITS))), label

    def write_golden(self, directory: Path) -> None:
        """New drawings of the model's input size, as many of each class."""
        directory.mkdir(exist_ok=True)
        drawings = DrawnShapes(GOLDEN_SEED, MAX_GOLDEN_IMAGES, self.spec)
        for index in range(len(drawings)):
            pixels, label = drawings[index]
            path = directory / f"{index:03}-{LABELS[label]}.jpg"
            Image.fromarray(pixels.numpy()).save(path, quality=GOLDEN_JPEG_QUALITY)


class PictureFiles(Pictures):
    in_order = False

    def __init__(self, files: list[tuple[Path, int]], spec: PreprocessingSpec, *, augment: bool) -> None:
        self.files, self.spec, self.augment = files, spec, augment
        self.crop = RandomResizedCrop(spec.crop_size, scale=(0.4, 1.0))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        data = path.read_bytes()
        if not self.augment:
            return torch.from_numpy(preprocess(data, self.spec, LIMITS).copy()), label
        pixels = np.array(self.crop(decode(data, LIMITS)))
        return torch.from_numpy(pixels[:, ::-1].copy() if torch.rand(()) < 0.5 else pixels), label

    def write_golden(self, directory: Path) -> None:
        """Copies of these files, evenly picked if there are more than the service compares."""
        directory.mkdir(exist_ok=True)
        picked = np.linspace(0, len(self) - 1, min(MAX_GOLDEN_IMAGES, len(self))).round().astype(int)
        for number, (path, _) in enumerate(self.files[index] for index in picked):
            shutil.copyfile(path, directory / f"{number:03}-{path.parent.name}{path.suffix}")


def _without_refused(files: list[tuple[Path, int]], spec: PreprocessingSpec) -> list[tuple[Path, int]]:
    """`files` without .DS_Store and the like, and without pictures whose pixels turn out to be broken."""

    def is_sound(item: tuple[Path, int]) -> bool:
        try:
            preprocess(item[0].read_bytes(), spec, LIMITS)
        except (ApertureError, OSError):
            return False
        return True

    # Every pixel, not only the headers: a file that breaks in the last epoch would take the whole training with it.
    with ThreadPoolExecutor() as pool:
        sound = list(tqdm(pool.map(is_sound, files), total=len(files), desc="checking", mininterval=5))
    refused = [path for (path, _), is_kept in zip(files, sound, strict=True) if not is_kept]
    if refused:
        print(f"Skipped files that the service would refuse: {len(refused)}, the first {refused[0]}")
    return [item for item, is_kept in zip(files, sound, strict=True) if is_kept]


def _refuse_gaps(labels: tuple[str, ...], trained: Container[int], held_out: int) -> None:
    for index, label in enumerate(labels):
        if index not in trained:
            raise SystemExit(f"Class {label!r} has no picture to train on; add some, of which a tenth is held out.")
    if held_out == 0:
        raise SystemExit("No picture is held out for the final accuracy, which takes about a tenth; add more pictures.")


def _is_held_out(path: Path) -> bool:
    # By the name, so that the same picture stays held out when others are added.
    return int(hashlib.sha256(path.name.encode()).hexdigest(), 16) % 1000 < HELD_OUT_SHARE * 1000
