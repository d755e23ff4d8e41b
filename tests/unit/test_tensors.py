"""Images and answers as tensors."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.errors import BadRequest, CorruptImage
from deployments.messages import Answer, Prepared, Stages
from deployments.protocols.tensors import (
    answers_of,
    best,
    classification,
    images_from,
    input_shape,
    output_values,
)
from deployments.settings import InputName
from tests.unit.bytes_plane import LABELS, info

INFO = info("shapes", 3)
SIDE = INFO.preprocessing.crop_size
STAGES = Stages(0.0, 0.0, 0.0)


def normalised(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 (N, 3, H, W) as torchvision's ToTensor and Normalize make it of uint8 (N, H, W, 3)."""
    spec = INFO.preprocessing
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    values = (pixels.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def prepared(values: NDArray[Any]) -> list[NDArray[np.uint8]]:
    images = images_from("INPUT", values, INFO)
    return [image.pixels for image in images if isinstance(image, Prepared)]


def test_every_level_that_a_client_normalised_comes_back_exactly() -> None:
    pixels = np.resize(np.arange(256, dtype=np.uint8), (2, SIDE, SIDE, 3))
    back = prepared(normalised(pixels))
    assert len(back) == 2
    np.testing.assert_array_equal(np.stack(back), pixels)
    assert all(image.flags.c_contiguous for image in back)


def test_levels_between_two_pixels_become_the_nearest() -> None:
    pixels = np.full((1, SIDE, SIDE, 3), 100, np.uint8)
    level = (1 / 255 / np.array(INFO.preprocessing.std, np.float32))[None, :, None, None]
    (back,) = prepared(normalised(pixels) + np.float32(0.4) * level)
    np.testing.assert_array_equal(back, pixels[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.0, -3.0, 3.4e38])
def test_what_no_pixel_can_become_is_refused(value: float) -> None:
    values = np.zeros((1, 3, SIDE, SIDE), np.float32)
    values[0, 1, 5, 7] = value
    with pytest.raises(BadRequest, match=r"minus \[0\.485"):
        images_from("INPUT", values, INFO)


def test_pixels_may_have_any_size_and_keep_their_values() -> None:
    values = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)[:, :, ::-1]
    images = images_from("PIXELS", values, INFO)
    for image, expected in zip(images, values, strict=True):
        assert isinstance(image, np.ndarray)
        assert image.flags.c_contiguous
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("shape", [(2,), (2, 1)], ids=str)
def test_encoded_images_may_stand_in_a_column(shape: tuple[int, ...]) -> None:
    assert images_from("IMAGE", np.array([b"one", b"two"], object).reshape(shape), INFO) == [b"one", b"two"]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("IMAGE", (0,)),
        ("IMAGE", ()),
        ("IMAGE", (2, 2)),
        ("PIXELS", (4, 5, 3)),
        ("PIXELS", (1, 4, 5, 4)),
        ("PIXELS", (1, 0, 5, 3)),
        ("INPUT", (3, SIDE, SIDE)),
        ("INPUT", (1, SIDE, SIDE, 3)),
        ("INPUT", (1, 3, SIDE, SIDE + 1)),
    ],
    ids=str,
)
def test_a_wrong_shape_is_refused_with_the_expected_and_the_given(name: InputName, shape: tuple[int, ...]) -> None:
    values = np.zeros(shape, {"IMAGE": object, "PIXELS": np.uint8, "INPUT": np.float32}[name])
    with pytest.raises(BadRequest) as caught:
        images_from(name, values, INFO)
    assert str(input_shape(name, INFO)) in str(caught.value)
    assert str(list(shape)) in str(caught.value)


def test_the_first_image_that_failed_is_the_answer_for_all() -> None:
    answer = Answer(INFO, np.zeros(7, np.float32), np.zeros(7, np.float32), STAGES)
    with pytest.raises(CorruptImage, match=r"^Image 2 of 3: broken$"):
        answers_of([answer, CorruptImage("broken"), CorruptImage("too")])


def test_an_image_that_fails_alone_keeps_its_sentence() -> None:
    with pytest.raises(CorruptImage, match=r"^broken$"):
        answers_of([CorruptImage("broken")])


def test_outputs_are_rows_of_float32() -> None:
    rows = np.arange(14, dtype=np.float32).reshape(2, 7)
    answers = [Answer(INFO, row, row * 2, STAGES) for row in rows]
    np.testing.assert_array_equal(output_values("LOGITS", answers), rows)
    np.testing.assert_array_equal(output_values("PROBABILITIES", answers), rows * 2)
    assert output_values("LOGITS", answers).flags.c_contiguous


def test_the_best_classes_come_first_and_of_equals_the_lower_index() -> None:
    assert best(np.array([1.0, 3.0, 3.0, 2.0], np.float32), 3).tolist() == [1, 2, 3]
    assert best(np.array([1.0, 3.0], np.float32), 9).tolist() == [1, 0]


def test_a_class_is_written_as_value_index_and_label() -> None:
    values = np.array([[0.1, 0.7, 0.2, 0, 0, 0, 0]], np.float32)
    assert classification(values, 2, LABELS) == [[b"0.700000:1:square", b"0.200000:2:triangle"]]
