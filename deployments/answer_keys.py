"""The keys under which answers are kept: digests of the image and of all else that its answer depends on."""

import asyncio
import hashlib
from typing import Final, NamedTuple

import numpy as np

from deployments.messages import ImageInput, ModelInfo, Prepared

# What is longer is hashed on a thread: SHA-256 takes 0.16 ms for so much, and the way to a thread and back 0.12 ms.
MOST_HASHED_ON_LOOP_BYTES: Final = 256 * 2**10


class Key(NamedTuple):
    """`digest`: SHA-256 of all that the answer depends on, the version itself included."""

    version: int
    digest: bytes


async def key_of(image: ImageInput, info: ModelInfo, generation: int = 0) -> Key:
    """Under which the answer of that version to that image is kept.

    `generation` tells apart what has had the same number one after the other (AnswerCache.generation). What a request
    says otherwise, such as top_k, is applied to the answer afterwards, and is not in it.
    """
    content = image.pixels if isinstance(image, Prepared) else image
    form = None if isinstance(content, bytes) else (content.dtype.str, content.shape)
    parts = (info.name, info.version, generation, info.preprocessing.digest, type(image).__name__, form)

    def digest() -> bytes:
        # A repr has no NUL byte, so that nothing can move from one part into the other.
        hashed = hashlib.sha256(repr(parts).encode() + b"\0")
        hashed.update(content if isinstance(content, bytes) else np.ascontiguousarray(content).data)
        return hashed.digest()

    size_bytes = len(content) if isinstance(content, bytes) else content.nbytes
    if size_bytes <= MOST_HASHED_ON_LOOP_BYTES:
        return Key(info.version, digest())
    return Key(info.version, await asyncio.to_thread(digest))
