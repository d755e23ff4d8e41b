"""Pictures of ten shapes, each drawn anew from a seed: the training set of the bundled model.

A shape is filled, outlined or sketched by a shaky hand, at any rotation, colour, size and place, on a plain, gradient,
textured or cluttered background, then blurred, made noisy and compressed. Same label and seed, same picture.
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from examples.shape_outlines import OUTLINES, STROKES, Points

PlaceFn = Callable[[Points], Points]

LABELS = tuple(OUTLINES)
# Lines and edges are drawn on a canvas this much larger and then averaged down, which is what smooths them.
SUPERSAMPLING = 2


def draw_shape(label: str, seed: int, plain_share: float = 0.0) -> Image.Image:
    """One RGB picture, its shorter side 96 to 224 pixels, of the shape that `label` names.

    `plain_share` is the probability of a large filled shape on a plain ground with nothing done to it.
    """
    rng = np.random.default_rng([LABELS.index(label), seed])
    width, height = _canvas_size(rng)
    if rng.random() < plain_share:
        return _draw_plain(rng, label, min(width, height))
    scale = SUPERSAMPLING if rng.random() < 0.8 else 1
    background = _background(rng, width, height)
    ink = _contrasting_colour(rng, background[::4, ::4].reshape(-1, 3).mean(axis=0))
    canvas = Image.fromarray(background).resize((width * scale, height * scale), Image.Resampling.NEAREST)
    _draw_clutter(rng, canvas, ink)
    _draw_subject(rng, canvas, label, ink)
    if scale > 1:
        canvas = canvas.resize((width, height), Image.Resampling.BOX)
    return _degrade(rng, canvas)


def _draw_plain(rng: Generator, label: str, side: int) -> Image.Image:
    ground = _background_colour(rng)
    canvas = Image.fromarray(np.broadcast_to(ground, (side * SUPERSAMPLING, side * SUPERSAMPLING, 3)).astype(np.uint8))
    outline = _placement(rng, canvas.size, smallest=0.35)(OUTLINES[label](rng))
    ImageDraw.Draw(canvas).polygon([tuple(p) for p in outline], fill=_contrasting_colour(rng, ground))
    return canvas.resize((side, side), Image.Resampling.BOX)


def _canvas_size(rng: Generator) -> tuple[int, int]:
    side = int(rng.integers(96, 225))
    if rng.random() < 0.6:
        return side, side
    longer = int(side * rng.uniform(1.05, 1.5))
    return (longer, side) if rng.random() < 0.5 else (side, longer)


def _background(rng: Generator, width: int, height: int) -> NDArray[np.uint8]:
    base = _background_colour(rng)
    kind = rng.choice(["plain", "gradient", "texture"], p=[0.5, 0.25, 0.25])
    pixels = np.broadcast_to(base, (height, width, 3)).astype(np.float32)
    if kind == "plain":
        return pixels.astype(np.uint8)
    if kind == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        ramp = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle)
        pixels = pixels + ramp[..., None] * rng.uniform(-90, 90, 3).astype(np.float32)
    else:
        cells = int(rng.integers(4, 48))
        coarse = rng.normal(0, rng.uniform(4, 22), (cells, cells)).astype(np.float32)
        grain = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
        pixels = pixels + grain[..., None] * rng.uniform(0.5, 1.0, 3).astype(np.float32)
    return np.asarray(np.clip(pixels, 0, 255), dtype=np.uint8)


def _background_colour(rng: Generator) -> NDArray[np.float64]:
    kind = rng.random()
    if kind < 0.35:
        return np.full(3, rng.uniform(225, 255))
    if kind < 0.45:
        return np.full(3, rng.uniform(0, 30))
    return rng.uniform(0, 255, 3)


def _contrasting_colour(rng: Generator, background: NDArray[np.float64]) -> tuple[int, int, int]:
    # Rec. 601 luma; 55 of 255 keeps every shape visible after noise and compression.
    luma = np.array([0.299, 0.587, 0.114])
    for _ in range(50):
        colour = rng.uniform(0, 255, 3) if rng.random() < 0.7 else np.full(3, rng.choice([0.0, 255.0, 40.0, 90.0]))
        if abs(float((colour - background) @ luma)) > 55:
            break
    else:
        colour = np.full(3, 0.0 if background @ luma > 127 else 255.0)
    return int(colour[0]), int(colour[1]), int(colour[2])


def _draw_clutter(rng: Generator, canvas: Image.Image, ink: tuple[int, int, int]) -> None:
    """Short lines and specks, smaller and paler than the subject."""
    if rng.random() < 0.65:
        return
    draw, (width, height) = ImageDraw.Draw(canvas), canvas.size
    side = min(width, height)
    for _ in range(int(rng.integers(2, 14))):
        start = rng.uniform(0, 1, 2) * (width, height)
        end = start + rng.normal(0, 0.14, 2) * side
        mix, here = rng.uniform(0.15, 0.55), np.asarray(canvas.getpixel((0, 0)), dtype=float)
        colour = tuple(int(c) for c in here * (1 - mix) + np.asarray(ink) * mix)
        draw.line([tuple(start), tuple(end)], fill=colour, width=int(rng.integers(1, max(2, side // 60) + 1)))


def _draw_subject(rng: Generator, canvas: Image.Image, label: str, ink: tuple[int, int, int]) -> None:
    side = min(canvas.size)
    place = _placement(rng, canvas.size)
    thickness = max(2, int(side * rng.uniform(0.012, 0.06)))
    as_strokes = label in STROKES and rng.random() < 0.35
    if as_strokes:
        for line in STROKES[label](rng):
            shaky = rng.random() < 0.4
            _draw_line(
                rng, canvas, _shake(rng, place(line), side, closed=False) if shaky else place(line), ink, thickness
            )
        return
    outline = place(OUTLINES[label](rng))
    style = rng.choice(["filled", "outlined", "both", "sketched"], p=[0.38, 0.24, 0.13, 0.25])
    if style in ("filled", "both"):
        ImageDraw.Draw(canvas).polygon([tuple(p) for p in outline], fill=ink)
    if style == "both":
        ink = _contrasting_colour(rng, np.asarray(ink, dtype=float))
    if style in ("outlined", "both"):
        _draw_line(rng, canvas, np.concatenate([outline, outline[:2]]), ink, thickness)
    if style == "sketched":
        _sketch(rng, canvas, outline, ink, thickness, fill=rng.random() < 0.25)


def _placement(rng: Generator, size: tuple[int, int], smallest: float = 0.2) -> PlaceFn:
    """A random rotation, slight shear, size and position that keep the shape inside the central square."""
    side, centre = min(size), np.array(size) / 2
    radius = side * rng.uniform(smallest, 0.46)
    upright = rng.random() < 0.3
    angle = rng.normal(0, 0.08) if upright else rng.uniform(0, 2 * np.pi)
    angle += np.pi / 2 * rng.integers(4) if upright else 0.0
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.eye(2) + rng.normal(0, 0.035, (2, 2))
    slack = max(0.0, side * 0.5 - radius)
    offset = rng.uniform(-1, 1, 2) * slack

    def place(points: Points) -> Points:
        return np.asarray(points @ (shear @ rotation).T * radius + centre + offset)

    return place


def _sketch(
    rng: Generator, canvas: Image.Image, outline: Points, ink: tuple[int, int, int], thickness: int, *, fill: bool
) -> None:
    side = min(canvas.size)
    for _ in range(int(rng.integers(1, 3))):
        wobbly = _shake(rng, outline, side, closed=True)
        if fill:
            ImageDraw.Draw(canvas).polygon([tuple(p) for p in wobbly], fill=ink)
        gap = int(len(wobbly) * rng.uniform(0, 0.04))
        _draw_line(rng, canvas, wobbly[: len(wobbly) - gap], ink, max(2, int(thickness * rng.uniform(0.5, 0.9))))


def _shake(rng: Generator, line: Points, side: int, *, closed: bool) -> Points:
    """The same line as an unsteady hand draws it: densely sampled, plus smooth random offsets."""
    path = np.concatenate([line, line[:1]]) if closed else line
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    at = np.linspace(0, lengths[-1], 120)
    dense = np.stack([np.interp(at, lengths, path[:, axis]) for axis in (0, 1)], axis=1)
    knots = rng.normal(0, side * rng.uniform(0.002, 0.011), (int(rng.integers(10, 26)), 2))
    knot_at = np.linspace(0, lengths[-1], len(knots))
    offsets = np.stack([np.interp(at, knot_at, knots[:, axis]) for axis in (0, 1)], axis=1)
    return np.asarray(dense + offsets)


def _draw_line(rng: Generator, canvas: Image.Image, line: Points, ink: tuple[int, int, int], thickness: int) -> None:
    joint = "curve" if rng.random() < 0.8 else None
    ImageDraw.Draw(canvas).line([tuple(p) for p in line], fill=ink, width=thickness, joint=joint)


def _degrade(rng: Generator, picture: Image.Image) -> Image.Image:
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, min(picture.size) / 110)))
    if rng.random() < 0.3:
        noisy = np.asarray(picture, dtype=np.float32)
        noisy = noisy + rng.uniform(2, 18) * rng.standard_normal(noisy.shape, dtype=np.float32)
        picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        jpeg = io.BytesIO()
        picture.save(jpeg, "JPEG", quality=int(rng.integers(25, 96)))
        picture = Image.open(jpeg).convert("RGB")
    return picture
