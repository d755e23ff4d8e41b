"""Images and answers as tensors, for the protocols that speak in them.

    IMAGE    bytes (N,) or (N, 1)              encoded files
    PIXELS   uint8 (N, H, W, 3)                RGB; resized and cropped like a decoded file
    INPUT    float32 (N, 3, crop, crop)        resized, cropped and normalised by the client; see `_levels`

    PROBABILITIES, LOGITS   float32 (N, classes)

A tensor has no place for one image's error, so the first image that fails is the answer for all.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deployments.errors import ApertureError, BadRequest
from deployments.messages import Answer, ImageInput, ModelInfo, Pixels, Prepared
from deployments.protocols.addressing import answered
from deployments.settings import InputName, OutputName, PreprocessingSpec

OUTPUTS: Final[tuple[OutputName, ...]] = ("PROBABILITIES", "LOGITS")
# Rounding in float32 takes the brightest and the darkest level a little outside.
LEVEL_SLACK: Final = 0.01


def input_shape(name: InputName, info: ModelInfo) -> list[int]:
    """The announced shape, -1 for what is up to the client. The first dimension is the number of images."""
    side = info.preprocessing.crop_size
    return {"IMAGE": [-1], "PIXELS": [-1, -1, -1, 3], "INPUT": [-1, 3, side, side]}[name]


def images_from(name: InputName, values: NDArray[Any], info: ModelInfo) -> list[ImageInput]:
    """The images of one input tensor; `values` of IMAGE are an object array of bytes. Raises BadRequest."""
    check_shape(name, values.shape, info)
    if name == "IMAGE":
        return list(values.ravel())
    if name == "PIXELS":
        return [np.ascontiguousarray(image) for image in values]
    return [Prepared(image) for image in _levels(values, info.preprocessing)]


def check_shape(name: InputName, shape: Sequence[int], info: ModelInfo) -> None:
    """Raises BadRequest for what `images_from` does not take. Costs nothing, whatever the dimensions are."""
    expected = input_shape(name, info)
    have = shape[:1] if name == "IMAGE" and len(shape) == 2 and shape[1] == 1 else shape
    fits = len(have) == len(expected) and all(b > 0 and a in (-1, b) for a, b in zip(expected, have, strict=True))
    if not fits:
        raise BadRequest(
            f"The input {name} of model {info.name!r} has the shape {expected}, where -1 is any number above 0; "
            f"the request's has {str(list(shape[:9]))[:100]}."
        )


def answers_of(outcomes: Sequence[Answer | ApertureError]) -> list[Answer]:
    """All answers, or the error of the first image that has none, raised. Notes where they came from."""
    answered(outcomes)
    answers = []
    for number, outcome in enumerate(outcomes, 1):
        if isinstance(outcome, ApertureError):
            where = f"Image {number} of {len(outcomes)}: " if len(outcomes) > 1 else ""
            raise type(outcome)(where + outcome.message)
        answers.append(outcome)
    return answers


def output_values(name: OutputName, answers: Sequence[Answer]) -> NDArray[np.float32]:
    """float32 (N, classes), C-contiguous."""
    rows = [answer.probabilities if name == "PROBABILITIES" else answer.logits for answer in answers]
    return np.stack(rows).astype(np.float32, copy=False)


def best(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Indices of the `count` highest of (classes,) values, highest first; of equals, the lower index first."""
    return np.argsort(-values, kind="stable")[:count]


def classification(values: NDArray[np.float32], count: int, labels: Sequence[str]) -> list[list[bytes]]:
    """Triton's classification extension: for each of the N rows the `count` best as "value:index:label"."""
    return [[f"{row[index]:f}:{index}:{labels[index]}".encode() for index in best(row, count)] for row in values]


def _levels(values: NDArray[Any], spec: PreprocessingSpec) -> list[Pixels]:
    """The 8-bit pixels that were normalised: values * std + mean, in levels of 1/255, rounded to the nearest.

    Engines take pixels and normalise them themselves. What a client has made out of 8-bit pixels comes back exactly;
    what it has resized in floats is off by up to half a level. Raises BadRequest for what no pixel can become.
    """
    mean, std = (np.array(each, np.float32)[:, None, None] for each in (spec.mean, spec.std))
    with np.errstate(over="ignore", invalid="ignore"):
        levels = (values.astype(np.float32) * std + mean) * 255
    if not (levels.min() >= -LEVEL_SLACK and levels.max() <= 255 + LEVEL_SLACK):  # Also false for NaN.
        raise BadRequest(
            f"INPUT must be pixels in [0, 1] minus {list(spec.mean)}, divided by {list(spec.std)}, channel by channel; "
            f"some values are not within what that can give."
        )
    pixels = np.rint(levels).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return [np.ascontiguousarray(image) for image in pixels]
