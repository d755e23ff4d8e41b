"""Pictures to train on: drawn shapes, or a user's directory with one subdirectory per class.

Every item is (uint8 (H, W, 3) pixels of the model's input size, class index). Held-out pictures go through the
service's own preprocessing; training pictures of a directory are cropped and mirrored at random.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import RandomResizedCrop

from deployments.imaging import preprocess, resize_and_crop
from deployments.settings import Limits, PreprocessingSpec
from examples.shape_pictures import LABELS, draw_shape

Pictures = Dataset[tuple[Tensor, int]]
LIMITS = Limits()
# Of a user's pictures, kept back for the final accuracy.
HELD_OUT_SHARE = 0.1
# Over this first part of the drawings, plain ones give way to hard ones. Without it the loss stays at chance for
# thousands of steps: colour, place and style vary far more than the class does.
PLAIN_UNTIL_SHARE = 0.35
# Held-out drawings take their seeds from here on; training never reaches it.
HELD_OUT_SEED = 10**9


@dataclass(frozen=True)
class Split:
    labels: tuple[str, ...]
    pictures: "DrawnShapes | PictureFiles"


def shape_splits(count: int, held_out: int, spec: PreprocessingSpec) -> tuple[Split, Split]:
    train = DrawnShapes(0, count, spec, plain_until=int(count * PLAIN_UNTIL_SHARE))
    return Split(LABELS, train), Split(LABELS, DrawnShapes(HELD_OUT_SEED, held_out, spec))


def folder_splits(root: Path, spec: PreprocessingSpec) -> tuple[Split, Split]:
    labels = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir()))
    if len(labels) < 2:
        raise SystemExit(f"{root} needs at least two subdirectories, one per class; it has {len(labels)}.")
    files = [
        (file, index)
        for index, label in enumerate(labels)
        for file in sorted((root / label).rglob("*"))
        if file.is_file()
    ]
    held_out = [item for item in files if _is_held_out(item[0])]
    train = [item for item in files if not _is_held_out(item[0])]
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


class PictureFiles(Pictures):
    in_order = False

    def __init__(self, files: list[tuple[Path, int]], spec: PreprocessingSpec, *, augment: bool) -> None:
        self.files, self.spec, self.augment = files, spec, augment
        self.crop = RandomResizedCrop(spec.crop_size, scale=(0.4, 1.0))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        if not self.augment:
            return torch.from_numpy(preprocess(path.read_bytes(), self.spec, LIMITS).copy()), label
        with Image.open(path) as picture:
            pixels = np.array(self.crop(picture.convert("RGB")))
        return torch.from_numpy(pixels[:, ::-1].copy() if torch.rand(()) < 0.5 else pixels), label


def _is_held_out(path: Path) -> bool:
    # By the name, so that the same picture stays held out when others are added.
    return int(hashlib.sha256(path.name.encode()).hexdigest(), 16) % 1000 < HELD_OUT_SHARE * 1000
