"""A process that decodes images which could take it down: too long, too much memory, or a crash of native code.

    python -P -m deployments.decoder LIMITS      settings.Limits as JSON

Requests come on stdin, each is answered on stdout before the next is read, and the process ends with its stdin.

    request   REQUEST, the PreprocessingSpec as JSON, the encoded image
    answer    ANSWER, then what its kind says

It bounds itself by what the kernel enforces, whatever native code does: SIGPROF ends it when an image has used up its
CPU time, SIGALRM when nobody waits for it any longer (so none outlives a service that was killed), and its memory
is limited. It can open no file and no socket. What it answers is not trusted: deployments/decoding.py checks it.
"""

import json
import os
import resource
import signal
import struct
import sys
import traceback
from types import SimpleNamespace
from typing import Any, BinaryIO, Final

from deployments.errors import ApertureError
from deployments.imaging import OUT_OF_MEMORY, preprocess, warm_up

# Seconds of CPU, seconds, bytes of the spec, bytes of the image.
REQUEST: Final = struct.Struct("<ddII")
# The kind, whether the process ends after it, the length of what follows.
ANSWER: Final = struct.Struct("<c?I")
READY: Final = b"!"
PIXELS: Final = b"P"  # uint8 (crop_size, crop_size, 3)
REFUSED: Final = b"R"  # JSON: name of an ApertureError, its message, and what was the cause or null
FAILED: Final = b"F"  # the traceback

# Of all buffers for a picture at the limit: the most was 28 bytes a pixel (WebP with alpha, turned by its EXIF).
MEMORY_BYTES_PER_PIXEL: Final = 32
# The file, and what is made of its metadata: of the text in a PNG, Pillow inflates 64 MiB.
MEMORY_BYTES_PER_BODY: Final = 4
MEMORY_BYTES: Final = 192 * 2**20
# Address space that may stay with the allocator after a picture. With more the process ends, so that the next one has
# what it needs.
KEPT_BYTES: Final = 96 * 2**20


def main(limits_json: str) -> None:
    # The service decides when this ends; a Ctrl-C in its terminal ends the service.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for timer_signal in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(timer_signal, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM, signal.SIGPROF})
    # Native code that prints must not write into an answer, nor fill the service's log.
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    silence = os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, 0)
    os.dup2(silence, 1)
    # As JSON has them; only attributes are read, and pydantic would double the time of a start.
    limits: Any = SimpleNamespace(**json.loads(limits_json))
    warm_up(limits)
    os.dup2(silence, 2)
    memory = _confine(memory_bytes(limits))
    _send(answers, READY, b"")
    _serve(requests, answers, limits, memory)


def memory_bytes(limits: Any) -> int:
    """What a decoder may take on top of what it takes when it is idle."""
    per_image = MEMORY_BYTES_PER_PIXEL * limits.max_pixels + MEMORY_BYTES_PER_BODY * limits.max_body_bytes
    return int(MEMORY_BYTES + per_image)


def _serve(requests: BinaryIO, answers: BinaryIO, limits: Any, memory: "_Memory") -> None:
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        cpu_s, wall_s, spec_bytes, image_bytes = REQUEST.unpack(head)
        spec, image = requests.read(spec_bytes), requests.read(image_bytes)
        if len(image) < image_bytes:
            return
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        signal.setitimer(signal.ITIMER_REAL, wall_s)
        kind, content = _outcome(image, SimpleNamespace(**json.loads(spec)), limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        del image
        _send(answers, kind, content, ends := memory.grown_bytes() > KEPT_BYTES)
        if ends:
            return


def _outcome(image: bytes, spec: Any, limits: Any) -> tuple[bytes, bytes | memoryview]:
    try:
        return PIXELS, preprocess(image, spec, limits).data.cast("B")
    except ApertureError as refusal:
        cause = None if refusal.__cause__ is None else repr(refusal.__cause__)[:1000]
        return REFUSED, json.dumps([type(refusal).__name__, refusal.message, cause]).encode()
    except MemoryError as err:
        return REFUSED, json.dumps(["CorruptImage", OUT_OF_MEMORY, repr(err)]).encode()
    except Exception:
        return FAILED, traceback.format_exc()[-4000:].encode(errors="replace")


def _send(answers: BinaryIO, kind: bytes, content: bytes | memoryview, ends: bool = False) -> None:
    parts = ANSWER.pack(kind, ends, len(content)), content
    for part in parts:
        rest = memoryview(part)
        while rest:
            rest = rest[answers.write(rest) :]


def _confine(more_bytes: int) -> "_Memory":
    memory = _Memory()
    if memory.before_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory.before_bytes + more_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Of those that are open already none is closed.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    return memory


class _Memory:
    """The process's address space; on systems without /proc it is not known, and not limited."""

    def __init__(self) -> None:
        try:
            self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        except OSError:
            self._statm = -1
        self.before_bytes = self._bytes()

    def grown_bytes(self) -> int:
        return self._bytes() - self.before_bytes

    def _bytes(self) -> int:
        if self._statm < 0:
            return 0
        return int(os.pread(self._statm, 100, 0).split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main(sys.argv[1])
