"""JSON texts to values, nested lists to arrays."""

import contextlib
import gc
import json
import time
from typing import Any

import numpy as np
import pytest

from deployments.errors import BadRequest
from deployments.protocols.json_bodies import MAX_DIMENSIONS, array_of, parse_json, quoted


def refused(nested: object, dtype: Any = np.float32) -> str:
    with pytest.raises(BadRequest) as refusal:
        array_of(nested, dtype, "data")
    return refusal.value.message


# Texts


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, true, null, "x"]}', "[]", "3", '"x"', " [1]\n", '{"a": 1, "a": 2}'])
def test_a_text_has_the_value_that_json_gives_it(text: str) -> None:
    assert parse_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize(("text", "value"), [("NaN", np.nan), ("Infinity", np.inf), ("-Infinity", -np.inf)])
def test_the_tokens_of_python_and_tensorflow_are_taken(text: str, value: float) -> None:
    np.testing.assert_equal(parse_json(f"[1, {text}]".encode()), [1, value])


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1,]", b"[01]", b"[1] 2", b"\xff", b'"\\ud800"', b"[" * 60_000, b"NaN" + b"[" * 60_000, b"9" * 5000],
    ids=["empty", "open", "comma", "zero", "more", "no text", "surrogate", "deep", "deep with NaN", "digits"],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match="The body is not valid JSON"):
        parse_json(body)


def test_a_refusal_says_where_the_text_goes_wrong() -> None:
    with pytest.raises(BadRequest, match="at character 7"):
        parse_json(b'{"a": 1')


# As many lists as pixels have, and whole or cut.
MANY_LISTS = b"[" + b"[0,0,0]," * 50_000 + b"[0,0,0]]"


@pytest.mark.parametrize("unit", [b"[],", b"[1],", b"[[0]],", b"{},", b'{"a":1},', b"[[[[[", b'"[[[",'])
def test_more_lists_and_objects_than_any_image_needs_are_refused_before_they_are_parsed(unit: bytes) -> None:
    body = b"[" + unit * (10 * 2**20 // len(unit)) + b"0]"
    started = time.process_time()
    with pytest.raises(BadRequest, match="more than any image needs"):
        parse_json(body)
    assert time.process_time() - started < 0.5  # 7 ms when the machine has nothing else to do.


@pytest.mark.parametrize("columns", [2, 3, 30])
def test_lists_of_black_pixels_are_never_too_many(columns: int) -> None:
    picture = [[[0, 0, 0]] * columns] * (200_000 // columns)
    body = json.dumps({"instances": [picture]}, separators=(",", ":")).encode()
    assert len(body) > 2**20
    assert parse_json(body) == {"instances": [picture]}


@pytest.mark.parametrize("body", [MANY_LISTS, MANY_LISTS[:-1]])
def test_garbage_is_collected_again_after_a_large_body(body: bytes) -> None:
    assert gc.isenabled()
    with contextlib.suppress(BadRequest):
        parse_json(body)
    assert gc.isenabled()


def test_no_garbage_is_collected_while_a_large_body_is_parsed() -> None:
    collected: list[str] = []

    def note(phase: str, details: dict[str, int]) -> None:
        collected.append(phase)

    gc.collect()
    gc.callbacks.append(note)
    try:
        parse_json(MANY_LISTS)
        during = list(collected)
    finally:
        gc.callbacks.remove(note)
    # One may follow as soon as it is allowed again; without the pause there are some seventy.
    assert len(during) <= 2


# Arrays


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.uint64, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5,), (1, 3), (2, 3, 4), (2, 1, 3, 2)])
def test_nested_lists_become_the_array_that_they_came_from(shape: tuple[int, ...], dtype: Any) -> None:
    expected = (np.random.default_rng(1).random(shape) * 100).astype(dtype)
    array = array_of(expected.tolist(), dtype, "data")
    np.testing.assert_array_equal(array, expected)
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    assert array.flags.writeable


@pytest.mark.parametrize(
    ("nested", "shape"), [([], (0,)), ([[]], (1, 0)), ([[], []], (2, 0)), ([[[]], [[]]], (2, 1, 0))], ids=str
)
def test_empty_lists_have_a_shape_too(nested: object, shape: tuple[int, ...]) -> None:
    assert array_of(nested, np.uint8, "data").shape == shape


def test_integers_and_floats_may_be_mixed_where_floats_are_wanted() -> None:
    np.testing.assert_array_equal(array_of([[0, 0.5], [1, 1.0]], np.float32, "data"), [[0, 0.5], [1, 1]])


def test_floats_that_are_no_numbers_or_too_large_are_left_to_the_caller() -> None:
    array = array_of([float("nan"), float("inf"), 1e300, -1e300, 10**30], np.float32, "data")
    np.testing.assert_array_equal(array, np.array([np.nan, np.inf, np.inf, -np.inf, 1e30], np.float32))


@pytest.mark.parametrize(
    ("dtype", "limits"), [(np.uint8, (0, 255)), (np.int8, (-128, 127)), (np.uint64, (0, 2**64 - 1))]
)
def test_integers_reach_to_the_limits_of_their_type_and_no_further(dtype: Any, limits: tuple[int, int]) -> None:
    assert array_of(list(limits), dtype, "data").tolist() == list(limits)
    for beyond in (limits[0] - 1, limits[1] + 1):
        assert (
            refused([beyond], dtype) == f"data must be a rectangular list of integers from {limits[0]} to {limits[1]}."
        )


NO_NUMBERS = [
    [True],
    [1, False],
    [None],
    ["1"],
    [[1], "a"],
    ["a", [1]],
    [{"1": 1}],
    [[1], {"1": 1}],
    [[1], {}],
    [[1, 2], [3]],
    [[1], [2, 3]],
    [[1, 2], [3], [4, 5, 6]],
    [[], [1]],
    [1, [2]],
    [[1], 2],
    [[[1]], [2]],
    [[1], [[2]]],
]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
@pytest.mark.parametrize("nested", [*NO_NUMBERS, None, 3, "12", b"12", {"0": 1}, (1, 2)], ids=repr)
def test_what_is_no_rectangular_list_of_numbers_is_refused(nested: object, dtype: Any) -> None:
    assert "data must be a rectangular list of" in refused(nested, dtype)


@pytest.mark.parametrize("value", [0.5, 1.0, float("nan"), float("inf")])
def test_a_float_is_no_integer(value: float) -> None:
    for dtype in (np.uint8, np.int32):
        assert "integers from" in refused([0, value], dtype)


def test_lists_may_be_as_deep_as_any_input_and_no_deeper() -> None:
    nested: object = 1
    for _ in range(MAX_DIMENSIONS):
        nested = [nested]
    assert array_of(nested, np.uint8, "data").ndim == MAX_DIMENSIONS
    refused([nested])


def test_many_empty_lists_cost_no_more_than_as_many_numbers() -> None:
    started = time.process_time()
    refused([[]] * 10**6 + [[1]])
    assert time.process_time() - started < 2


# Values in errors


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("é\n", r"'\xe9\n'"),
        (None, "None"),
        (True, "True"),
        (1.5, "1.5"),
        ([1], "a list"),
        ({"a": 1}, "an object"),
        ("x" * 10**7, "'" + "x" * 96 + "..."),
        ("\U0001f600" * 100, None),
        (int("9" * 1000), "9" * 97 + "..."),
    ],
    ids=lambda value: ascii(value)[:10],
)
def test_a_value_in_an_error_is_short_and_plain(value: object, text: str | None) -> None:
    assert text is None or quoted(value) == text
    assert quoted(value).isascii()
    assert len(quoted(value)) <= 100
