"""A second, independently written set of drawings of the ten shapes, to see that a classifier
trained on the drawings of examples/ learnt shapes and not one script's habits.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageColor, ImageDraw

Color = tuple[int, int, int]

SIZES = (120, 128, 160, 200, 224, 256, 300, 320, 400, 480, 512, 640)
PALE = ("ivory", "lavender", "honeydew", "aliceblue", "mistyrose", "lightyellow", "whitesmoke", "#e8e8e8")
SOLID = ("navy", "teal", "gold", "skyblue", "darkgreen", "maroon", "orange", "indigo", "#444444", "lightgreen", "pink")
INK = (
    *("black", "red", "blue", "green", "purple", "darkorange", "crimson", "royalblue", "saddlebrown", "deeppink"),
    *("white", "yellow", "gold", "cyan", "lime", "tomato", "dimgray", "darkcyan", "navy", "salmon"),
)
MIN_CONTRAST = 3.0
# Pillow's own outlines lie inside the polygon, and leave gaps at corners that point inwards.
CONVEX = ("square", "triangle", "pentagon", "hexagon")


# Points are complex numbers, so that turning, scaling and moving a part is one product and one sum.
@dataclass(frozen=True)
class Polygon:
    points: list[complex]


@dataclass(frozen=True)
class Disc:
    center: complex
    radius: float
    cut: bool = False


@dataclass(frozen=True)
class Stroke:
    points: list[complex]
    width: float


Part = Polygon | Disc | Stroke
Shape = list[Part]


@dataclass(frozen=True)
class Pen:
    ink: Color
    background: Color
    filled: bool
    mitred: bool
    width: int


def regular(corners: int, start: float = -90.0, radius: float = 1.0) -> list[complex]:
    step = 360 / corners
    return [radius * turned(start + step * i) for i in range(corners)]


def turned(degrees: float) -> complex:
    return complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


def arc(center: complex, radius: float, first: float, last: float, steps: int = 60) -> list[complex]:
    return [center + radius * turned(first + (last - first) * i / steps) for i in range(steps + 1)]


def circle(rng: random.Random, filled: bool) -> Shape:
    return [Disc(0j, 1.0)]


def square(rng: random.Random, filled: bool) -> Shape:
    return [Polygon([-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j])]


def triangle(rng: random.Random, filled: bool) -> Shape:
    kind = rng.choice(("equilateral", "equilateral", "isosceles", "right-angled"))
    if kind == "equilateral":
        return [Polygon(regular(3))]
    height = rng.uniform(0.7, 1.5)
    if kind == "isosceles":
        return [Polygon([0.5 + 0j, 1 + height * 1j, height * 1j])]
    corner = rng.choice((0.0, 1.0))
    return [Polygon([complex(corner, 0), 1 + height * 1j, height * 1j])]


def pentagon(rng: random.Random, filled: bool) -> Shape:
    return [Polygon(regular(5))]


def hexagon(rng: random.Random, filled: bool) -> Shape:
    return [Polygon(regular(6, rng.choice((0.0, 0.0, 30.0))))]


def star(rng: random.Random, filled: bool) -> Shape:
    corners = 5 if rng.random() < 0.82 else 6
    if corners == 5 and not filled and rng.random() < 0.3:
        tips = regular(5)
        # The first side comes twice, so that the closing corner is joined like the others.
        return [Stroke([tips[2 * i % 5] for i in range(7)], rng.uniform(0.06, 0.12))]
    # 0.382 and 0.577 are the depths at which opposite edges of the star lie on one line.
    inner = rng.choice((0.382, 0.382, 0.4, 0.45, 0.5) if corners == 5 else (0.577, 0.577, 0.5))
    tips, notches = regular(corners), regular(corners, -90 + 180 / corners, inner)
    return [Polygon([point for pair in zip(tips, notches, strict=True) for point in pair])]


def cross(rng: random.Random, filled: bool) -> Shape:
    half = rng.uniform(0.12, 0.36) if filled else rng.uniform(0.24, 0.36)
    if filled and rng.random() < 0.5:
        return [Stroke([-1 + 0j, 1 + 0j], 2 * half), Stroke([-1j, 1j], 2 * half)]
    arm = [complex(-half, -1), complex(half, -1), complex(half, -half)]
    return [Polygon([point * turned(90 * quarter) for quarter in range(4) for point in arm])]


def arrow(rng: random.Random, filled: bool) -> Shape:
    neck, spread = rng.uniform(-0.1, 0.35), rng.uniform(0.5, 0.85)
    if rng.random() < 0.6:
        shaft = spread * rng.uniform(0.38, 0.55)
        upper = [complex(-1, -shaft), complex(neck, -shaft), complex(neck, -spread)]
        return [Polygon([*upper, 1 + 0j, *(point.conjugate() for point in reversed(upper))])]
    width = rng.uniform(0.08, 0.2)
    if filled:
        head = Polygon([1 + 0j, complex(neck, -0.7 * spread), complex(neck, 0.7 * spread)])
        # The line ends inside the head: at the tip its square end would stick out.
        return [Stroke([-1 + 0j, complex(neck + 0.1, 0)], width), head]
    barbs = [complex(neck, -0.7 * spread), 1 + 0j, complex(neck, 0.7 * spread)]
    return [Stroke([-1 + 0j, 1 + 0j], width), Stroke(barbs, width)]


def heart(rng: random.Random, filled: bool) -> Shape:
    kind = rng.choice(("curve", "curve", "tangents", "square")) if filled else "curve"
    if kind == "curve":
        return [Polygon([heart_point(2 * math.pi * i / 200) for i in range(200)])]
    if kind == "square":
        lobes = [Disc(0.5 - 0.5j, math.sqrt(0.5)), Disc(-0.5 - 0.5j, math.sqrt(0.5))]
        return [*lobes, Polygon(regular(4))]
    center, radius, tip = 0.5 + 0j, rng.uniform(0.5, 0.56), rng.uniform(1.2, 1.5) * 1j
    away = tip - center
    # Sides that touch the discs leave no dent where disc and triangle meet.
    touch = center + radius * away / abs(away) * turned(-math.degrees(math.acos(radius / abs(away))))
    body = [-center, center, touch, tip, -touch.conjugate()]
    return [Disc(center, radius), Disc(-center, radius), Polygon(body)]


def heart_point(t: float) -> complex:
    y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return complex(16 * math.sin(t) ** 3, -y)


def crescent(rng: random.Random, filled: bool) -> Shape:
    radius, offset = rng.uniform(0.75, 1.0), rng.uniform(0.4, 0.6)
    if filled and rng.random() < 0.7:
        return [Disc(0j, 1.0), Disc(complex(offset, 0), radius, cut=True)]
    x = (1 - radius**2 + offset**2) / (2 * offset)
    y = math.sqrt(1 - x * x)
    outer, inner = math.degrees(math.atan2(y, x)), math.degrees(math.atan2(y, x - offset))
    back = arc(complex(offset, 0), radius, 360 - inner, inner)
    return [Polygon(arc(0j, 1.0, outer, 360 - outer) + back[1:-1])]


SHAPES: dict[str, Callable[[random.Random, bool], Shape]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "pentagon": pentagon,
    "hexagon": hexagon,
    "star": star,
    "cross": cross,
    "arrow": arrow,
    "heart": heart,
    "crescent": crescent,
}
LABELS: tuple[str, ...] = tuple(SHAPES)

# The ways round in which each shape is usually drawn, before any tilt.
DIRECTIONS: dict[str, tuple[int, ...]] = {
    "triangle": (0, 0, 0, 0, 90, 180, 270),
    "square": (0, 0, 0, 0, 45),
    "pentagon": (0, 0, 0, 180),
    "cross": (0, 0, 45),
    "arrow": (0, 0, 90, 180, 270, 45, 135, 225, 315),
    "crescent": (0, 0, 180, 180, -30, 30, 150, 90, 270),
}


def rotation(rng: random.Random, label: str) -> float:
    base = rng.choice(DIRECTIONS.get(label, (0,)))
    return base + (rng.uniform(-22, 22) if rng.random() < 0.3 else 0.0)


def moved(part: Part, factor: complex, shift: complex) -> Part:
    if isinstance(part, Disc):
        return Disc(part.center * factor + shift, part.radius * abs(factor), part.cut)
    points = [point * factor + shift for point in part.points]
    return Polygon(points) if isinstance(part, Polygon) else Stroke(points, part.width * abs(factor))


def extremes(part: Part) -> list[complex]:
    if isinstance(part, Disc):
        return [] if part.cut else [part.center - part.radius * (1 + 1j), part.center + part.radius * (1 + 1j)]
    if isinstance(part, Polygon):
        return part.points
    corners = []
    for start, end in zip(part.points, part.points[1:], strict=False):
        # Pillow ends a line squarely at its last point, so it is wider than its points only sideways.
        side = (end - start) / abs(end - start) * 1j * part.width / 2
        corners += [start - side, start + side, end - side, end + side]
    return corners


def fitted(shape: Shape, angle: float, length: float, center: complex) -> Shape:
    shape = [moved(part, turned(angle), 0j) for part in shape]
    points = [point for part in shape for point in extremes(part)]
    left, right = min(p.real for p in points), max(p.real for p in points)
    top, bottom = min(p.imag for p in points), max(p.imag for p in points)
    scale = length / max(right - left, bottom - top)
    middle = complex(left + right, top + bottom) / 2
    return [moved(part, complex(scale), center - scale * middle) for part in shape]


def luminance(color: Color) -> float:
    red, green, blue = (math.pow(value / 255, 2.2) for value in color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Color, other: Color) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def rgb(name: str) -> Color:
    red, green, blue = ImageColor.getrgb(name)[:3]
    return red, green, blue


def colors(rng: random.Random) -> tuple[Color, Color]:
    families = (("white",), PALE, ("black",), SOLID)
    background = rgb(rng.choice(rng.choices(families, (45, 20, 12, 23))[0]))
    visible = [color for color in map(rgb, INK) if contrast(color, background) >= MIN_CONTRAST]
    return rng.choice(visible), background


def paint(canvas: ImageDraw.ImageDraw, part: Part, pen: Pen) -> None:
    if isinstance(part, Disc):
        x, y, r = part.center.real, part.center.imag, part.radius
        box = (x - r, y - r, x + r, y + r)
        if pen.filled:
            canvas.ellipse(box, fill=pen.background if part.cut else pen.ink)
        else:
            canvas.ellipse(box, outline=pen.ink, width=pen.width)
        return
    points = [(point.real, point.imag) for point in part.points]
    if isinstance(part, Stroke):
        canvas.line(points, fill=pen.ink, width=max(2, round(part.width)), joint="curve")
    elif pen.filled:
        canvas.polygon(points, fill=pen.ink)
    elif pen.mitred:
        canvas.polygon(points, outline=pen.ink, width=pen.width)
    else:
        # One side more than needed, so that the corner at the start is rounded too.
        canvas.line([*points, *points[:2]], fill=pen.ink, width=pen.width, joint="curve")


def picture_size(rng: random.Random) -> tuple[int, int]:
    side = rng.choice(SIZES)
    if rng.random() < 0.75 or side * 3 // 4 < SIZES[0]:
        return side, side
    return (side, side * 3 // 4) if rng.random() < 0.8 else (side * 3 // 4, side)


def draw(label: str, seed: int) -> Image.Image:
    rng = random.Random(f"{label} {seed}")
    size = picture_size(rng)
    zoom = rng.choice((1, 3))
    width, height = size[0] * zoom, size[1] * zoom
    short = min(width, height)
    filled = rng.random() < 0.65
    ink, background = colors(rng)
    length = short * rng.uniform(0.43, 0.8)
    mitred = label in CONVEX and rng.random() < 0.5
    pen = Pen(ink, background, filled, mitred, max(2 * zoom, round(length * rng.uniform(0.025, 0.06))))
    wander = 0.03 * short if rng.random() < 0.5 else 0.0
    center = complex(width / 2 + rng.uniform(-wander, wander), height / 2 + rng.uniform(-wander, wander))
    image = Image.new("RGB", (width, height), background)
    canvas = ImageDraw.Draw(image)
    for part in fitted(SHAPES[label](rng, filled), rotation(rng, label), length, center):
        paint(canvas, part, pen)
    return image if zoom == 1 else image.resize(size, Image.Resampling.LANCZOS)
