"""Pictures to send: a folder of photographs, or ones made up that cost a decoder what photographs cost.

The made-up ones are 500 x 375 JPEGs of about 100 KB, as ImageNet's are on average: noise whose energy falls with
frequency as that of photographs does, so that entropy coding and the inverse transform have their usual work.
"""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 500, 375
COUNT = 32
# Natural scenes have amplitudes that fall about as 1 / frequency; a little steeper leaves room for edges.
FALL_OFF = 1.1
# With which the pictures come to about 100 KB.
JPEG_QUALITY = 92
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def photographs(folder: str | None) -> list[bytes]:
    """The encoded pictures in `folder`, or made-up ones. Raises ValueError if there are none."""
    if folder is None:
        return [made_up(seed) for seed in range(COUNT)]
    found = [path for path in sorted(Path(folder).rglob("*")) if path.suffix.lower() in SUFFIXES]
    if not found:
        raise ValueError(f"The folder {folder!r} has no pictures.")
    return [path.read_bytes() for path in found]


def made_up(seed: int) -> bytes:
    """A JPEG; the same for the same seed."""
    random = np.random.default_rng(seed)
    # Most of what is in the three channels of a photograph is common to them.
    common = _noise(random)
    channels = [common + 0.35 * _noise(random) for _ in range(3)]
    pixels = np.stack(channels, axis=2) * random.uniform(35, 60) + random.uniform(90, 160, 3)  # (H, W, 3)
    encoded = io.BytesIO()
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    picture.save(encoded, "JPEG", quality=JPEG_QUALITY)
    return encoded.getvalue()


def _noise(random: np.random.Generator) -> NDArray[np.float64]:
    """(HEIGHT, WIDTH), mean 0 and deviation 1."""
    spectrum = np.fft.rfft2(random.standard_normal((HEIGHT, WIDTH)))
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(spectrum / frequency**FALL_OFF, (HEIGHT, WIDTH))
    scaled: NDArray[np.float64] = noise / noise.std()
    return scaled
