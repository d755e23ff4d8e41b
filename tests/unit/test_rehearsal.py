"""The rehearsal of a load: what it leaves for the replica, and that whatever befalls it befalls its process alone."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import uvloop

from deployments.engines import create_engine, openvino_engine
from deployments.engines.artefacts import Artefacts
from deployments.engines.rehearsal import FIRST_TO_END, NICENESS, Load, rehearse
from deployments.errors import ConfigError
from deployments.settings import ModelSettings
from tests.awaiting import await_condition
from tests.unit import loads
from tests.unit.kinds import settings
from tests.unit.sentences import sentence_of

pytestmark = pytest.mark.usefixtures("own_cache")
ROOT = Path(__file__).resolve().parents[2]
# For a process that has next to nothing to do, on a machine that is busy.
TIMEOUT_S = 200.0
MODEL = ModelSettings(name="shapes", engine="dummy", threads=3)


def refusal(load: Load, timeout_s: float = TIMEOUT_S) -> str:
    return sentence_of(lambda: asyncio.run(rehearse(MODEL, 7, timeout_s, load)))


def test_what_was_rehearsed_is_loaded_without_building_anything(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = settings(tiny_path, engine="openvino")
    asyncio.run(rehearse(model, 3, TIMEOUT_S))

    def never(*_: object) -> None:
        raise AssertionError("It has been built already.")

    monkeypatch.setattr(Artefacts, "_reference", never)
    monkeypatch.setattr(openvino_engine, "_convert", never)
    assert create_engine(model, 3).info().engine == "openvino"


def test_a_version_that_is_refused_is_refused_with_its_own_sentence(tiny_path: Path, tmp_path: Path) -> None:
    model = settings(shutil.copytree(tiny_path, tmp_path / "model"), engine="openvino")
    with (tmp_path / "model/3/model.safetensors").open("ab") as file:
        file.write(b"\0")
    sentence = sentence_of(lambda: asyncio.run(rehearse(model, 3, TIMEOUT_S)))
    assert sentence == sentence_of(lambda: create_engine(model, 3))
    assert "has SHA-256" in sentence


def test_the_process_gives_way_and_imports_neither_ray_nor_torch() -> None:
    with pytest.raises(ConfigError) as caught:
        asyncio.run(rehearse(MODEL, 7, TIMEOUT_S, loads.tell))
    assert json.loads(str(caught.value)) == {
        "settings": MODEL.model_dump(mode="json"),
        "version": 7,
        "modules": [],
        "priority": NICENESS,
        "oom_score_adj": FIRST_TO_END,
    }


def test_rehearsals_of_one_machine_take_turns() -> None:
    async def both() -> None:
        await asyncio.gather(*(rehearse(MODEL, 7, TIMEOUT_S, loads.tell_whether_alone) for _ in range(2)))

    asyncio.run(both())


def test_what_libraries_print_is_no_answer() -> None:
    asyncio.run(rehearse(MODEL, 7, TIMEOUT_S, loads.print_much))


# What befalls it

FATES: dict[str, tuple[Load, str]] = {
    "a crash": (loads.crash, "crashed natively (SIGSEGV) while it was loaded"),
    "a crash at its end": (loads.CrashesWhenGivenUp, "crashed natively (SIGABRT) while it was loaded"),
    "killed": (loads.be_killed, "was killed (SIGKILL) while it was loaded, as the system does when memory runs out"),
    "ended": (loads.end, "ended its process with status 3 while it was loaded"),
    "failed": (loads.fail, "failed with ValueError while it was loaded; the log has the rest"),
    "out of memory": (loads.run_out_of_memory, "ran out of memory while it was loaded"),
}


@pytest.mark.parametrize("fate", FATES)
def test_whatever_befalls_the_process_is_one_sentence(fate: str) -> None:
    load, words = FATES[fate]
    assert refusal(load) == f"Version 7 of model 'shapes' {words}."


def test_it_runs_on_the_event_loop_of_a_replica() -> None:
    # uvloop, on a thread that is not the main one.
    sentences: list[str] = []

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                runner.run(rehearse(MODEL, 7, TIMEOUT_S, loads.crash))
            except ConfigError as err:
                sentences.append(str(err))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert sentences == ["Version 7 of model 'shapes' crashed natively (SIGSEGV) while it was loaded."]


# Its end


@pytest.fixture
def hanging(tmp_path: Path) -> ModelSettings:
    return MODEL.model_copy(update={"path": str(tmp_path / "pids")})


def pids_of(hanging: ModelSettings) -> list[int]:
    """Of the process that hangs and the one that it has started, once it has."""
    file = Path(str(hanging.path))
    await_condition(file.exists, TIMEOUT_S, "the rehearsal begins")
    return [int(pid) for pid in file.read_text().split()]


def is_gone(pid: int) -> bool:
    """Or waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def assert_gone(pids: list[int]) -> None:
    assert len(pids) == 2
    await_condition(lambda: all(is_gone(pid) for pid in pids), TIMEOUT_S, "no process is left")


async def cancel(rehearsal: "asyncio.Task[None]", hanging: ModelSettings) -> list[int]:
    pids = await asyncio.to_thread(pids_of, hanging)
    rehearsal.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rehearsal
    return pids


def test_a_rehearsal_that_is_cancelled_leaves_no_process(hanging: ModelSettings) -> None:
    async def run() -> list[int]:
        return await cancel(asyncio.create_task(rehearse(hanging, 7, TIMEOUT_S, loads.hang)), hanging)

    assert_gone(asyncio.run(run()))


def test_a_rehearsal_that_takes_too_long_is_refused_and_leaves_no_process(hanging: ModelSettings) -> None:
    before = children()
    sentence = sentence_of(lambda: asyncio.run(rehearse(hanging, 7, 0.5, loads.hang)))
    assert sentence == "Version 7 of model 'shapes' was not loaded within 0.5 s."
    assert children() <= before


def children() -> set[str]:
    return {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


def test_a_rehearsal_ends_with_the_process_that_asked_for_it(hanging: ModelSettings) -> None:
    script = f"""
import asyncio
from deployments.engines.rehearsal import rehearse
from deployments.settings import ModelSettings
from tests.unit import loads
settings = ModelSettings.model_validate_json({hanging.model_dump_json()!r})
asyncio.run(rehearse(settings, 7, 600, loads.hang))
"""
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    rehearsing, other = pids_of(hanging)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    try:
        await_condition(lambda: is_gone(rehearsing), TIMEOUT_S, "the rehearsal ends")
    finally:
        os.kill(other, signal.SIGKILL)
