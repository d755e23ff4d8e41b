"""JSON bodies: parsed fast, because the event loop waits meanwhile (the GIL makes a thread useless)."""

import json
from typing import Any

import orjson

from deployments.errors import BadRequest


def parse_json(body: bytes) -> Any:
    """The value of a JSON text. NaN and Infinity are taken as TensorFlow Serving takes them. Raises BadRequest."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as err:
        if b"NaN" not in body and b"Infinity" not in body:
            raise BadRequest(f"The body is not valid JSON: {_short(err)}.") from err
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as err:
        raise BadRequest("The body is not valid JSON.") from err


def _short(err: orjson.JSONDecodeError) -> str:
    return f"{err.msg.split(':')[0]} at character {err.pos}"
