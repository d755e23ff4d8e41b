"""torchvision's Resize and CenterCrop on PIL images, without most of the work that the crop throws away.

This module knows geometry only: no files, no limits. Sizes are (width, height) in pixels, as PIL has them.

`exactly` equals the two transforms bit for bit. `at_once` has Pillow compute the kept pixels alone, in one call, whose
box it holds in 32-bit floats and whose two passes may come in the other order: pixels differ by one level at most.
"""

import math
from typing import Final

from PIL import Image

Size = tuple[int, int]
Extent = tuple[float, float]

HORIZONTAL, VERTICAL = 0, 1
# Bits of a float's significand (IEEE 754, binary32), in which Pillow holds the edges of a box.
FLOAT_BITS: Final = 24


def resized(width: float, height: float, shorter: int) -> Size:
    """The size to which torchvision's Resize(shorter) brings a picture."""
    # torchvision truncates the longer side; rounding it moves pixels (torchvision.transforms.functional, 0.29).
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def exactly(picture: Image.Image, size: Size, crop: int, kernel: Image.Resampling) -> Image.Image:
    """The (crop, crop) centre of an RGB picture resized to `size`; black where `size` is smaller than `crop`."""
    for axis in _order_of_passes(picture.size, size):
        picture = _resize_axis(picture, axis, size[axis], crop, kernel)
    return _padded(picture, crop)


def at_once(picture: Image.Image, extent: Extent, size: Size, crop: int, kernel: Image.Resampling) -> Image.Image:
    """As `exactly`, but for a level here and there.

    extent: how much of the picture's width and height there is to resize; the rest, less than a pixel, is filler.
    """
    (left, right), (top, bottom) = kept(size[0], crop), kept(size[1], crop)
    across, down = extent[0] / size[0], extent[1] / size[1]
    box = left * across, top * down, right * across, bottom * down
    return _padded(picture.resize((right - left, bottom - top), kernel, box), crop)


def _order_of_passes(before: Size, after: Size) -> tuple[int, int]:
    # Pillow rounds to 8 bits between its two passes, so that their order can be seen in the pixels. This is how it
    # chooses; with a box it would choose by the box's result (ImagingResampleInner in Resample.c, 13.0).
    fewer_columns, fewer_rows = before[0] - after[0], before[1] - after[1]
    if fewer_rows > 0 and fewer_rows > 2 * fewer_columns:
        return VERTICAL, HORIZONTAL
    return HORIZONTAL, VERTICAL


def _resize_axis(picture: Image.Image, axis: int, target: int, crop: int, kernel: Image.Resampling) -> Image.Image:
    source = picture.size[axis]
    start, stop = kept(target, crop)
    if source != target:
        first, last = (start, stop) if _has_exact_box(source, target) else (0, target)
        size, box = list(picture.size), [0.0, 0.0, *picture.size]
        size[axis] = last - first
        box[axis], box[axis + 2] = first * source / target, last * source / target
        picture = picture.resize((size[0], size[1]), kernel, (box[0], box[1], box[2], box[3]))
        start, stop = start - first, stop - first
    if (start, stop) == (0, picture.size[axis]):
        return picture
    edges = [0, 0, *picture.size]
    edges[axis], edges[axis + 2] = start, stop
    return picture.crop((edges[0], edges[1], edges[2], edges[3]))


def _has_exact_box(source: int, target: int) -> bool:
    """Whether every multiple of source / target up to `source` is a number that a float can hold.

    Then Pillow computes the same coefficients from a box as it does from the whole axis. Where torchvision's shorter
    side becomes a power of two, as 256 is, that axis always has such boxes.
    """
    denominator = target // math.gcd(source, target)
    return denominator.bit_count() == 1 and source * denominator < 2**FLOAT_BITS


def kept(length: int, crop: int) -> tuple[int, int]:
    """The start and stop of what CenterCrop(crop) keeps of an axis."""
    # Python's round is to even, and so is torchvision's.
    start = round((length - crop) / 2.0) if length > crop else 0
    return start, min(start + crop, length)


def _padded(picture: Image.Image, crop: int) -> Image.Image:
    if picture.size == (crop, crop):
        return picture
    # Black borders, the odd pixel to the right and below, as torchvision pads.
    padded = Image.new("RGB", (crop, crop))
    padded.paste(picture, ((crop - picture.width) // 2, (crop - picture.height) // 2))
    return padded
