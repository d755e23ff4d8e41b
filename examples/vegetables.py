"""Draws the pictures of docs/tutorial.md: python -m examples.vegetables DIRECTORY [--count 60] [--seed 1]

DIRECTORY/<vegetable>/<number>.jpg, at a random place, size and angle on a ground of any colour.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE_PX = 96
Box = tuple[float, float, float, float]

# Drawn on a square of twice the final side, within the box; what is turned and shrunk from there has smooth edges.
SCALE = 2


def tomato(draw: ImageDraw.ImageDraw, box: Box) -> None:
    left, top, right, bottom = box
    draw.ellipse(box, fill=(214, 40, 30))
    draw.regular_polygon(((left + right) / 2, top + 0.1 * (bottom - top), 0.16 * (right - left)), 5, fill=(40, 120, 40))


def cucumber(draw: ImageDraw.ImageDraw, box: Box) -> None:
    left, top, right, bottom = box
    height = 0.28 * (bottom - top)
    middle = (top + bottom) / 2
    draw.rounded_rectangle((left, middle - height / 2, right, middle + height / 2), height / 2, fill=(60, 140, 50))


def carrot(draw: ImageDraw.ImageDraw, box: Box) -> None:
    left, top, right, bottom = box
    middle, width = (left + right) / 2, 0.22 * (right - left)
    draw.polygon([(middle - width, top), (middle + width, top), (middle, bottom)], fill=(240, 130, 30))
    draw.rectangle((middle - width / 3, top - 0.15 * (bottom - top), middle + width / 3, top), fill=(50, 150, 60))


def aubergine(draw: ImageDraw.ImageDraw, box: Box) -> None:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    draw.ellipse((left + 0.2 * width, top + 0.3 * height, right - 0.2 * width, bottom), fill=(80, 30, 100))
    draw.ellipse((left + 0.32 * width, top, right - 0.32 * width, top + 0.6 * height), fill=(80, 30, 100))


VEGETABLES: dict[str, Callable[[ImageDraw.ImageDraw, Box], None]] = {
    "aubergine": aubergine,
    "carrot": carrot,
    "cucumber": cucumber,
    "tomato": tomato,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--count", type=int, default=60, help="pictures of each vegetable")
    parser.add_argument("--seed", type=int, default=1, help="another one, other pictures")
    args = parser.parse_args()
    random = np.random.default_rng(args.seed)
    for name in VEGETABLES:
        (args.directory / name).mkdir(parents=True, exist_ok=True)
        for number in range(args.count):
            picture(name, random).save(args.directory / name / f"{args.seed}-{number:03}.jpg", quality=90)
    print(f"Drew {args.count * len(VEGETABLES)} pictures into {args.directory}")


def picture(name: str, random: np.random.Generator) -> Image.Image:
    side = SIDE_PX * SCALE
    thing = Image.new("RGBA", (side, side))
    size = random.uniform(0.35, 0.7) * side
    left, top = random.uniform(0.15 * side, 0.85 * side - size, 2)
    VEGETABLES[name](ImageDraw.Draw(thing), (left, top, left + size, top + size))
    thing = thing.rotate(random.uniform(0, 360), Image.Resampling.BICUBIC).resize((SIDE_PX, SIDE_PX))
    ground = random.integers(60, 256, 3) + random.normal(0, 12, (SIDE_PX, SIDE_PX, 3))
    drawn = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    drawn.paste(thing, mask=thing)
    return drawn


if __name__ == "__main__":
    main()
