"""Pictures of many sizes in every format, with their answers: the service's own decoder, and eager torch in float32."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.engines import create_engine
from deployments.errors import ApertureError
from deployments.imaging import decode, preprocess
from deployments.messages import Pixels
from deployments.settings import Limits, ModelSettings, PreprocessingSpec
from examples.shape_pictures import LABELS, draw_shape

MODEL = "shapes"
MODEL_PATH = Path(__file__).resolve().parents[2] / "models/shapes"
# Of each probability. Other engines and other batches change the last bits, and pictures differ by more than APART.
TOLERANCE, APART = 1e-3, 0.02
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# Of the longer side, from an icon to a small photograph from a camera.
SIDES = (48, 128, 200, 333, 500, 800, 1600)
# As raw pixels in a request, and as numbers in JSON.
SMALL_PIXELS, TINY_PIXELS = 250_000, 12_000
# GIF, WebP and small JPEGs change what the model sees, so some of the pictures end up alike and are left out.
DRAWN, MIXED = 20, 40
# What a client sends at most; larger ones are for benchmarks.large_bodies.
MAX_BYTES = 2 * 2**20


@dataclass(frozen=True)
class Question:
    name: str
    image: bytes
    # uint8 (H, W, 3)
    pixels: Pixels
    # float32 (3, crop, crop): what a client makes that preprocesses by itself.
    prepared: NDArray[np.float32]
    # Probability by label; of a picture that must be refused none, but the code of the refusal.
    answer: Mapping[str, float]
    refusal: str | None = None
    model: str = MODEL
    # Of all classes, in their order; two may have the same. Those of the answer, unless they are given.
    classes: Sequence[str] = ()

    @property
    def labels(self) -> Sequence[str]:
        return self.classes or tuple(self.answer)

    def is_answered_by(self, found: Mapping[str, float], least: int) -> bool:
        """Whether `found` has at least so many labels, and of each the right probability."""
        return least <= len(found) and all(
            label in self.answer and abs(self.answer[label] - value) <= TOLERANCE for label, value in found.items()
        )


def questions() -> tuple[list[Question], list[Question]]:
    """Some forty, the same every time, no two of which have the same answer; and broken ones (`broken`)."""
    settings = ModelSettings(
        name=MODEL, path=str(MODEL_PATH), engine="torch", precision="fp32", device="cpu", threads=1
    )
    engine, limits = create_engine(settings), Limits()
    info = engine.info()
    mean, std = (np.array(values, np.float32) for values in (info.preprocessing.mean, info.preprocessing.std))
    chosen: list[Question] = []
    for name, image in _pictures():
        if len(image) > MAX_BYTES:
            continue
        view = preprocess(image, info.preprocessing, limits)
        probabilities = _softmax(engine.infer(np.stack([view]))[0])
        answer = dict(zip(info.labels, map(float, probabilities), strict=True))
        prepared = ((view / np.float32(255) - mean) / std).transpose(2, 0, 1).astype(np.float32)
        if all(_distance(answer, other.answer) >= APART for other in chosen):
            chosen.append(Question(name, image, np.asarray(decode(image, limits)), prepared, answer))
    return chosen, broken(chosen, info.preprocessing)


def broken(found: Sequence[Question], spec: PreprocessingSpec) -> list[Question]:
    """The first halves of small files, as far as nothing can be seen on them, with the codes of their refusals."""
    halves = []
    for each in smaller(found, SMALL_PIXELS):
        cut = each.image[: len(each.image) // 2]
        try:
            preprocess(cut, spec, Limits())
        except ApertureError as refusal:
            halves.append(replace(each, name=f"half of {each.name}", image=cut, answer={}, refusal=refusal.code))
    return halves


def smaller(found: Sequence[Question], pixels: int) -> list[Question]:
    return [each for each in found if each.pixels.shape[0] * each.pixels.shape[1] <= pixels]


def _pictures() -> Iterator[tuple[str, bytes]]:
    yield from _unusual(draw_shape("star", 99), draw_shape("heart", 98))
    for seed in range(DRAWN):
        picture = draw_shape(LABELS[seed % len(LABELS)], seed)
        yield _encoded(_scaled(picture, SIDES[seed % len(SIDES)]), FORMATS[seed % len(FORMATS)], LABELS[seed % 10])
    for seed in range(MIXED):
        # Colours about which the model is undecided, each time in another way.
        few = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(few).resize((90, 120), Image.Resampling.BICUBIC)
        yield _encoded(_scaled(picture, SIDES[seed % len(SIDES)]), FORMATS[seed % len(FORMATS)], "colours")


def _unusual(picture: Image.Image, other: Image.Image) -> Iterator[tuple[str, bytes]]:
    transparent = picture.copy()
    transparent.putalpha(Image.linear_gradient("L").resize(picture.size))
    yield _encoded(transparent, "PNG", "transparent")
    yield _encoded(picture.convert("L"), "JPEG", "grey")
    yield _encoded(picture.convert("P", palette=Image.Palette.ADAPTIVE), "PNG", "palette")
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: to be turned by a quarter (EXIF 2.3, 4.6.4).
    yield _encoded(other, "JPEG", "turned", exif=exif)
    yield _encoded(other.rotate(30), "JPEG", "progressive", progressive=True)
    yield _encoded(other.rotate(200), "GIF", "animated", save_all=True, append_images=[picture] * 3)


def _scaled(picture: Image.Image, side: int) -> Image.Image:
    factor = side / max(picture.size)
    return picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))))


def _encoded(picture: Image.Image, image_format: str, what: str, **options: object) -> tuple[str, bytes]:
    file = io.BytesIO()
    picture.save(file, image_format, **options)
    return f"{what}, {picture.width} x {picture.height} {image_format}", file.getvalue()


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exponentials = np.exp(logits - logits.max())
    return np.asarray(exponentials / exponentials.sum(), np.float32)


def _distance(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    return max(abs(one[label] - other[label]) for label in one)
