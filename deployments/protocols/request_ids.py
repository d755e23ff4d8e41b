"""Names of requests, which clients may choose and logs repeat."""

import hashlib
import re
from typing import Final

# What ids are made of anywhere (UUIDs, ULIDs, W3C trace ids, AWS's Root=...), but nothing that a log, a terminal or a
# shell would read as more than a name; and no longer than two of the longest.
SAFE: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def is_safe(request_id: str) -> bool:
    return SAFE.fullmatch(request_id) is not None


def made_safe(request_id: str) -> str:
    """The id itself, or in place of one that is not safe another, the same for the same."""
    if is_safe(request_id):
        return request_id
    return f"unsafe-{hashlib.sha256(request_id.encode(errors='surrogateescape')).hexdigest()[:32]}"
