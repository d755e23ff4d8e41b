"""Images are decoded in threads or in processes, whichever it is with the same result; processes can be stopped."""

import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.image_files import encode, noise
from deployments import decoding
from deployments.decoding import Decoded, Decoders
from deployments.errors import (
    ApertureError,
    CorruptImage,
    DeadlineExceeded,
    DecodeTimedOut,
    InferenceFailed,
    UnsupportedFormat,
)
from deployments.imaging import preprocess
from deployments.metrics import DECODERS_STOPPED
from deployments.settings import Limits, PreprocessingSpec
from tests.awaiting import await_condition
from tests.unit.hostile import SLOW

ROOT = Path(__file__).resolve().parents[2]
SPEC = PreprocessingSpec(resize_size=64, crop_size=56)
# Decoded by a process, whatever it is that they need.
WEBP, SLOW_FILE = encode(noise(80, 60), "WEBP"), SLOW["JPEG of filling"]
PHOTOGRAPH = encode(noise(80, 60), "JPEG")
LONG_S = 60.0
FILES = {
    "JPEG": PHOTOGRAPH,
    "JPEG, progressive": encode(noise(300, 200), "JPEG", progressive=True),
    "JPEG, large": encode(noise(1700, 1300), "JPEG", quality=30),
    "JPEG, CMYK": encode(noise(80, 60, "CMYK"), "JPEG"),
    "MPO": encode(noise(80, 60), "MPO", save_all=True, append_images=[noise(16, 16)]),
    "PNG": encode(noise(80, 60), "PNG"),
    "PNG, alpha": encode(noise(80, 60, "RGBA"), "PNG"),
    "WebP": WEBP,
    "WebP, alpha": encode(noise(80, 60, "RGBA"), "WEBP"),
    "GIF": encode(noise(80, 60, "P"), "GIF", transparency=1),
    "BMP": encode(noise(80, 60), "BMP"),
    "TIFF, LZW": encode(noise(80, 60), "TIFF", compression="tiff_lzw"),
    "TIFF, JPEG": encode(noise(80, 60), "TIFF", compression="jpeg"),
    "nothing": b"",
    "half a PNG": encode(noise(80, 60), "PNG")[:4000],
    "half a WebP": WEBP[: len(WEBP) // 2],
    "a text": b"hello, world",
}


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    decoders = Decoders(Limits(), threads=1)
    yield decoders
    decoders.close()


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The places and reasons that were counted."""
    counted: list[tuple[str, str]] = []
    monkeypatch.setattr(decoding, "count_dropped", lambda place, reason: counted.append((place, reason)))
    return counted


def decoded(decoders: Decoders, data: bytes, spec: PreprocessingSpec = SPEC, budget_s: float = LONG_S) -> Decoded:
    return asyncio.run(decoders.preprocess(data, spec, time.monotonic() + budget_s))


def pids(decoders: Decoders) -> list[int]:
    return [process.pid for process in decoders.processes() if not process.has_ended]


def is_running(pid: int) -> bool:
    """Zombies are not: who their parent is depends on the machine."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def while_busy(limits: Limits, act: Callable[[Decoders, int], Awaitable[None]], data: bytes = SLOW_FILE) -> Decoded:
    """The outcome of `data` if `act` is called, with the process's id, once it is being decoded."""

    async def run() -> Decoded:
        decoders = Decoders(limits, threads=1)
        task = asyncio.create_task(decoders.preprocess(data, SPEC, time.monotonic() + LONG_S))
        try:
            while not (running := [pid for pid in pids(decoders) if cpu_s(pid) > 0.6]):
                assert not task.done()
                await asyncio.sleep(0.02)
            await act(decoders, running[0])
            return await task
        finally:
            decoders.close()

    return asyncio.run(run())


def cpu_s(pid: int) -> float:
    """A process has used a third of a second when it begins with its first image."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Which, and with what result


@pytest.mark.parametrize("fidelity", ["exact", "fast"])
@pytest.mark.parametrize("what", FILES)
def test_an_image_has_the_same_result_wherever_it_is_decoded(decoders: Decoders, what: str, fidelity: str) -> None:
    spec = SPEC.model_copy(update={"fidelity": fidelity})
    outcome = decoded(decoders, FILES[what], spec).outcome
    if isinstance(outcome, ApertureError):
        with pytest.raises(type(outcome), match=re.escape(str(outcome))):
            preprocess(FILES[what], spec, Limits())
    else:
        np.testing.assert_array_equal(outcome, preprocess(FILES[what], spec, Limits()))


def test_ordinary_photographs_arrays_and_what_is_no_image_need_no_process() -> None:
    decoders = Decoders(Limits(), threads=1)
    for what in ("JPEG", "JPEG, progressive", "PNG", "PNG, alpha"):
        assert isinstance(decoded(decoders, FILES[what]).outcome, np.ndarray)
    for what in ("nothing", "a text"):
        assert isinstance(decoded(decoders, FILES[what]).outcome, UnsupportedFormat)
    pixels = np.zeros((20, 30, 3), np.uint8)
    outcome = asyncio.run(decoders.preprocess(pixels, SPEC, time.monotonic() + LONG_S)).outcome
    np.testing.assert_array_equal(outcome, np.zeros((56, 56, 3)))
    assert not decoders.processes()
    decoders.close()


def test_no_more_processes_than_threads_and_no_other_for_each_image(decoders: Decoders) -> None:
    async def many() -> None:
        await asyncio.gather(*(decoders.preprocess(WEBP, SPEC, time.monotonic() + LONG_S) for _ in range(20)))

    asyncio.run(many())
    before = pids(decoders)
    asyncio.run(many())
    assert pids(decoders) == before
    assert len(before) == 1


def test_a_process_knows_no_secret_and_can_open_nothing(decoders: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APERTURE_KEYS", "a secret")
    own = Decoders(Limits(), threads=1)
    decoded(own, WEBP)
    (pid,) = pids(own)
    assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()
    limits = {line[:26].strip(): line[26:].split()[0] for line in Path(f"/proc/{pid}/limits").read_text().splitlines()}
    assert (limits["Max open files"], limits["Max core file size"]) == ("0", "0")
    assert int(limits["Max address space"]) < 4 * 2**30
    own.close()


# Stopped


def stopped(reason: str) -> float:
    return sum(sample.value for sample in DECODERS_STOPPED.samples() if sample.labels == {"reason": reason})


def test_a_decode_that_takes_longer_than_its_limit_is_stopped_and_fails_alone() -> None:
    decoders = Decoders(Limits(decode_timeout_s=0.2), threads=1)
    before = stopped("too_slow")
    outcome = decoded(decoders, SLOW_FILE).outcome
    assert stopped("too_slow") == before + 1
    assert isinstance(outcome, DecodeTimedOut)
    assert str(outcome) == "The image takes more than 0.2 s to decode."
    assert isinstance(decoded(decoders, WEBP).outcome, np.ndarray)
    decoders.close()


def test_the_limit_is_of_cpu_time_so_that_a_busy_machine_refuses_no_image() -> None:
    async def pause(decoders: Decoders, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(1)
        os.kill(pid, signal.SIGCONT)

    limits = Limits(decode_timeout_s=8.0)
    decoded = while_busy(limits, pause, SLOW["PNG of tiny chunks"])
    assert isinstance(decoded.outcome, np.ndarray)


def test_a_decode_ends_with_the_time_of_its_caller() -> None:
    decoders = Decoders(Limits(decode_timeout_s=LONG_S), threads=1)
    decoded(decoders, WEBP)
    outcome = decoded(decoders, SLOW_FILE, budget_s=0.1)
    assert isinstance(outcome.outcome, DeadlineExceeded)
    assert outcome.ended - outcome.started < 5
    assert not pids(decoders)
    decoders.close()


def test_a_decode_is_stopped_when_its_caller_leaves() -> None:
    async def leave() -> None:
        decoders = Decoders(Limits(decode_timeout_s=LONG_S), threads=1)
        await decoders.preprocess(WEBP, SPEC, time.monotonic() + LONG_S)
        (pid,) = pids(decoders)
        task = asyncio.create_task(decoders.preprocess(SLOW_FILE, SPEC, time.monotonic() + LONG_S))
        await asyncio.sleep(0.1)
        task.cancel()
        next_one = await decoders.preprocess(WEBP, SPEC, time.monotonic() + LONG_S)
        assert isinstance(next_one.outcome, np.ndarray)
        assert pids(decoders) != [pid]
        decoders.close()

    started = time.monotonic()
    asyncio.run(leave())
    assert time.monotonic() - started < 20


def test_work_that_is_not_begun_is_dropped_when_its_caller_leaves(dropped: list[tuple[str, str]]) -> None:
    async def leave() -> None:
        decoders = Decoders(Limits(), threads=1)
        busy = asyncio.create_task(decoders.preprocess(SLOW_FILE, SPEC, time.monotonic() + 1))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(decoders.preprocess(WEBP, SPEC, time.monotonic() + LONG_S)) for _ in range(3)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert dropped == [("preprocessor", "abandoned")] * 3
        await busy
        decoders.close()

    asyncio.run(leave())


def test_what_has_expired_when_its_turn_comes_is_dropped(decoders: Decoders, dropped: list[tuple[str, str]]) -> None:
    for data in (PHOTOGRAPH, WEBP):
        late = decoded(decoders, data, budget_s=-1)
        assert isinstance(late.outcome, DeadlineExceeded)
        assert late.started == late.ended
    assert dropped == [("preprocessor", "expired")] * 2


def test_a_photograph_does_not_wait_for_what_takes_long() -> None:
    async def race() -> None:
        decoders = Decoders(Limits(decode_timeout_s=LONG_S), threads=1)
        slow = asyncio.create_task(decoders.preprocess(SLOW_FILE, SPEC, time.monotonic() + LONG_S))
        await asyncio.sleep(0)
        for _ in range(5):
            quick = await decoders.preprocess(PHOTOGRAPH, SPEC, time.monotonic() + LONG_S)
            assert isinstance(quick.outcome, np.ndarray)
        assert not slow.done()
        slow.cancel()
        decoders.close()

    asyncio.run(race())


# Crashes


@pytest.mark.parametrize("crash", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_decoder_that_crashes_refuses_its_image_alone(crash: signal.Signals) -> None:
    async def die(decoders: Decoders, pid: int) -> None:
        os.kill(pid, crash)
        behind = await decoders.preprocess(WEBP, SPEC, time.monotonic() + LONG_S)
        assert isinstance(behind.outcome, np.ndarray)

    before = stopped("crashed")
    outcome = while_busy(Limits(decode_timeout_s=LONG_S), die).outcome
    assert stopped("crashed") == before + 1
    assert isinstance(outcome, CorruptImage)
    assert str(outcome) == "The image cannot be decoded."


def test_an_image_whose_decoder_is_killed_from_outside_is_decoded_by_the_next_one() -> None:
    async def kill(decoders: Decoders, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    assert isinstance(while_busy(Limits(), kill, SLOW["PNG of tiny chunks"]).outcome, np.ndarray)


def test_a_decoder_that_was_killed_while_it_was_idle_is_started_anew(decoders: Decoders) -> None:
    decoded(decoders, WEBP)
    (pid,) = pids(decoders)
    os.kill(pid, signal.SIGKILL)
    await_condition(lambda: not is_running(pid), 10, "the process has ended")
    assert isinstance(decoded(decoders, WEBP).outcome, np.ndarray)


@pytest.mark.parametrize("program", ["/nothing", "/bin/false"])
def test_a_decoder_that_cannot_be_started_fails_the_image_and_nothing_else(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoders = Decoders(Limits(), threads=1)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", program)
        assert isinstance(decoded(decoders, WEBP).outcome, InferenceFailed)
        assert isinstance(decoded(decoders, PHOTOGRAPH).outcome, np.ndarray)
    assert isinstance(decoded(decoders, WEBP).outcome, np.ndarray)
    decoders.close()


def test_too_little_memory_for_an_image_refuses_it_alone(decoders: Decoders) -> None:
    decoded(decoders, WEBP)
    (pid,) = pids(decoders)
    limits = resource.prlimit(pid, resource.RLIMIT_AS)
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize() + 20 * 2**20, limits[1]))
    outcome = decoded(decoders, encode(Image.new("RGBA", (3000, 3000)), "PNG")).outcome
    assert isinstance(outcome, CorruptImage)
    assert "more memory" in str(outcome)
    assert isinstance(decoded(decoders, WEBP).outcome, np.ndarray)
    assert pids(decoders) == [pid]
    resource.prlimit(pid, resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_no_decoder_outlives_a_service_that_was_killed(busy: bool) -> None:
    script = (
        "import asyncio, time\n"
        "from deployments.decoding import Decoders\n"
        "from deployments.settings import Limits, PreprocessingSpec\n"
        "from tests.unit.test_decoding import SLOW_FILE, SPEC, WEBP, pids\n"
        "async def main():\n"
        "    decoders = Decoders(Limits(decode_timeout_s=60), threads=1)\n"
        "    await decoders.preprocess(WEBP, SPEC, time.monotonic() + 60)\n"
        "    print(*pids(decoders), flush=True)\n"
        f"    await decoders.preprocess(SLOW_FILE if {busy} else WEBP, SPEC, time.monotonic() + 1)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        pid = int(service.stdout.readline())
        assert is_running(pid)
        service.kill()
    await_condition(lambda: not is_running(pid), 15, "the decoder has ended")
