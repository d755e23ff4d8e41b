"""Content codings of HTTP bodies, RFC 9110 section 8.4: gzip and deflate, the two that Triton's clients use.

On the event loop: 10 MB take some 30 ms, and a body that grows beyond the limit is given up as soon as it does.
"""

import zlib
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from deployments.errors import BadRequest, BodyTooLarge, UnsupportedFormat
from deployments.protocols.json_bodies import quoted

# zlib's window bits: 16 more for the gzip format, negative for deflate without any.
WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
BARE_DEFLATE: Final = -zlib.MAX_WBITS
# What fits into one packet of an Ethernet does not get there sooner by being smaller.
MIN_COMPRESSED_BYTES: Final = 1400
# The fastest. Logits hardly compress, and their JSON does almost as well as at level 6.
LEVEL: Final = 1


class UnsupportedEncoding(UnsupportedFormat):
    code = "unsupported_encoding"


async def read_body(request: Request, max_body_bytes: int) -> bytes:
    """The body without its content coding.

    Raises UnsupportedEncoding, BadRequest for a corrupt body, or BodyTooLarge, also for what it would decompress to.
    """
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity", *WINDOW_BITS):
        raise UnsupportedEncoding(f"A body may have the content encoding gzip or deflate, not {quoted(coding)}.")
    body = await request.body()
    return decompressed(body, coding, max_body_bytes) if coding in WINDOW_BITS else body


def decompressed(body: bytes, coding: str, max_body_bytes: int) -> bytes:
    """Raises BadRequest or BodyTooLarge."""
    # Some clients take "deflate" by its name and leave out the zlib format around it.
    is_bare = coding == "deflate" and not _is_zlib(body)
    try:
        stream = zlib.decompressobj(BARE_DEFLATE if is_bare else WINDOW_BITS[coding])
        content = stream.decompress(body, max_body_bytes + 1)
    except zlib.error as err:
        raise BadRequest(f"The body is not valid {coding}.") from err
    if len(content) > max_body_bytes:
        raise BodyTooLarge(f"The body is larger than the {max_body_bytes} bytes that this service accepts, unpacked.")
    if not stream.eof:
        raise BadRequest(f"The body ends before its {coding} stream does.")
    # A second gzip member among them: no client that infers sends one, and a million empty ones would take long.
    if stream.unused_data:
        raise BadRequest(f"The body goes on after the end of its {coding} stream.")
    return content


def compress(response: Response, accept_encoding: str) -> Response:
    """The response itself, its body now with a content coding that the client accepts, if it is worth it."""
    accepted = _accepted(accept_encoding)
    if not accepted or len(response.body) < MIN_COMPRESSED_BYTES:
        return response
    stream = zlib.compressobj(LEVEL, wbits=WINDOW_BITS[accepted])
    response.body = stream.compress(response.body) + stream.flush()
    response.headers["content-encoding"] = accepted
    response.headers["content-length"] = str(len(response.body))
    return response


def _is_zlib(body: bytes) -> bool:
    # RFC 1950: method 8 in the low bits of the first byte, and the first two as a number are a multiple of 31.
    return body[:1] != b"" and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0


def _accepted(accept_encoding: str) -> str | None:
    """gzip or deflate, whichever is named first with a weight that is not 0."""
    for item in accept_encoding.lower().split(","):
        coding, _, weight = item.partition(";")
        if coding.strip() in ("gzip", "deflate") and weight.replace(" ", "").rstrip("0") not in ("q=", "q=0."):
            return coding.strip()
    return None
