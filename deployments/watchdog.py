"""What ends a replica's process that cannot be saved: a native crash, a hung batch, a stuck event loop.

A dead process is noticed and replaced, and what it had is asked of another one (hops.py). One that hangs keeps its
requests, and so does one that spins in a crash handler after its heap is broken.

Time is this machine's monotonic clock, which stands still while the machine is suspended. It goes on while the process
alone is stopped (a debugger, SIGSTOP, a frozen container): after a stop longer than the limit the process ends as soon
as it is continued, since nobody got an answer from it meanwhile. To debug a replica, raise models.hang_timeout_s.
"""

import asyncio
import ctypes
import faulthandler
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

logger = logging.getLogger("ray.serve")

CRASHES: Final = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
# Ray keeps what a worker writes there in the session's logs/worker-*.err.
STDERR: Final = 2
# How often the timer is set anew: a thread is started for it, in some 0.1 ms.
TICK_S: Final = 1.0


def die_of_crashes() -> None:
    """From now on a native crash writes its thread's stack of Python to stderr and ends the process at once.

    Ray installs a handler of its own that does more, which can hang for minutes when the heap is broken.
    """
    # Python's own handler first takes itself back and then raises the signal again, so that a second crash in the
    # midst of writing the stack ends the process, too. It has to see the default as what was there before.
    faulthandler.disable()
    libc = ctypes.CDLL(None)
    # Not signal.signal, which only the main thread may call.
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p
    for crash in CRASHES:
        libc.signal(crash, None)  # SIG_DFL is a null pointer.
    # Other threads go on meanwhile, and reading their stacks would be another crash.
    faulthandler.enable(STDERR, all_threads=False)


def end_process(reason: str) -> NoReturn:
    """Ends this process without any clean-up, which might hang; `reason` and all stacks are in its logs."""
    logger.critical("This replica ends itself: %s", reason)
    # Serve's production profile writes the log in blocks.
    for handler in logger.handlers:
        handler.flush()
    faulthandler.dump_traceback(STDERR, all_threads=True)
    os._exit(1)


class Watchdog:
    """Ends the process when a batch has run for longer than `limit_s` seconds, or the event loop has stood still.

    Also when native code holds the GIL: the timer is a thread of C. There is one to a process.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._started: dict[object, float] = {}  # of the batches that run now
        self._ticker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """To be called on the event loop that is watched, once loading, compiling and warming up are done; or again.

        From then on native crashes end the process, too, whatever handlers libraries have installed meanwhile.
        """
        if self._ticker is None:
            die_of_crashes()
            self._ticker = asyncio.create_task(self._tick())

    def allow(self, limit_s: float) -> None:
        """From now on a batch may take so long, if that is longer than it was allowed."""
        self._limit_s = max(self._limit_s, limit_s)

    def stop(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        faulthandler.cancel_dump_traceback_later()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Watches what the block does, on the event loop, for its time."""
        key = object()
        self._started[key] = time.monotonic()
        try:
            yield
        finally:
            del self._started[key]

    @property
    def is_busy(self) -> bool:
        """Whether a batch is running, and not for too long."""
        return bool(self._started)

    async def _tick(self) -> None:
        period_s = min(TICK_S, self._limit_s / 2)
        while True:
            # Of a loop that stands still nothing else is known, so that this is when it does so for too long. A batch
            # that holds the GIL began after the last tick.
            faulthandler.dump_traceback_later(self._limit_s + TICK_S, exit=True, file=STDERR)
            slept = time.monotonic()
            await asyncio.sleep(period_s)
            self._forgive(time.monotonic() - slept - period_s)
            self._end_if_hung()

    def _forgive(self, late_s: float) -> None:
        """When this loop did not run, the machine was short of cores, and batches did not get on either."""
        for key in self._started:
            self._started[key] += max(0.0, late_s)

    def _end_if_hung(self) -> None:
        oldest = min(self._started.values(), default=None)
        if oldest is not None and (age_s := time.monotonic() - oldest) > self._limit_s:
            end_process(f"a batch has been running for {age_s:.1f} s, longer than the {self._limit_s:g} s allowed.")
