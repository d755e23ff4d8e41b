"""Images in JSON: base64, data URLs, and URLs that the data plane fetches."""

import asyncio
import base64
import binascii
from collections.abc import Sequence

from deployments.errors import ApertureError, BadRequest, BodyTooLarge
from deployments.messages import DataPlane
from deployments.protocols.json_bodies import quoted


def image_of(text: object, what: str = "An image in JSON") -> bytes:
    """The image that `text` is in base64. Raises BadRequest, which calls it `what`."""
    if not isinstance(text, str) or not text:
        raise BadRequest(f"{what} must be a base64 string.")
    try:
        # Without the line breaks of `base64 FILE` and of MIME.
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as err:
        raise BadRequest(f"{what} must be a base64 string; this one has other characters or padding.") from err


def image_or_refusal(text: object) -> bytes | BadRequest:
    """The image, or in its place among others the reason why it is none."""
    try:
        return image_of(text)
    except BadRequest as refusal:
        return refusal


def image_of_data_url(url: str) -> bytes:
    """RFC 2397, in base64; the media type does not matter. Raises BadRequest."""
    head, comma, text = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise BadRequest(f"A data URL begins with data:image/TYPE;base64, and not with {quoted(url[:40])}.")
    return image_of(text, "The image in a data URL")


async def fetched(plane: DataPlane, urls: Sequence[object]) -> list[bytes | ApertureError]:
    """The images at `urls`, each fetched or with its own error; together no larger than a body may be."""
    allowed_bytes, total_bytes = plane.limits.max_body_bytes, 0

    async def fetch(url: object) -> bytes | ApertureError:
        nonlocal total_bytes
        if not isinstance(url, str):
            return BadRequest(f"The URL of an image must be a string, not {quoted(url)}.")
        if total_bytes > allowed_bytes:
            return _too_large_together(allowed_bytes)
        image = await plane.fetch(url)
        if isinstance(image, ApertureError):
            return image
        total_bytes += len(image)
        return image if total_bytes <= allowed_bytes else _too_large_together(allowed_bytes)

    return await asyncio.gather(*map(fetch, urls))


def _too_large_together(allowed_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The images at the URLs have together more than the {allowed_bytes} bytes of one request.")
