"""The near side of deployments/decoder.py: a process that decodes, and what its answers and its end mean.

What a decoder sends is not trusted, since it has had hostile bytes in native code.
"""

import contextlib
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np

from deployments import errors
from deployments.decoder import ANSWER, FAILED, PIXELS, READY, REFUSED, REQUEST
from deployments.errors import (
    ApertureError,
    CorruptImage,
    DeadlineExceeded,
    DecodeTimedOut,
    ImageRefused,
    UnsupportedFormat,
)
from deployments.messages import Pixels
from deployments.metrics import count_decoder_stopped
from deployments.settings import Limits, PreprocessingSpec

logger = logging.getLogger("ray.serve")

ROOT: Final = Path(__file__).resolve().parents[1]
# Nothing else of the environment, where secrets may be.
INHERITED_VARIABLES: Final = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
VARIABLES: Final = {
    # numpy's pool of threads, which nothing here uses, would take from the memory.
    "OPENBLAS_NUM_THREADS": "1",
    # glibc: the buffers of large pictures are given back to the system. By default the heap keeps some.
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
}
# The most that an unprivileged process may ask for (/proc/sys/fs/pipe-max-size): most images then need one write.
PIPE_BYTES: Final = 2**20
# Of a refusal or a traceback.
MAX_TEXT_BYTES: Final = 2**16

NOT_DECODED: Final = "The image cannot be decoded."


class Lost(Exception):
    """The process has ended, and the image had no part in it."""


class DecoderProcess:
    """Belongs to one thread, except for `kill`."""

    def __init__(self, limits: Limits) -> None:
        """Returns once the process is ready. Raises RuntimeError or OSError."""
        command = [sys.executable, "-P", "-m", "deployments.decoder", limits.model_dump_json()]
        environment = {name: os.environ[name] for name in INHERITED_VARIABLES if name in os.environ}
        environment |= VARIABLES | {"PYTHONPATH": str(ROOT)}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
        self._process: subprocess.Popen[bytes] = subprocess.Popen(command, env=environment, **pipes)
        self._requests, self._answers = (cast("IO[bytes]", it) for it in (self._process.stdin, self._process.stdout))
        self.has_ended = self._was_killed = False
        for pipe in (self._requests, self._answers):
            with contextlib.suppress(OSError, AttributeError):  # Not on every system, and not without limit.
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        if self._answer({READY: 0}) is None:
            raise RuntimeError(f"A decoder did not start; it ended with status {self._end()}.")

    def preprocess(self, image: bytes, spec: PreprocessingSpec, cpu_s: float, wall_s: float) -> Pixels | ApertureError:
        """As imaging.preprocess, but refusals are returned. The process ends itself when it has used `cpu_s` or after
        `wall_s`, and on what else becomes of it with this image.

        Raises Lost, or RuntimeError for a failure inside the process.
        """
        text = spec.model_dump_json().encode()
        try:
            _write(self._requests, REQUEST.pack(cpu_s, wall_s, len(text), len(image)) + text)
            _write(self._requests, image)
        except BrokenPipeError:  # It touches no image before it has read all of it.
            raise Lost(f"it ended while it was idle ({self._end()})") from None
        answer = self._answer({PIXELS: 3 * spec.crop_size**2, REFUSED: MAX_TEXT_BYTES, FAILED: MAX_TEXT_BYTES})
        if answer is None:
            return self._refusal_of_end(cpu_s)
        kind, content = answer
        if kind == FAILED:
            raise RuntimeError(f"A decoder failed: {content.decode(errors='replace')}")
        if kind == REFUSED:
            return _refusal(content)
        if len(content) < 3 * spec.crop_size**2:
            self.close()
            return CorruptImage(NOT_DECODED)
        return np.frombuffer(content, np.uint8).reshape(spec.crop_size, spec.crop_size, 3)

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """Ends the process and waits until it has ended."""
        self.kill()
        self._end()

    def kill(self) -> None:
        """Ends the process; from any thread."""
        self._was_killed = True
        self._process.kill()

    def _answer(self, known: Mapping[bytes, int]) -> tuple[bytes, bytearray] | None:
        """The kind and content of what comes, or None if the process has ended or makes no sense.

        known: the kinds that may come, and the most bytes of each.
        """
        head = _read(self._answers, ANSWER.size)
        if len(head) < ANSWER.size:
            return None
        kind, is_last, size = ANSWER.unpack(head)
        if size > known.get(kind, -1):
            self.kill()
            return None
        content = _read(self._answers, size)
        if is_last:
            self._end()
        return (kind, content) if len(content) == size else None

    def _refusal_of_end(self, cpu_s: float) -> ApertureError:
        """Raises Lost."""
        status = self._end()
        if status == -signal.SIGPROF:
            count_decoder_stopped("too_slow")
            return DecodeTimedOut(f"The image takes more than {cpu_s:g} s to decode.")
        if status == -signal.SIGALRM:
            count_decoder_stopped("expired")
            return DeadlineExceeded("The deadline passed while the image was decoded.")
        if status == -signal.SIGKILL and not self._was_killed:
            count_decoder_stopped("lost")
            raise Lost("it was killed from outside")
        count_decoder_stopped("abandoned" if status == -signal.SIGKILL else "crashed")
        logger.warning("A decoder ended with status %d, and its image was refused", status)
        return CorruptImage(NOT_DECODED)

    def _end(self) -> int:
        """The status that the process ends with, which it does now."""
        self.has_ended = True
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        self._answers.close()
        return self._process.wait()


def _refusal(content: bytearray) -> ApertureError:
    try:
        name, message, cause = json.loads(content)
        kind = getattr(errors, name)
        if not issubclass(kind, ImageRefused | UnsupportedFormat):
            raise TypeError(name)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return CorruptImage(NOT_DECODED)
    if cause is not None:
        logger.info("Refused an image: %s (%s)", message, cause)
    refusal: ApertureError = kind(str(message))
    return refusal


def _write(pipe: IO[bytes], content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[pipe.write(rest) :]


def _read(pipe: IO[bytes], size: int) -> bytearray:
    """`size` bytes, or fewer if the pipe ends before."""
    content = bytearray(size)
    view, got = memoryview(content), 0
    while got < size and (count := os.readv(pipe.fileno(), [view[got:]])):
        got += count
    return content if got == size else content[:got]
