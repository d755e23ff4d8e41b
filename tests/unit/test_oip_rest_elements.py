"""Open Inference Protocol over HTTP: elements of tensors that are not what the tensor says are refused."""

import json
from typing import Any

import numpy as np
import pytest

from tests.unit.bytes_plane import BytesPlane, info, refusal
from tests.unit.oip_requests import (
    HEADER,
    IMAGE,
    INPUT,
    PIXELS,
    encoded,
    post,
    refused,
    refused_binary,
    sized,
)

# Data in JSON


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        5,
        "cGhvdG8=",
        [],
        [5],
        [None],
        [True],
        [""],
        ["%"],
        ["cGhvdG8"],
        ["cGhvdG8=", "cGhvdG8="],
        [["a", "b"]],
        [[[]]],
        ["é"],
    ],
    ids=repr,
)
def test_image_data_that_is_not_base64_is_refused(data: object) -> None:
    refused({"inputs": [{**IMAGE, "data": data}]})


@pytest.mark.parametrize(
    "element", ["1", None, True, 1.5, 1.0, 256, 300, -1, 2**63, 2**64, 10**300, [1], [], {}], ids=lambda e: repr(e)[:9]
)
def test_an_element_that_is_no_uint8_is_refused_and_not_wrapped(element: object) -> None:
    assert "integers from 0 to 255" in refused({"inputs": [{**PIXELS, "data": [0, 0, 0, 0, 0, element]}]})


@pytest.mark.parametrize(
    "element", ['"1"', "null", "true", "NaN", "-Infinity", "1e39", "1e999", "1" + "0" * 400, "[1]"]
)
def test_an_element_that_is_no_float_is_refused(element: str) -> None:
    text = json.dumps({"inputs": [INPUT]}).replace("[0.5,", f"[{element},", 1)
    refused(text.encode())


@pytest.mark.parametrize(
    "data",
    [[0] * 5, [0] * 7, [[0, 0, 0], [0, 0]], [[0, 0, 0], 0, 0, 0], [], [[]], 0, [[[[[[[[[0] * 6]]]]]]]]],
    ids=repr,
)
def test_data_that_does_not_fill_the_shape_is_refused(data: object) -> None:
    refused({"inputs": [{**PIXELS, "data": data}]})


# Data after the JSON


@pytest.mark.parametrize("header", ["-1", "x", "", "1.0", "0x1", "1e3", "²", "99999", "9" * 5000, " "])
def test_a_length_of_the_json_that_is_none_is_refused(header: str) -> None:
    response = post(b"{}", headers={HEADER: header.encode("latin-1")})
    assert "from 0 to the 2 bytes" in refusal(response, 400, "bad_request")


@pytest.mark.parametrize("off_by", [-9, -1, 1, 4])
def test_a_wrong_length_of_the_json_is_refused(off_by: int) -> None:
    body = {"inputs": [sized(IMAGE, 9)]}
    refused_binary(body, encoded(b"photo"), len(json.dumps(body)) + off_by)


@pytest.mark.parametrize("size", [8, 10, -9, 2**62, 2**64, "9", 9.0, True, [], {}])
def test_a_binary_data_size_that_is_not_what_follows_is_refused(size: object) -> None:
    refused_binary({"inputs": [sized(IMAGE, size)]}, encoded(b"photo"))


@pytest.mark.parametrize(
    "blob",
    [
        b"\x05",
        b"\x05\0\0\0phot",
        b"\xff\xff\xff\xffphoto",
        b"\xff\xff\xff\x7fphoto",
        encoded(b"photo") + b"x",
        encoded(b"a", b"b"),
        b"",
    ],
)
def test_images_whose_bytes_are_truncated_or_left_over_are_refused(blob: bytes) -> None:
    refused_binary({"inputs": [sized(IMAGE, len(blob))]}, blob)


@pytest.mark.parametrize("size", [0, 5, 7])
def test_pixels_whose_bytes_are_truncated_or_left_over_are_refused(size: int) -> None:
    assert "6 bytes" in refused_binary({"inputs": [sized(PIXELS, size)]}, bytes(size))


def test_bytes_that_belong_to_no_input_are_refused() -> None:
    assert "3 bytes" in refused_binary({"inputs": [IMAGE]}, b"abc")


@pytest.mark.parametrize(
    "tensor", [{**IMAGE, **sized(IMAGE, 9), "data": ["cGhvdG8="]}, sized(IMAGE, None), {**IMAGE, "parameters": 5}]
)
def test_an_input_needs_its_elements_in_one_place(tensor: dict[str, Any]) -> None:
    refused_binary({"inputs": [tensor]}, encoded(b"photo"))
    refused_binary({"inputs": [{**sized(IMAGE, 9), "parameters": {"shared_memory_region": "x"}}]}, b"")


def test_bytes_that_say_nan_are_refused() -> None:
    values = np.full((1, 3, 224, 224), np.nan, np.float32)
    refused_binary({"inputs": [sized(INPUT, values.nbytes)]}, values.tobytes())


def test_a_raw_body_must_be_something_of_a_known_shape() -> None:
    assert "empty" in refusal(post(b"", headers={HEADER: "0"}), 400, "bad_request")
    for inputs, word in ((("PIXELS",), "no shape"), (("INPUT",), "602112 bytes")):
        plane = BytesPlane(models={"shapes": info("shapes", 3, inputs)})  # type: ignore[arg-type]
        assert word in refusal(post(b"photo", plane, headers={HEADER: "0"}), 400, "bad_request")
