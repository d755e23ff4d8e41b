"""Heat maps for one model, made in a process of their own (explaining.py), which gives way to those that serve.

Whatever engine answers, a heat map is made of the eager float32 network of the same weights, on one thread of the CPU:
the network that the engine was compared with when it was loaded. A replica that serves may not have torch in it, and
loading that beside batches would hold them up; so would its memory stay. The process is started by the first request,
keeps one network, and ends when nobody has asked for IDLE_S. The system ends it before any other when memory runs out,
and its crash is not the replica's. It does not import Ray.

It is not started unless there is room for what memory.py says that loading the version takes, at most. What it has
taken of its own memory (RssAnon) after three heat maps, images of the model's own size, torch 2.15:

    the bundled model 394 MiB    ResNet-18 438 MiB    ResNet-50 504 MiB    VGG-16 (528 MiB of weights) 968 MiB
"""

import asyncio
import json
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deployments.deadlines import within
from deployments.engines.explaining import ANSWER, FAILED, HEAT, MAX_TEXT_BYTES, READY, REFUSED, REQUEST
from deployments.engines.memory import check_fits
from deployments.engines.rehearsal import ROOT, end_group
from deployments.errors import ApertureError, ConfigError, InferenceFailed, NotExplainable, Overloaded
from deployments.messages import ModelInfo, Pixels
from deployments.settings import ModelSettings

logger = logging.getLogger("ray.serve")

Heat = NDArray[np.float32]  # (h, w) in [0, 1]

# Of a side: what is larger has hardly been pooled, and would hold the Ingress' loop while it is written.
MAX_SIDE: Final = 128
# Torch took six seconds of a core to load, and a hundred on two cores that a dozen processes wanted.
START_TIMEOUT_S: Final = 300.0
# One image took VGG-16 seven seconds on such a machine.
ANSWER_TIMEOUT_S: Final = 60.0
# Somebody who tries images on the page asks again within minutes, and until then its memory is taken.
IDLE_S: Final = 120.0
# When one who was refused finds it free, if the process is running.
RETRY_S: Final = 1.0
NO_MEMORY_RETRY_S: Final = 60.0


class Explainer:
    """Of one model; one heat map at a time. For one event loop."""

    def __init__(self, settings: ModelSettings, idle_s: float = IDLE_S) -> None:
        # A GPU has its memory for those that serve.
        self._settings = settings.model_copy(update={"device": "cpu"})
        self._idle_s = idle_s
        self._making: asyncio.Task[Heat] | None = None
        self._process: Process | None = None
        self._of: ModelInfo | None = None
        self._refused: tuple[ModelInfo, str] | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    async def explain(self, info: ModelInfo, pixels: Pixels, index: int, timeout_s: float) -> Heat:
        """Where in `pixels` the network of that version finds what speaks for the class `index`: float32 (h, w).

        `info` is what the version was announced with. Raises NotExplainable, Overloaded while another one is made or
        memory is short, InferenceFailed, or DeadlineExceeded; then it goes on, and the next one is refused until it is
        done.
        """
        if info.engine == "dummy":
            raise NotExplainable(f"The model {info.name!r} has no network, and so no heat maps.")
        if self._refused is not None and self._refused[0] is info:
            raise NotExplainable(self._refused[1])
        if self._making is not None and not self._making.done():
            raise Overloaded("Another heat map of this model is being made; try again.", RETRY_S)
        if self._ending is not None:
            self._ending.cancel()
        # Its own: whoever asked may leave, and what was begun has to be read to its end.
        self._making = asyncio.create_task(self._made(info, pixels, index))
        self._making.add_done_callback(self._done)
        async with within(timeout_s):
            return await asyncio.shield(self._making)

    async def close(self) -> None:
        process, self._process, self._of = self._process, None, None
        if process is not None:
            await end_group(process)

    def _done(self, making: "asyncio.Task[Heat]") -> None:
        if not making.cancelled():
            making.exception()  # Asked for, it is no longer one that nobody has heard of.
            self._ending = asyncio.create_task(self._end_when_idle())

    async def _end_when_idle(self) -> None:
        await asyncio.sleep(self._idle_s)
        await self.close()

    async def _made(self, info: ModelInfo, pixels: Pixels, index: int) -> Heat:
        try:
            process = await self._started(info)
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await _heat_of(process, pixels, index)
        except NotExplainable as refusal:
            self._refused = info, refusal.message
            raise
        except ApertureError:
            raise
        except (OSError, EOFError, ValueError, TimeoutError) as err:
            logger.error("The process that makes heat maps of %s was lost: %r", info.name, err)
            await self.close()
            raise InferenceFailed("The heat map could not be made.") from None

    async def _started(self, info: ModelInfo) -> Process:
        """The process with that version's network, which may be there already."""
        if self._process is not None and self._of is info and self._process.returncode is None:
            return self._process
        await self.close()
        try:
            await asyncio.to_thread(check_fits, self._settings, info.version)
        except ConfigError as err:
            logger.warning("No heat map: %s", err)
            raise Overloaded("The service has no memory to spare for heat maps now.", NO_MEMORY_RETRY_S) from None
        self._process, self._of = await _start(), info
        start = {
            "settings": self._settings.model_dump(mode="json"),
            "version": info.version,
            "parent": os.getpid(),
        }
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await _send(self._process, json.dumps(start).encode() + b"\n")
                await _answer(self._process, READY)
        except ApertureError:
            await self.close()
            raise
        return self._process


async def _start() -> Process:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-P", "-m", "deployments.engines.explaining"]
    return await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, env=environment, start_new_session=True
    )


async def _heat_of(process: Process, pixels: Pixels, index: int) -> Heat:
    await _send(process, REQUEST.pack(index, len(pixels)) + np.ascontiguousarray(pixels).tobytes())
    content, rows, columns = await _answer(process, HEAT)
    return np.frombuffer(content, np.float32).reshape(rows, columns)


async def _send(process: Process, content: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(content)
    await process.stdin.drain()


async def _answer(process: Process, kind: bytes) -> tuple[bytes, int, int]:
    """What follows an answer of that kind. Raises NotExplainable or InferenceFailed for another one, EOFError if the
    process has ended, or ValueError if it makes no sense.
    """
    assert process.stdout is not None
    came, rows, columns = ANSWER.unpack(await process.stdout.readexactly(ANSWER.size))
    if came in (REFUSED, FAILED) and rows <= MAX_TEXT_BYTES:
        text = (await process.stdout.readexactly(rows)).decode(errors="replace")
        if came == REFUSED:
            raise NotExplainable(text)
        logger.error("A heat map failed: %s", text)
        raise InferenceFailed("The heat map could not be made.")
    if came != kind or max(rows, columns) > MAX_SIDE:
        raise ValueError(f"It answered {came!r} with {rows} x {columns}.")
    return await process.stdout.readexactly(4 * rows * columns), rows, columns
