"""Files in a multipart/form-data body (RFC 7578)."""

from collections.abc import AsyncGenerator

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from deployments.errors import BadRequest


async def files_in(content_type: str, body: bytes) -> list[tuple[str | None, bytes]]:
    """File names and contents, in the order sent. Raises BadRequest."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    # The parser drops a last file whose end is missing, and the answer would have a result too few.
    if boundary and b"--" + boundary + b"--" not in body:
        raise BadRequest("The multipart body ends before its closing boundary.")

    async def whole_body() -> AsyncGenerator[bytes, None]:
        yield body

    # The boundary alone: a charset, which HTML forms do not send, could name any of Python's codecs.
    headers = Headers(raw=[(b"content-type", b'multipart/form-data; boundary="%s"' % boundary if boundary else b"")])
    parser = MultiPartParser(headers, whole_body())
    parser.spool_max_size = len(body) + 1  # The body is in memory already; nothing is to go to a disk.
    try:
        form = await parser.parse()
    except MultiPartException as err:
        raise BadRequest(f"The multipart body is malformed: {err.message}") from err
    try:
        return [(part.filename, await part.read()) for _, part in form.multi_items() if isinstance(part, UploadFile)]
    finally:
        await form.close()
