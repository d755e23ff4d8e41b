"""The watchdog ends a process that hangs or crashes, however it does so, and no other. Each test has one of its own."""

import signal
import subprocess
import sys
import time

import pytest

# What the scripts below may take, start included; a process that is not ended would take an hour.
PATIENCE_S = 30.0

CRASHING = """
import ctypes, os, threading
from deployments.watchdog import die_of_crashes
libc = ctypes.CDLL(None)
# A handler that does not come back, in the place of one that spins.
libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
libc.signal({number}, ctypes.cast(libc.pause, ctypes.c_void_p))
die_of_crashes()
thread = threading.Thread(target=lambda: {fault}, name="engine")
thread.start()
thread.join()
"""

WATCHED = """
import asyncio, ctypes, time
from concurrent.futures import ThreadPoolExecutor
from deployments.watchdog import Watchdog

async def batch(watchdog, run):
    with watchdog.batch():
        await asyncio.get_running_loop().run_in_executor(ThreadPoolExecutor(1), run)

def long_batch():
    time.sleep(3600)

def batch_with_gil():
    ctypes.PyDLL(None).sleep(3600)

async def main():
    watchdog = Watchdog(limit_s=0.6)
    watchdog.start()
    await asyncio.sleep(0)
    {body}
    watchdog.stop()
    print("at the end", flush=True)

asyncio.run(main())
"""


def run(script: str) -> tuple[int, str, str, float]:
    """Exit status, stdout, stderr, and seconds that it took."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S)
    return done.returncode, done.stdout, done.stderr, time.monotonic() - started


@pytest.mark.parametrize("crash", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE"])
def test_a_crash_signal_ends_the_process_whatever_handler_was_there(crash: str) -> None:
    number = signal.Signals[crash]
    status, _, stderr, _ = run(CRASHING.format(number=int(number), fault=f"os.kill(os.getpid(), {int(number)})"))
    assert status == -number
    assert "Fatal Python error" in stderr


def test_a_native_fault_in_a_thread_ends_the_process_and_shows_its_stack() -> None:
    status, _, stderr, _ = run(CRASHING.format(number=int(signal.SIGSEGV), fault="ctypes.string_at(0)"))
    assert status == -signal.SIGSEGV
    assert "Segmentation fault" in stderr
    assert "in string_at" in stderr


@pytest.mark.parametrize(
    ("body", "frame"),
    [
        pytest.param("await batch(watchdog, long_batch)", "in long_batch", id="a batch"),
        pytest.param("await batch(watchdog, batch_with_gil)", "in batch_with_gil", id="a batch with the GIL"),
        pytest.param("time.sleep(3600)", "in main", id="the event loop"),
    ],
)
def test_what_hangs_ends_the_process_and_leaves_its_stack(body: str, frame: str) -> None:
    status, stdout, stderr, took_s = run(WATCHED.format(body=body))
    assert status == 1
    assert stdout == ""
    assert frame in stderr
    assert took_s < PATIENCE_S / 2


def test_what_works_or_waits_for_longer_than_the_limit_lives() -> None:
    batches = "[await batch(watchdog, lambda: time.sleep(0.1)) for _ in range(18)]"
    status, stdout, stderr, _ = run(WATCHED.format(body=f"{batches}; await asyncio.sleep(1.8)"))
    assert (status, stdout, stderr) == (0, "at the end\n", "")


def test_a_stopped_watchdog_ends_nothing() -> None:
    body = "watchdog.stop(); time.sleep(1.8); watchdog.start()"
    status, stdout, _, _ = run(WATCHED.format(body=body))
    assert (status, stdout) == (0, "at the end\n")
