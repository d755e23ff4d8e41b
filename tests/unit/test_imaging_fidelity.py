"""`fidelity: fast` is quicker in what it computes, and never in what it checks; its pixels drift by what is stated."""

import io
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from benchmarks.image_files import encode, jpeg_header, noise
from deployments import imaging, resizing
from deployments.errors import ApertureError, CorruptImage, TooManyPixels
from deployments.imaging import preprocess
from deployments.settings import Limits, PreprocessingSpec
from tests.unit.test_imaging_orientation import ORIENTATIONS, exif

FAST = PreprocessingSpec(fidelity="fast")
# Small, so that small files are large for it: JPEGs are decoded at 1/2 from 96 pixels on, 1/4 from 192, 1/8 from 384.
SMALL = PreprocessingSpec(resize_size=32, crop_size=24, fidelity="fast")
# What an octave of a photograph's detail has of the next coarser one's: as much as makes 100 KB of 500 x 375 pixels.
CONTRAST = 0.8
# The figures are 1.04 and 9 levels; resized by hardly more than once instead of 1.5 times, they are 2.1 and 21.
MEAN_DRIFT, MAX_DRIFT = 1.3, 12
# A slope has no detail to lose: one level is JPEG's, one that of resizing.
SLOPE_DRIFT = 2
SCALED = {
    "at half": ((150, 100), (75, 50)),
    "at half, which does not divide it": ((151, 101), (76, 51)),
    "at a quarter": ((300, 200), (75, 50)),
    "at a quarter, which does not divide it": ((201, 303), (51, 76)),
    "at an eighth": ((400, 384), (50, 48)),
    "at an eighth, which does not divide it": ((391, 389), (49, 49)),
}
scaled = pytest.mark.parametrize("size", [size for size, _ in SCALED.values()], ids=SCALED.keys())


def photograph(width: int, height: int) -> Image.Image:
    """Octaves of noise: as in photographs, the finer the detail, the less there is of it."""
    pixels = np.full((height, width, 3), 128, np.float32)
    for octave in range(1, 10):
        cells = noise(2**octave, 2**octave, seed=octave).resize((width, height), Image.Resampling.BICUBIC)
        pixels += (np.asarray(cells, np.float32) - 128) * np.float32(CONTRAST**octave)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def slope(width: int, height: int) -> Image.Image:
    """Red grows to the right and green downwards: a picture in which every shift is a difference."""
    red, green = np.linspace(0, 255, width), np.linspace(0, 255, height)
    pixels = np.zeros((height, width, 3))
    pixels[..., 0], pixels[..., 1] = red[None], green[:, None]
    return Image.fromarray(pixels.astype(np.uint8))


def jpeg(picture: Image.Image, **options: Any) -> bytes:
    return encode(picture, "JPEG", **{"quality": 92, **options})


def drift(data: bytes, spec: PreprocessingSpec) -> NDArray[np.int16]:
    """How many levels each value of the fast result is off torchvision's."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    transform = Compose([Resize(spec.resize_size, InterpolationMode(spec.interpolation)), CenterCrop(spec.crop_size)])
    levels: NDArray[np.int16] = preprocess(data, spec, Limits()).astype(np.int16) - np.asarray(transform(picture))
    return np.abs(levels)


def exact(spec: PreprocessingSpec) -> PreprocessingSpec:
    return spec.model_copy(update={"fidelity": "exact"})


@pytest.fixture
def decoded_sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes at which pictures come to be resized."""
    sizes: list[tuple[int, int]] = []
    resize = resizing.at_once

    def spy(picture: Image.Image, *args: Any) -> Image.Image:
        sizes.append(picture.size)
        return resize(picture, *args)

    monkeypatch.setattr(imaging, "at_once", spy)
    return sizes


@pytest.mark.parametrize(("size", "decoded"), SCALED.values(), ids=SCALED.keys())
def test_large_jpeg_is_decoded_at_a_lower_scale(
    size: tuple[int, int], decoded: tuple[int, int], decoded_sizes: list[tuple[int, int]]
) -> None:
    preprocess(jpeg(slope(*size)), SMALL, Limits())
    assert decoded_sizes == [decoded]


