"""From encoded bytes to the pixels that a model was trained on, exactly.

    bytes -> header check -> decode -> orient -> RGB -> resize -> crop -> uint8 (H, W, 3)

The result equals torchvision's evaluation transform (Resize, CenterCrop on PIL images) bit for bit on every image
without EXIF rotation, transparency or 16-bit grey, in which `Image.convert` would clip or show what is hidden.
With `fidelity: fast` it nearly does: large JPEGs are decoded at a lower scale, and only what is kept is resized; the
drift is what `benchmarks.preprocess` measures. What is refused does not depend on it.
This module knows no model and no Ray; it touches nothing but the bytes it is given.

What becomes of pixels that are not 8-bit RGB:
    grey, bilevel                 the value in all three channels
    palette                       the palette's colour
    CMYK, YCCK, YCbCr             Pillow's conversion (no ICC profile, as in training pipelines)
    16 bits a channel             the high byte
    alpha, transparent colour     laid over `Limits.alpha_background`
    anything else                 refused (LAB, 12 and 32 bits a channel, 16-bit TIFF in which zero is white)
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from deployments.decode_cost import count_scans
from deployments.errors import (
    AnimatedImage,
    ApertureError,
    CorruptImage,
    ImageRefused,
    TooManyPixels,
    UnsupportedFormat,
    UnsupportedPixels,
)
from deployments.resizing import Extent, at_once, exactly, resized

if TYPE_CHECKING:  # With these, a decoder's process (deployments/decoder.py) would take twice as long to start.
    from deployments.messages import Pixels
    from deployments.settings import Limits, PreprocessingSpec

# Pillow knows over 40 formats, some of which start other programs or parse without bounds; these are what clients send.
ALLOWED_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# A JPEG that carries further pictures (phones add previews) is opened as MPO: still one photograph.
JPEG_FORMATS: Final = ("JPEG", "MPO")
STILL_FORMATS: Final = (*JPEG_FORMATS, "BMP")
# The EXIF tag that says how the camera was held (Exif 2.32, 4.6.4).
EXIF_ORIENTATION: Final = 0x0112
# What turns a picture with that tag upright. Pillow's own exif_transpose would also write the other tags anew, and fail
# on those that it can read but not write.
UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A progressive JPEG is decoded once over for each scan, and an empty scan is 10 bytes: 300 of them in 72 KB kept a
# decoder busy for 6 s. Encoders write about ten.
JPEG_MAX_SCANS: Final = 100
# The scales at which Pillow has libjpeg leave out high frequencies, for which no pixels are then computed.
JPEG_SCALES: Final = (8, 4, 2)
# How many times `resize_size` the shorter side must still have then. With less than 1.5 over 1 % of the pixels of
# detailed pictures were off by more than 8 levels (with 1.1, 7 %), since what libjpeg scales is sharper.
FAST_MARGIN: Final = 1.5

# Where the IHDR chunk of a PNG says how many bits a channel has (PNG, 3rd edition, 11.2.1).
PNG_BIT_DEPTH: Final = 24

# A GIF of one white pixel.
WARM_UP_IMAGE: Final = bytes.fromhex("47494638376101000100800000ffffffffffff2c00000000010001000002024401003b")

OUT_OF_MEMORY: Final = "The image needs more memory to decode than this service has."


def preprocess(image: bytes | Pixels, spec: PreprocessingSpec, limits: Limits) -> Pixels:
    """The model's view of an image. Returns uint8 (crop_size, crop_size, 3), RGB, contiguous.

    image: an encoded file, or uint8 (H, W, 3) RGB pixels.
    Raises UnsupportedFormat or ImageRefused (TooManyPixels, AnimatedImage, UnsupportedPixels, CorruptImage, itself), or
    MemoryError.
    """
    if not isinstance(image, bytes):
        picture = Image.fromarray(_checked_array(image, limits))
        return np.ascontiguousarray(resize_and_crop(picture, spec, limits))
    picture, extent = _decode(image, limits, spec)
    return np.ascontiguousarray(resize_and_crop(picture, spec, limits, extent))


def warm_up(limits: Limits) -> None:
    """Imports what Pillow would import when it meets the first images, and silences what it says of files, for the
    whole process.

    It warns of each bad tag of each file. A client could fill the log, and the memory too, since Python keeps whatever
    it has warned of.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    Image.init()
    decode(WARM_UP_IMAGE, limits)


