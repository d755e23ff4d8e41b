"""From an encoded picture to the model's pixels: how long each way takes, and how far it is off torchvision's.

    python -m benchmarks.preprocess [--photos DIR] [--rounds 5] [--resize 256] [--crop 224]

    torchvision         its Resize and CenterCrop on Pillow's picture: what models are evaluated with
    torchvision.io      its own JPEG decoder (deprecated in favour of TorchCodec's) and its uint8 kernels; JPEGs only
    Aperture, exact     `fidelity: exact`
    Aperture, fast      `fidelity: fast`

One thread; CPU time, which others on the machine disturb less than they do the clock. Each round takes the pictures one
by one and sends each through all ways, in rotating order; a picture's time is its median over the rounds. Drift is in
levels of 255, over all values of all pictures.
"""

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize, v2
from tqdm import tqdm

from benchmarks.pictures import photographs
from benchmarks.report import document
from deployments.imaging import preprocess
from deployments.messages import Pixels
from deployments.settings import Limits, PreprocessingSpec

Way = Callable[[bytes], Pixels]

PHOTOS_VARIABLE = "APERTURE_PHOTOS"
ROUNDS = 5
REFERENCE = "torchvision"
# Levels. Rounding in another order explains one or two; what is off by more than this has gained or lost detail.
FAR_OFF = 8
NAME_WIDTH, CELL_WIDTH = 18, 12


def main() -> None:
    default = PreprocessingSpec()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--photos",
        default=os.environ.get(PHOTOS_VARIABLE),
        help=f"a folder; default: ${PHOTOS_VARIABLE} or made-up ones",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="medians are over this many")
    parser.add_argument("--resize", type=int, default=default.resize_size, help="to what the shorter side is brought")
    parser.add_argument("--crop", type=int, default=default.crop_size, help="what is kept of the centre")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pictures = photographs(args.photos)
    found = ways(PreprocessingSpec(resize_size=args.resize, crop_size=args.crop), pictures)
    times_ms = measure(found, pictures, args.rounds)
    results = {name: spread(times_ms[name]) | drift(way, found[REFERENCE], pictures) for name, way in found.items()}
    print(f"\n{table(results)}\n")
    settings = vars(args) | {"photos": "given" if args.photos else "made up", "pictures": len(pictures)}
    print(document("preprocess", args.rounds, settings, results))


def ways(spec: PreprocessingSpec, pictures: Sequence[bytes]) -> dict[str, Way]:
    """By name, the reference first. torchvision.io is left out where it is missing or cannot read the pictures."""
    limits = Limits()
    fast = spec.model_copy(update={"fidelity": "fast"})
    found = {REFERENCE: on_pillow(spec)}
    try:
        found["torchvision.io"] = on_tensors(spec)
        for picture in pictures:
            found["torchvision.io"](picture)
    except (ImportError, RuntimeError):
        found.pop("torchvision.io", None)
    return found | {
        "Aperture, exact": lambda data: preprocess(data, spec, limits),
        "Aperture, fast": lambda data: preprocess(data, fast, limits),
    }


def on_pillow(spec: PreprocessingSpec) -> Way:
    transform = Compose([Resize(spec.resize_size), CenterCrop(spec.crop_size)])
    return lambda data: np.asarray(transform(Image.open(io.BytesIO(data)).convert("RGB")))


def on_tensors(spec: PreprocessingSpec) -> Way:
    """Raises ImportError if torchvision was built without image codecs, or no longer has any."""
    from torchvision.io import ImageReadMode, decode_jpeg

    # Of the transforms' second version: the first resizes tensors in float32, which doubled the time.
    transform = v2.Compose([v2.Resize(spec.resize_size, antialias=True), v2.CenterCrop(spec.crop_size)])

    def way(data: bytes) -> Pixels:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)  # Tensors want bytes that can be written to.
        pixels = transform(decode_jpeg(encoded, ImageReadMode.RGB))  # (3, H, W)
        array: Pixels = pixels.permute(1, 2, 0).contiguous().numpy()
        return array

    return way


def measure(found: Mapping[str, Way], pictures: Sequence[bytes], rounds: int) -> dict[str, list[float]]:
    """CPU-milliseconds by way and picture."""
    names = list(found)
    times_ms: dict[str, list[list[float]]] = {name: [[] for _ in pictures] for name in names}
    with tqdm(total=rounds * len(pictures), desc="preprocess", unit="picture") as progress:
        for round_number in range(rounds):
            for number, picture in enumerate(pictures):
                first = (round_number + number) % len(names)
                for name in [*names[first:], *names[:first]]:
                    before_s = time.thread_time()
                    found[name](picture)
                    times_ms[name][number].append((time.thread_time() - before_s) * 1000)
                progress.update()
    return {name: [statistics.median(times) for times in rows] for name, rows in times_ms.items()}


def spread(times_ms: Sequence[float]) -> dict[str, float]:
    """Over the pictures."""
    return {"median_ms": statistics.median(times_ms), "p90_ms": float(np.percentile(times_ms, 90))}


def drift(way: Way, reference: Way, pictures: Sequence[bytes]) -> dict[str, float]:
    """In levels of 255; far_off is the share of values that are off by more than FAR_OFF."""
    levels = [_difference(way(picture), reference(picture)) for picture in pictures]
    every = np.stack(levels)  # (pictures, H, W, 3)
    return {
        "mean_levels": float(every.mean()),
        "max_levels": float(every.max()),
        "far_off": float((every > FAR_OFF).mean()),
    }


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    heads = ("median ms", "p90 ms", "of torchv.", "mean drift", "max drift", f"off by > {FAR_OFF}")
    reference_ms = results[REFERENCE]["median_ms"]
    lines = [f"{'':{NAME_WIDTH}}" + "".join(f"{head:>{CELL_WIDTH}}" for head in heads)]
    for name, row in results.items():
        cells: tuple[Any, ...] = (
            f"{row['median_ms']:.2f}",
            f"{row['p90_ms']:.2f}",
            f"{row['median_ms'] / reference_ms:.0%}",
            f"{row['mean_levels']:.3f}",
            f"{row['max_levels']:.0f}",
            f"{row['far_off']:.3%}",
        )
        lines.append(f"{name:{NAME_WIDTH}}" + "".join(f"{cell:>{CELL_WIDTH}}" for cell in cells))
    return "\n".join(lines)


def _difference(one: Pixels, other: Pixels) -> NDArray[np.uint8]:
    return np.where(one > other, one - other, other - one)


if __name__ == "__main__":
    main()
