"""Outlines of ten shapes; each call draws a new variant from `rng`.

An outline is one closed curve: a float64 array (N, 2) of points within about [-1, 1], x to the right and y down.
Cross and arrow can also be strokes: a list of open lines, as a pen draws them. This module knows nothing of pixels,
colours or pens; `shape_pictures.py` does.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Points = NDArray[np.float64]
CURVE_POINTS = 96


def circle(rng: Generator) -> Points:
    return _ellipse(1.0, rng.uniform(0.88, 1.0))


def square(rng: Generator) -> Points:
    half = rng.uniform(0.9, 1.0)
    return np.array([[-1, -half], [1, -half], [1, half], [-1, half]]) * 0.75


def triangle(rng: Generator) -> Points:
    kind = rng.integers(4)
    if kind == 0:
        return _regular(3, 0.0)
    if kind == 1:  # isosceles
        half, height = rng.uniform(0.55, 1.0), rng.uniform(0.7, 1.0)
        return np.array([[0, -height], [half, height * 0.8], [-half, height * 0.8]])
    if kind == 2:  # right-angled
        width, height = rng.uniform(0.65, 1.0, 2)
        return np.array([[-width, -height], [width, height], [-width, height]]) * 0.8
    angles = np.cumsum(rng.uniform(1.6, 2.5, 3))
    angles *= 2 * np.pi / (angles[-1])
    return np.stack([np.sin(angles), -np.cos(angles)], axis=1)


def pentagon(rng: Generator) -> Points:
    return _regular(5, 0.03, rng)


def hexagon(rng: Generator) -> Points:
    return _regular(6, 0.03, rng)


def star(rng: Generator) -> Points:
    points = int(rng.choice([5, 5, 5, 5, 6, 6, 4, 7, 8]))
    inner = rng.uniform(0.34, 0.5) if points <= 5 else rng.uniform(0.45, 0.68)
    if points == 4:
        inner = rng.uniform(0.25, 0.4)
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return _polar(radii)


def cross(rng: Generator) -> Points:
    arm = rng.uniform(0.12, 0.42)
    foot = rng.choice([1.0, 1.0, 1.0, rng.uniform(1.1, 1.5)])
    a = arm
    outline = np.array(
        [
            [-a, -1],
            [a, -1],
            [a, -a],
            [1, -a],
            [1, a],
            [a, a],
            [a, foot],
            [-a, foot],
            [-a, a],
            [-1, a],
            [-1, -a],
            [-a, -a],
        ]
    )
    return np.asarray(outline / max(1.0, foot * 0.9))


def arrow(rng: Generator) -> Points:
    """A block arrow that points to the right; the tail may be notched."""
    shaft, head = rng.uniform(0.08, 0.38), rng.uniform(0.45, 0.95)
    neck = rng.uniform(-0.25, 0.45)
    barb = neck - rng.choice([0.0, 0.0, rng.uniform(0.05, 0.25)])
    notch = rng.choice([0.0, 0.0, 0.0, rng.uniform(0.0, 0.2)])
    head = max(head, shaft * 1.8)
    return np.array(
        [[-1, -shaft], [neck, -shaft], [barb, -head], [1, 0], [barb, head], [neck, shaft], [-1, shaft], [-1 + notch, 0]]
    )


def heart(rng: Generator) -> Points:
    return _heart_curve(rng) if rng.random() < 0.6 else _heart_of_arcs(rng)


def crescent(rng: Generator) -> Points:
    """The unit disc without a second disc: the outer arc, then the inner arc back."""
    radius = rng.uniform(0.62, 1.05)
    offset = rng.uniform(max(0.32, 1.12 - radius), min(0.75, 0.42 + (1.05 - radius)) + 0.12)
    x = (1 - radius**2 + offset**2) / (2 * offset)  # where the two circles meet
    x = float(np.clip(x, -0.9, 0.9))
    y = np.sqrt(1 - x**2)
    outer = np.arctan2(y, x)
    inner = np.arctan2(y, x - offset)
    outer_arc = np.linspace(outer, 2 * np.pi - outer, CURVE_POINTS)
    inner_arc = np.linspace(2 * np.pi - inner, inner, CURVE_POINTS)
    radius = float(np.hypot(x - offset, y))
    outline = np.concatenate(
        [
            np.stack([np.cos(outer_arc), np.sin(outer_arc)], axis=1),
            np.stack([offset + radius * np.cos(inner_arc), radius * np.sin(inner_arc)], axis=1),
        ]
    )
    middle = (outline.min(axis=0) + outline.max(axis=0)) / 2
    centred = outline - middle
    return np.asarray(centred / np.hypot(*centred.T).max())


def cross_strokes(rng: Generator) -> list[Points]:
    foot = rng.choice([1.0, 1.0, rng.uniform(1.1, 1.5)])
    shift = rng.uniform(-0.06, 0.06, 2)
    return [np.array([[-1, shift[0]], [1, shift[0]]]), np.array([[shift[1], -1], [shift[1], foot]])]


def arrow_strokes(rng: Generator) -> list[Points]:
    back, side = rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.6)
    head = np.array([[1 - back, -side], [1, 0], [1 - back, side]])
    if rng.random() < 0.4:  # a closed, triangular head
        head = np.concatenate([head, head[:1]])
    return [np.array([[-1.0, 0.0], [1.0, 0.0]]), head]


OUTLINES: dict[str, Callable[[Generator], Points]] = {
    outline.__name__: outline
    for outline in (circle, square, triangle, pentagon, hexagon, star, cross, arrow, heart, crescent)
}
STROKES: dict[str, Callable[[Generator], list[Points]]] = {"cross": cross_strokes, "arrow": arrow_strokes}


def _ellipse(width: float, height: float) -> Points:
    angles = np.linspace(0, 2 * np.pi, CURVE_POINTS, endpoint=False)
    return np.stack([width * np.cos(angles), height * np.sin(angles)], axis=1)


def _polar(radii: Points) -> Points:
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _regular(corners: int, jitter: float, rng: Generator | None = None) -> Points:
    outline = _polar(np.ones(corners))
    return outline if rng is None else outline + rng.normal(0, jitter, outline.shape)


def _heart_curve(rng: Generator) -> Points:
    """The parametric heart x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t (MathWorld, "Heart Curve")."""
    t = np.linspace(0, 2 * np.pi, CURVE_POINTS, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - rng.uniform(4, 6) * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x * rng.uniform(0.85, 1.1), -y - 2.5], axis=1) / 17


def _heart_of_arcs(rng: Generator) -> Points:
    """Two half discs side by side over a triangle with straight or bulging sides."""
    half = rng.uniform(0.42, 0.5)
    arc = np.linspace(np.pi * rng.uniform(0.95, 1.12), 0, 24)
    left = np.stack([-half + half * np.cos(arc), -half * np.sin(arc)], axis=1)
    tip, bulge = rng.uniform(0.95, 1.35), rng.uniform(0.0, 0.18)
    s = np.linspace(0, 1, 16)
    start = left[0]
    side = start * (1 - s)[:, None] + np.array([0.0, tip]) * s[:, None]
    side[:, 0] -= bulge * np.sin(np.pi * s)
    half_outline = np.concatenate([side[::-1], left])  # tip -> left side -> left lobe -> notch
    mirrored = half_outline[::-1] * np.array([-1.0, 1.0])
    outline = np.concatenate([half_outline, mirrored[1:-1]])
    return np.asarray(outline - np.array([0.0, (tip - half) / 2]))
