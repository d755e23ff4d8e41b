"""What leaves deployments.imaging is what torchvision makes of the same file, bit for bit."""

import io
import random
from itertools import product
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from benchmarks.image_files import encode, noise
from deployments.imaging import preprocess
from deployments.messages import Pixels
from deployments.settings import Limits, PreprocessingSpec

IMAGENET = PreprocessingSpec()
SPECS = {
    "256 cropped to 224": IMAGENET,
    "128 without a crop": PreprocessingSpec(resize_size=128, crop_size=128),
    "99 padded to 160": PreprocessingSpec(resize_size=99, crop_size=160),
}
MORE_SPECS = {
    "232 cropped to 224": PreprocessingSpec(resize_size=232, crop_size=224),
    "an odd border of 225 to 224": PreprocessingSpec(resize_size=225, crop_size=224),
    "an odd pad of 100 to 101": PreprocessingSpec(resize_size=100, crop_size=101),
    "bicubic": PreprocessingSpec(interpolation="bicubic"),
    "lanczos": PreprocessingSpec(interpolation="lanczos"),
    "box": PreprocessingSpec(interpolation="box"),
    "nearest": PreprocessingSpec(interpolation="nearest"),
}
SIZES = {
    "one pixel": (1, 1),
    "one column": (1, 9),
    "one row": (9, 1),
    "a few pixels": (3, 2),
    "odd, smaller than resized": (57, 31),
    "the resized size of 128": (128, 128),
    "one less than 128 wide": (127, 128),
    "one more than 128 high": (128, 129),
    "the crop's size": (224, 224),
    "the resized size of 256": (256, 256),
    "one less than 256 high": (256, 255),
    "one more than 256 wide": (257, 256),
    "short side as resized": (256, 391),
    "larger by a whole factor": (512, 768),
    "a photograph": (640, 480),
    "a photograph on its side, odd": (479, 641),
    "a panorama": (2000, 17),
    "a tower": (17, 2000),
    "so tall that Pillow resizes its rows first": (300, 900),
    "wider by a whole factor": (768, 512),
}
FILES = {
    "RGB JPEG": ("RGB", "JPEG", {}),
    "RGB JPEG, chroma in full": ("RGB", "JPEG", {"subsampling": 0, "quality": 95}),
    "RGB JPEG, progressive": ("RGB", "JPEG", {"progressive": True}),
    "grey JPEG": ("L", "JPEG", {}),
    "CMYK JPEG": ("CMYK", "JPEG", {}),
    "RGB PNG": ("RGB", "PNG", {}),
    "grey PNG": ("L", "PNG", {}),
    "palette PNG": ("P", "PNG", {}),
    "bilevel PNG": ("1", "PNG", {}),
    "RGB WebP": ("RGB", "WEBP", {}),
    "RGB WebP, lossless": ("RGB", "WEBP", {"lossless": True}),
    "palette GIF": ("P", "GIF", {}),
    "grey GIF": ("L", "GIF", {}),
    "RGB BMP": ("RGB", "BMP", {}),
    "grey BMP": ("L", "BMP", {}),
    "palette BMP": ("P", "BMP", {}),
    "bilevel BMP": ("1", "BMP", {}),
    "RGB TIFF": ("RGB", "TIFF", {}),
    "RGB TIFF, LZW": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "RGB TIFF, JPEG": ("RGB", "TIFF", {"compression": "jpeg"}),
    "grey TIFF": ("L", "TIFF", {}),
    "palette TIFF": ("P", "TIFF", {}),
    "CMYK TIFF": ("CMYK", "TIFF", {}),
    "bilevel TIFF, fax": ("1", "TIFF", {"compression": "group4"}),
}


def torchvision_pixels(picture: Image.Image, spec: PreprocessingSpec) -> Pixels:
    resize = Resize(spec.resize_size, InterpolationMode(spec.interpolation))
    return np.asarray(Compose([resize, CenterCrop(spec.crop_size)])(picture.convert("RGB")))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_result_equals_torchvision_on_every_size(size: tuple[int, int], spec: PreprocessingSpec) -> None:
    picture = noise(*size)
    data = encode(picture, "PNG", compress_level=1)
    np.testing.assert_array_equal(preprocess(data, spec, Limits()), torchvision_pixels(picture, spec))


@pytest.mark.parametrize("spec", MORE_SPECS.values(), ids=MORE_SPECS.keys())
@pytest.mark.parametrize("size", [(57, 31), (255, 256), (480, 641), (300, 900)], ids=["small", "near", "large", "tall"])
def test_result_equals_torchvision_with_every_spec(size: tuple[int, int], spec: PreprocessingSpec) -> None:
    picture = noise(*size)
    data = encode(picture, "PNG", compress_level=1)
    np.testing.assert_array_equal(preprocess(data, spec, Limits()), torchvision_pixels(picture, spec))


