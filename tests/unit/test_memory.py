"""The room for a version: how much it is taken to need, and where it says that there is not as much."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.engines.memory import BYTES_OF_LIBRARIES, BYTES_PER_WEIGHT_BYTE, check_fits, needed_bytes
from deployments.settings import ModelSettings
from tests.unit.sentences import sentence_of

MIB = 2**20
WEIGHTS = 100 * MIB
NEEDED = BYTES_OF_LIBRARIES + BYTES_PER_WEIGHT_BYTE * WEIGHTS
# So much has to be free of a memory of 10 GiB, of which a tenth is left.
TOTAL = 10 * 2**30
ENOUGH = NEEDED + TOTAL // 10


@pytest.fixture
def model(tmp_path: Path) -> ModelSettings:
    """Version 2 with weights of WEIGHTS bytes, which take no room on the disk."""
    directory = tmp_path / "model/2"
    directory.mkdir(parents=True)
    with (directory / "model.safetensors").open("wb") as file:
        file.truncate(WEIGHTS)
    return ModelSettings(name="shapes", path=str(tmp_path / "model"), device="cpu")


class System:
    """What Linux says of memory, under a directory of the test's own."""

    def __init__(self, root: Path) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        self.write("proc/meminfo", f"MemTotal:  {TOTAL // 1024} kB\nMemAvailable:  {TOTAL // 1024} kB\n")

    def write(self, name: str, content: object) -> None:
        path = self.proc.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(content))

    def check(self, model: ModelSettings) -> None:
        check_fits(model, 2, proc=self.proc, cgroups=self.cgroups)

    def machine(self, free: int) -> None:
        self.write("proc/meminfo", f"MemTotal: {TOTAL // 1024} kB\nMemAvailable: {free // 1024} kB\nHugePages: 0\n")

    def version_2(self, group: str, free: int, cached: int = 0) -> None:
        self.write("proc/self/cgroup", f"0::/{group}\n")
        self.fill(f"cgroup/{group}", free, cached)

    def fill(self, folder: str, free: int, cached: int = 0) -> None:
        old, new = cached // 2, cached - cached // 2
        self.write(f"{folder}/memory.max", TOTAL)
        self.write(f"{folder}/memory.current", TOTAL - free + cached)
        self.write(f"{folder}/memory.stat", f"anon 7\ninactive_file {old}\nactive_file {new}\nshmem 9999999999\n")

    def version_1(self, group: str, free: int, cached: int = 0) -> None:
        self.write("proc/self/cgroup", f"9:name=systemd:/\n4:cpu,memory:/{group}\n0::/\n")
        folder, old, new = f"cgroup/memory/{group}", cached // 2, cached - cached // 2
        self.write(f"{folder}/memory.limit_in_bytes", TOTAL)
        self.write(f"{folder}/memory.usage_in_bytes", TOTAL - free + cached)
        self.write(f"{folder}/memory.stat", f"inactive_file 7\ntotal_inactive_file {old}\ntotal_active_file {new}\n")


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path / "system")


# What is needed


def test_the_estimate_goes_by_the_files_of_the_version_alone(model: ModelSettings, tmp_path: Path) -> None:
    (tmp_path / "model/1").mkdir()
    (tmp_path / "model/1/model.safetensors").write_bytes(b"1" * 1000)
    assert needed_bytes(model, 2) == NEEDED
    assert needed_bytes(model, 1) == BYTES_OF_LIBRARIES + 1000 * BYTES_PER_WEIGHT_BYTE


def test_weights_in_a_folder_count_and_golden_pictures_do_not(model: ModelSettings, tmp_path: Path) -> None:
    for name in ("golden/1.png", "variables/variables.data-00000-of-00001"):
        (tmp_path / "model/2" / name).parent.mkdir()
        (tmp_path / "model/2" / name).write_bytes(b"1" * 1000)
    assert needed_bytes(model, 2) == NEEDED + 1000 * BYTES_PER_WEIGHT_BYTE