def decode(data: bytes, limits: Limits) -> Image.Image:
    """The upright RGB picture in an encoded file, in full. Raises as `preprocess`."""
    return _decode(data, limits, spec=None)[0]


def _decode(data: bytes, limits: Limits, spec: PreprocessingSpec | None) -> tuple[Image.Image, Extent]:
    """The upright RGB picture, and how much of it is the file's.

    spec: what will become of it, for which less of it may do; None keeps all.
    """
    picture = open_checked(data, limits)
    if spec is not None:
        _check_size(*resized(*picture.size, spec.resize_size), limits)
    shortest = FAST_MARGIN * spec.resize_size if spec and spec.fidelity == "fast" else None
    try:
        if isinstance(picture, TiffImagePlugin.TiffImageFile):
            _check_tiff(picture, limits)
        extent = None if shortest is None else _scale_down(picture, shortest)
        picture.load()
        if picture.format == "PNG":
            _scale_transparent_colour(picture, data[PNG_BIT_DEPTH])
        upright = to_rgb(_upright(picture), limits.alpha_background)
        return upright, extent or upright.size
    except (ApertureError, MemoryError):
        raise
    except Exception as err:  # Decoders of hostile bytes raise whatever they like; all of it means the same here.
        raise CorruptImage(f"The {picture.format} image is truncated or corrupt.") from err


