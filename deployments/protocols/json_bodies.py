"""JSON bodies: parsed fast, because the event loop waits meanwhile (the GIL makes a thread useless).

Seconds go where many small lists are made, so nested lists become arrays by being flattened level by level.
"""

import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import JSONResponse

from deployments.errors import BadRequest

Number = TypeVar("Number", bound=np.number[Any])

# More than any input has; deeper lists would only cost time.
MAX_DIMENSIONS: Final = 8
# A body that is smaller makes too few objects for the collector to run often, or for anything to take long.
COLLECTED_BYTES: Final = 2**16
# Of a larger body, bytes for each list in it: pixels have 8 ("[0,0,0],"), and those of a picture two columns wide, with
# the lists around them, 6. "[[]]," would keep the event loop for thrice the time of a picture of the same length.
BYTES_PER_LIST: Final = 6
# A request has some for each of its images; millions of empty ones would be parsed for half a second.
MAX_OBJECTS: Final = 10_000


def parse_json(body: bytes) -> Any:
    """The value of a JSON text. NaN and Infinity are taken as TensorFlow Serving takes them. Raises BadRequest."""
    if len(body) >= COLLECTED_BYTES:
        _check_counts(body)
    with _uncollected(len(body)):
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as err:
            if b"NaN" not in body and b"Infinity" not in body:
                raise BadRequest(f"The body is not valid JSON: {_short(err)}.") from err
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as err:
            raise BadRequest("The body is not valid JSON.") from err


def parse_object(body: bytes, content: str) -> dict[str, Any]:
    """As `parse_json` for a body that must be an object with `content`, in words for the client."""
    parsed = parse_json(body)
    if not isinstance(parsed, dict):
        raise BadRequest(f"A JSON body must be an object with {content}.")
    return parsed


def array_of(nested: object, dtype: type[Number], what: str) -> NDArray[Number]:
    """Nested lists of numbers as an array of that dtype: rectangular, C-contiguous and writable.

    Booleans, texts and nulls are no numbers. For an integer dtype each must be an integer within its range; for a
    floating one NaN and infinity pass, and what is too large for it becomes infinite. `what` names the lists to the
    client. Raises BadRequest.
    """
    refusal = BadRequest(f"{what} must be a rectangular list of {_kind(dtype)}.")
    flat, shape = _flattened(nested, refusal)
    is_float = issubclass(dtype, np.floating)
    # By type, since numpy takes true for 1 and "2" for 2.
    if not set(map(type, flat)) <= ({int, float} if is_float else {int}):
        raise refusal
    try:
        if dtype is np.uint8:
            return np.frombuffer(bytearray(flat), dtype).reshape(shape)  # Several times as fast as fromiter.
        with np.errstate(over="ignore"):
            return np.fromiter(flat, dtype, len(flat)).reshape(shape)
    except (ValueError, OverflowError):
        raise refusal from None


class ArrayResponse(JSONResponse):
    """JSON of content that may have C-contiguous arrays in it; float32 is written as short as it can be read back."""

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def quoted(value: object) -> str:
    """A value of the client's as an error repeats it: cut to 100 characters, and text that any terminal can show."""
    # repr of what was parsed may be as long as the body.
    text = ascii(value[:100] if isinstance(value, str | bytes) else value) if _is_plain(value) else _type_name(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _check_counts(body: bytes) -> None:
    characters = np.frombuffer(body, np.uint8)  # Counts 10 MB in 3 ms, bytes.count in 10.
    lists, objects = (int(np.count_nonzero(characters == ord(bracket))) for bracket in "[{")
    if lists > len(body) // BYTES_PER_LIST or objects > MAX_OBJECTS:
        raise BadRequest(f"The body has {lists} lists and {objects} objects, which are more than any image needs.")


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | bytes | int | float)


def _type_name(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else type(value).__name__


def _flattened(nested: object, refusal: BadRequest) -> tuple[Sequence[Any], tuple[int, ...]]:
    """The innermost items and the shape. Items that are no numbers may be among them, as lists or as anything else."""
    if not isinstance(nested, list):
        raise refusal
    level: list[Any] = nested
    shape = [len(level)]
    while level and isinstance(level[0], list):
        try:
            lengths = set(map(len, level))
        except TypeError:  # A number among the lists.
            raise refusal from None
        if len(lengths) > 1 or len(shape) == MAX_DIMENSIONS:
            raise refusal
        shape += lengths
        # Of texts and objects, if there are any among the lists, this takes the characters and the keys, no numbers.
        level = list(chain.from_iterable(level))
    return level, tuple(shape)


def _kind(dtype: type[np.number[Any]]) -> str:
    if issubclass(dtype, np.floating):
        return "numbers"
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    return f"integers from {limits.min} to {limits.max}"


@contextmanager
def _uncollected(size_bytes: int) -> Iterator[None]:
    """Without garbage collection, which would walk over a million new lists again and again and find nothing.

    JSON has no cycles, and next to nothing else runs meanwhile: the parsers keep the GIL.
    """
    if size_bytes < COLLECTED_BYTES or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _short(err: orjson.JSONDecodeError) -> str:
    return f"{err.msg.split(':')[0]} at character {err.pos}"