def test_weights_in_a_file_of_their_own_count_if_they_are_there(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    model = ModelSettings(name="mine", architecture="resnet18", weights=str(file), device="cpu")
    assert needed_bytes(model, 1) == BYTES_OF_LIBRARIES
    file.write_bytes(b"1" * 1000)
    assert needed_bytes(model, 1) == BYTES_OF_LIBRARIES + 1000 * BYTES_PER_WEIGHT_BYTE


def test_what_is_missing_is_for_the_load_to_say(model: ModelSettings, system: System, tmp_path: Path) -> None:
    (tmp_path / "model/2/broken").symlink_to(tmp_path / "nowhere")
    system.check(model)
    shutil.rmtree(tmp_path / "model")
    system.check(model)


# What is free

FULL: dict[str, tuple[Callable[[System, int], None], str]] = {
    "the machine": (lambda system, free: system.machine(free), "this machine"),
    "a container": (lambda system, free: system.version_2("", free), "its container"),
    "a group": (lambda system, free: system.version_2("kubepods/pod7/main", free), "its container"),
    "a group of version 1": (lambda system, free: system.version_1("docker/7", free), "its container"),
    "without copies of files": (lambda system, free: system.version_2("pod", free, cached=2**30), "its container"),
    "without them in version 1": (lambda system, free: system.version_1("pod", free, cached=2**30), "its container"),
}


@pytest.mark.parametrize("where", FULL)
def test_a_version_loads_where_there_is_just_enough_and_not_where_there_is_less(
    where: str, model: ModelSettings, system: System
) -> None:
    fill, name = FULL[where]
    fill(system, ENOUGH)
    system.check(model)
    fill(system, ENOUGH - 4096)
    sentence = sentence_of(lambda: system.check(model))
    for words in (
        "Version 2 of model 'shapes'",
        f"{NEEDED // MIB} MiB",
        f"{name} has",
        f"{TOTAL // 10 // MIB} MiB are",
    ):
        assert words in sentence


def test_a_group_above_may_be_the_one_that_is_full(model: ModelSettings, system: System) -> None:
    system.version_2("pod/main", ENOUGH)
    system.check(model)
    system.fill("cgroup/pod", ENOUGH - 4096)
    assert "its container" in sentence_of(lambda: system.check(model))


def test_a_group_without_a_limit_has_room(model: ModelSettings, system: System) -> None:
    system.version_2("pod", 0)
    system.write("cgroup/pod/memory.max", "max\n")
    system.check(model)
    system.version_1("pod", 0)
    system.write("cgroup/memory/pod/memory.limit_in_bytes", 2**63 - 4096)
    system.check(model)


@pytest.mark.parametrize("path", ["/../../init.scope", "/of/the/host"])
def test_in_a_container_the_path_may_lead_nowhere_and_the_root_is_the_container(
    path: str, model: ModelSettings, system: System
) -> None:
    system.version_2("", ENOUGH - 4096)
    system.write("proc/self/cgroup", f"0::{path}\n")
    assert "its container" in sentence_of(lambda: system.check(model))


@pytest.mark.parametrize("content", ["", "MemTotal: lots of kB\n", "MemTotal:\n\n"])
def test_where_nothing_is_said_the_load_begins(content: str, model: ModelSettings, system: System) -> None:
    system.write("proc/meminfo", content)
    system.write("proc/self/cgroup", "no group\n")
    system.check(model)
    shutil.rmtree(system.proc)
    system.check(model)


def test_this_machine_has_room_but_not_for_everything(model: ModelSettings) -> None:
    with (Path(str(model.path)) / "2/model.safetensors").open("wb") as file:
        file.truncate(2**42)
    assert "MiB free" in sentence_of(lambda: check_fits(model, 2))
    assert "kept in reserve" in sentence_of(lambda: check_fits(model, 1, reserve_share=1e6))
    check_fits(model, 1, reserve_share=-1.0)


def test_an_engine_without_weights_needs_no_room() -> None:
    check_fits(ModelSettings(name="dummy", engine="dummy"), 1, reserve_share=1e6)