def open_checked(data: bytes, limits: Limits) -> Image.Image:
    """The lazily opened file, its format, size and frames checked against `limits`; no pixel is decoded."""
    _check_webp_canvas(data, limits)
    # Our limit is a setting and exact. Pillow's is a global and only warns in its lower half, but nothing else is asked
    # before the first frame of a GIF is allocated, and that is while it is opened: so it may be raised, but never off.
    Image.MAX_IMAGE_PIXELS = max(limits.max_pixels, Image.MAX_IMAGE_PIXELS or 0)
    try:
        picture = Image.open(io.BytesIO(data), formats=ALLOWED_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as err:
        raise TooManyPixels(f"The image takes more than the {limits.max_pixels} pixels that are allowed.") from err
    except UnidentifiedImageError as err:
        if begins_like_an_image(data):  # Pillow makes no difference.
            raise CorruptImage("The header of the image is corrupt, or of a kind that is not supported.") from err
        raise UnsupportedFormat(f"The data is not an image in one of {', '.join(ALLOWED_FORMATS)}.") from err
    except MemoryError:
        raise
    except Exception as err:  # As in `_decode`.
        raise CorruptImage("The header of the image is corrupt.") from err
    _check_size(picture.width, picture.height, limits)
    if picture.format in JPEG_FORMATS and count_scans(data) > JPEG_MAX_SCANS:
        raise ImageRefused(f"The JPEG has more than {JPEG_MAX_SCANS} scans, each of which costs a whole decode.")
    if limits.animated == "refuse" and picture.format not in STILL_FORMATS and _has_frames(picture):
        raise AnimatedImage("The image has more than one frame, which this service is set to refuse.")
    return picture


def to_rgb(picture: Image.Image, alpha_background: tuple[int, int, int]) -> Image.Image:
    """8-bit RGB by the rules in the module's docstring. Raises UnsupportedPixels."""
    if picture.mode.startswith("I;16"):
        picture = _high_bytes(picture)
    if picture.mode == "La":  # The one kind with alpha that Pillow does not convert to RGBA directly.
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        over = Image.new("RGBA", picture.size, (*alpha_background, 255))
        return Image.alpha_composite(over, picture.convert("RGBA")).convert("RGB")
    if picture.mode not in ("RGB", "L", "1", "P", "CMYK", "YCbCr", "RGBX"):
        raise UnsupportedPixels(f"Images with pixels of the kind {picture.mode} are not supported.")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def resize_and_crop(
    picture: Image.Image, spec: PreprocessingSpec, limits: Limits, extent: Extent | None = None
) -> Image.Image:
    """torchvision's Resize(resize_size) and CenterCrop(crop_size) on an RGB PIL image. Raises TooManyPixels.

    extent: how much of the picture's width and height there is to resize, if it is not all.
    """
    width, height = extent or picture.size
    size = resized(width, height, spec.resize_size)
    _check_size(*size, limits)  # A picture one pixel high grows by resize_size squared before it is cropped.
    kernel = Image.Resampling[spec.interpolation.upper()]
    if spec.fidelity == "fast":
        return at_once(picture, (width, height), size, spec.crop_size, kernel)
    return exactly(picture, size, spec.crop_size, kernel)


def _scale_down(picture: Image.Image, shortest: float) -> Extent | None:
    """Has a JPEG decoded at the lowest scale that leaves its shorter side `shortest` pixels.

    Returns how many pixels of the smaller picture are the file's, or None if all of them are.
    """
    if picture.format not in JPEG_FORMATS:
        return None
    for scale in JPEG_SCALES:
        # Of a side that the scale does not divide, the last pixel is partly filler, which turning would put first.
        divides = picture.width % scale == picture.height % scale == 0
        if min(picture.size) >= scale * shortest and (divides or _turn(picture) is None):
            scaled = picture.draft(None, (picture.width // scale, picture.height // scale))
            return None if divides or scaled is None else scaled[1][2:]
    return None


def _upright(picture: Image.Image) -> Image.Image:
    method = _turn(picture)
    return picture if method is None else picture.transpose(method)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    try:
        return UPRIGHT.get(picture.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # As in `_decode`, but what cannot be read turns nothing, and the pixels are sound.
        return None


def _high_bytes(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if (transparent := picture.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _scale_transparent_colour(picture: Image.Image, depth: int) -> None:
    # Pillow brings the pixels of a PNG to 8 bits a channel, but leaves its transparent colour at the file's own depth.
    colour = picture.info.get("transparency")
    if picture.mode == "L" and colour is not None:
        picture.info["transparency"] = colour * 255 // (2**depth - 1)
    elif picture.mode == "RGB" and colour is not None and depth == 16:
        picture.info["transparency"] = tuple(value >> 8 for value in colour)


def begins_like_an_image(data: bytes) -> bool:
    """Whether any decoder would look further; without `warm_up` before, not all of them are asked."""
    openers = (Image.OPEN[name] for name in ALLOWED_FORMATS)
    return any(accept(data[:16]) for _, accept in openers if accept)


def _has_frames(picture: Image.Image) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception as err:  # Counting frames parses the file; as in `decode`.
        raise CorruptImage(f"The frames of the {picture.format} image are corrupt.") from err


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise TooManyPixels(
            f"The image takes {width} x {height} = {width * height} pixels; at most {limits.max_pixels} are allowed."
        )


def _checked_array(pixels: Pixels, limits: Limits) -> Pixels:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise UnsupportedPixels(
            f"A decoded image must be a uint8 array of shape (H, W, 3), not {pixels.dtype} of shape {pixels.shape}."
        )
    _check_size(pixels.shape[1], pixels.shape[0], limits)
    return pixels


def _check_tiff(picture: TiffImagePlugin.TiffImageFile, limits: Limits) -> None:
    tags = picture.tag_v2
    # A whole tile is allocated, however small the picture in it.
    _check_size(tags.get(TiffImagePlugin.TILEWIDTH, 1), tags.get(TiffImagePlugin.TILELENGTH, 1), limits)
    if not picture.mode.startswith("I;16"):
        return
    # Pillow puts 12 bits into the lower end of 16, and takes zero for black in whatever has 16.
    white_is_zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0
    if white_is_zero or tags[TiffImagePlugin.BITSPERSAMPLE][0] != 16:
        raise UnsupportedPixels("TIFF images of 12 bits a channel, or of 16 in which zero is white, are not supported.")


def _check_webp_canvas(data: bytes, limits: Limits) -> None:
    """Pillow allocates the whole canvas of a WebP when it opens one, so its size is read here first.

    Layout: RFC 9649, sections 2.5 to 2.7 (VP8 frame header, VP8L header, VP8X canvas).
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = _little(data[24:27]) + 1, _little(data[27:30]) + 1
    elif kind == b"VP8L":
        bits = _little(data[21:25])
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = _little(data[26:28]) & 0x3FFF, _little(data[28:30]) & 0x3FFF
    else:
        return
    _check_size(width, height, limits)


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