@pytest.mark.parametrize("spec", [IMAGENET, SPECS["99 padded to 160"]], ids=["cropped", "padded"])
@pytest.mark.parametrize("file", FILES.values(), ids=FILES.keys())
def test_result_equals_torchvision_on_every_file(
    file: tuple[str, str, dict[str, Any]], spec: PreprocessingSpec
) -> None:
    mode, image_format, options = file
    data = encode(noise(301, 203, mode), image_format, **options)
    np.testing.assert_array_equal(
        preprocess(data, spec, Limits()), torchvision_pixels(Image.open(io.BytesIO(data)), spec)
    )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "box", "nearest"])
def test_result_equals_torchvision_on_all_sizes_up_to_24(interpolation: Any) -> None:
    spec = PreprocessingSpec(resize_size=16, crop_size=13, interpolation=interpolation)
    different = []
    for size in product(range(1, 25), range(1, 25)):
        picture = noise(*size)
        result = preprocess(np.asarray(picture), spec, Limits())
        if not np.array_equal(result, torchvision_pixels(picture, spec)):
            different.append(size)
    assert different == []


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "box", "nearest"])
@pytest.mark.parametrize("shorter", [64, 60], ids=["a power of two", "no power of two"])
def test_result_equals_torchvision_on_sizes_at_random(shorter: int, interpolation: Any) -> None:
    generator = random.Random(shorter)
    for _ in range(60):
        size = generator.randint(1, 400), generator.randint(40, 400)
        crop = generator.randint(1, 70)
        spec = PreprocessingSpec(resize_size=shorter, crop_size=crop, interpolation=interpolation)
        picture = noise(*size)
        result = preprocess(np.asarray(picture), spec, Limits())
        np.testing.assert_array_equal(result, torchvision_pixels(picture, spec), err_msg=f"{size}, {crop}")


@pytest.mark.parametrize(
    ("size", "computed"),
    [
        # The shorter side becomes 256, so that its box is exact; 341 is odd, so that the longer one has none.
        pytest.param((500, 375), [(341, 375), (224, 224)], id="wide"),
        pytest.param((375, 500), [(224, 500), (224, 341)], id="high"),
        pytest.param((400, 400), [(224, 400), (224, 224)], id="square"),
        pytest.param((300, 901), [(300, 768), (224, 224)], id="tall"),
    ],
)
def test_of_the_shorter_side_only_what_is_kept_is_resized(
    size: tuple[int, int], computed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def spy(picture: Image.Image, size: tuple[int, int], *args: Any) -> Image.Image:
        sizes.append(size)
        return resize(picture, size, *args)

    monkeypatch.setattr(Image.Image, "resize", spy)
    preprocess(np.asarray(noise(*size)), IMAGENET, Limits())
    assert sizes == computed


@pytest.mark.parametrize("crop", range(13, 25))
def test_result_equals_torchvision_on_every_parity_of_crop_and_pad(crop: int) -> None:
    spec = PreprocessingSpec(resize_size=17, crop_size=crop)
    for size in product(range(15, 26), range(15, 26)):
        picture = noise(*size)
        result = preprocess(np.asarray(picture), spec, Limits())
        np.testing.assert_array_equal(result, torchvision_pixels(picture, spec), err_msg=str(size))


@pytest.mark.parametrize("size", [(1, 1), (57, 31), (224, 224), (300, 400)], ids=["tiny", "small", "exact", "large"])
def test_array_gives_the_result_of_the_lossless_file(size: tuple[int, int]) -> None:
    picture = noise(*size)
    from_file = preprocess(encode(picture, "PNG"), IMAGENET, Limits())
    np.testing.assert_array_equal(preprocess(np.asarray(picture), IMAGENET, Limits()), from_file)


def test_array_that_is_not_contiguous_gives_the_same_result() -> None:
    pixels = np.asarray(noise(90, 60))
    mirrored = pixels[:, ::-1]
    expected = preprocess(mirrored.copy(), IMAGENET, Limits())
    np.testing.assert_array_equal(preprocess(mirrored, IMAGENET, Limits()), expected)


@pytest.mark.parametrize("spec", (SPECS | MORE_SPECS).values(), ids=(SPECS | MORE_SPECS).keys())
@pytest.mark.parametrize("as_array", [False, True], ids=["file", "array"])
def test_result_is_contiguous_bytes_of_the_crops_shape(spec: PreprocessingSpec, as_array: bool) -> None:
    picture = noise(61, 47)
    result = preprocess(np.asarray(picture) if as_array else encode(picture, "PNG"), spec, Limits())
    assert result.dtype == np.uint8
    assert result.shape == (spec.crop_size, spec.crop_size, 3)
    assert result.flags.c_contiguous


def test_array_of_the_crops_size_is_not_changed_by_the_caller_afterwards() -> None:
    pixels = np.array(noise(128, 128))
    result = preprocess(pixels, SPECS["128 without a crop"], Limits())
    before = result.copy()
    pixels[:] = 0
    np.testing.assert_array_equal(result, before)