@pytest.mark.parametrize(("size", "image_format"), [((95, 95), "JPEG"), ((400, 384), "PNG"), ((400, 384), "WEBP")])
def test_small_jpeg_and_other_formats_are_decoded_in_full(
    size: tuple[int, int], image_format: str, decoded_sizes: list[tuple[int, int]]
) -> None:
    preprocess(encode(slope(*size), image_format), SMALL, Limits())
    assert decoded_sizes == [size]


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (301, 299), (800, 600), (90, 61)])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_picture_decoded_in_full_drifts_by_a_level_at_most(size: tuple[int, int], image_format: str) -> None:
    assert drift(encode(photograph(*size), image_format), FAST).max() <= 1


def test_array_drifts_by_a_level_at_most() -> None:
    pixels = np.asarray(photograph(500, 375))
    difference = preprocess(pixels, FAST, Limits()).astype(int) - preprocess(pixels, exact(FAST), Limits())
    assert 0 < np.abs(difference).max() <= 1


@pytest.mark.parametrize("size", [(1024, 768), (771, 1027)])
def test_large_photograph_drifts_little(size: tuple[int, int]) -> None:
    levels = drift(jpeg(photograph(*size)), FAST)
    assert levels.mean() <= MEAN_DRIFT
    assert levels.max() <= MAX_DRIFT


@scaled
def test_scaling_moves_nothing(size: tuple[int, int]) -> None:
    assert drift(jpeg(slope(*size)), SMALL).max() <= SLOPE_DRIFT


@scaled
@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=[name for name, _ in ORIENTATIONS.values()])
def test_picture_is_turned_as_its_exif_says(orientation: int, size: tuple[int, int]) -> None:
    data = jpeg(slope(*size), exif=exif(orientation))
    expected = preprocess(data, exact(SMALL), Limits()).astype(int)
    assert np.abs(preprocess(data, SMALL, Limits()) - expected).max() <= SLOPE_DRIFT


def test_turned_phone_photograph_is_still_decoded_at_a_lower_scale(decoded_sizes: list[tuple[int, int]]) -> None:
    preprocess(jpeg(slope(400, 384), exif=exif(6)), SMALL, Limits())
    assert decoded_sizes == [(48, 50)]


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_in_other_colours_drifts_as_little(mode: str) -> None:
    assert drift(jpeg(slope(400, 384).convert(mode)), SMALL).max() <= SLOPE_DRIFT


def test_photograph_with_a_preview_drifts_as_little() -> None:
    data = encode(slope(400, 384), "MPO", save_all=True, append_images=[slope(40, 40)], quality=92)
    assert drift(data, SMALL).max() <= SLOPE_DRIFT


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@scaled
def test_truncated_jpeg_is_corrupt(size: tuple[int, int], progressive: bool) -> None:
    data = jpeg(photograph(*size), progressive=progressive)
    for cut in np.linspace(len(data) // 10, len(data) * 9 // 10, 10, dtype=int):
        with pytest.raises(CorruptImage):
            preprocess(data[:cut], SMALL, Limits())


@pytest.mark.filterwarnings("ignore")
@scaled
def test_flipped_bytes_give_a_picture_or_one_of_our_errors(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    data = np.frombuffer(jpeg(photograph(*size)), np.uint8)
    for attempt in range(60):
        # Half of the flips fall into the header: a frame of another size is scaled, too.
        flipped = data.copy()
        flipped[generator.integers(0, 700 if attempt % 2 else len(data), 1 + attempt % 4)] = generator.integers(0, 256)
        with suppress(ApertureError):
            assert preprocess(flipped.tobytes(), SMALL, Limits(max_pixels=1_000_000)).shape == (24, 24, 3)


def test_pixels_are_counted_in_the_file_and_not_at_the_lower_scale() -> None:
    data = jpeg(slope(400, 384))
    with pytest.raises(TooManyPixels, match="400 x 384 = 153600"):
        preprocess(data, SMALL, Limits(max_pixels=153_599))


def test_jpeg_without_data_is_corrupt() -> None:
    with pytest.raises(CorruptImage):
        preprocess(jpeg_header(400, 384), SMALL, Limits())


@pytest.mark.parametrize("crop", [31, 32, 33, 40])
@scaled
def test_crop_larger_than_the_picture_has_torchvisions_black_borders(size: tuple[int, int], crop: int) -> None:
    spec = SMALL.model_copy(update={"crop_size": crop})
    assert drift(jpeg(slope(*size)), spec).max() <= SLOPE_DRIFT
