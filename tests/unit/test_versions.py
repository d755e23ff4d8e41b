"""A replica's versions: taken on beside each other, given up once every replica can, and never lost to a mistake."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path

import pytest

from deployments import versions as versions_module
from deployments.errors import ConfigError
from deployments.messages import State
from deployments.preparation import Preparation
from deployments.settings import ModelSettings, VersionPolicy
from deployments.versions import MAX_ENDED, MAX_REASONS, VersionSet
from deployments.watchdog import Watchdog
from deployments.workload import Workload

# Of what happens within milliseconds.
PATIENCE_S = 20.0
LATEST, LATEST_2 = VersionPolicy(latest=1), VersionPolicy(latest=2)
ALL = VersionPolicy(all=True)


def specific(*versions: int) -> VersionPolicy:
    return VersionPolicy(specific=versions)


class Served:
    """What answers for a version: until it is idle, `drained` does not return."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.is_closed = False
        self.idle = asyncio.Event()
        self.idle.set()

    async def drained(self) -> None:
        assert not self.is_closed
        await self.idle.wait()

    def close(self) -> None:
        self.is_closed = True


class Replica:
    """A VersionSet over a dict for a disk: the files of each version, or the reason why it cannot be loaded."""

    def __init__(self, disk: dict[int, str], linger_s: float = 0.0) -> None:
        self.disk = disk
        self.loads: list[int] = []
        self.broken_disk = ""
        # None: they do not answer.
        self.others: list[dict[int, State]] | None = []
        # What loads of these versions wait for.
        self.held: dict[int, asyncio.Event] = {}
        self.versions: VersionSet[Served] = VersionSet("shapes", self._find, self._load, self._peers, linger_s)

    def load_first(self, policy: VersionPolicy) -> None:
        self.versions.load_first(policy, self._load_now)

    def states(self) -> dict[int, State]:
        return {status.version: status.state for status in self.versions.statuses()}

    def reasons(self) -> dict[int, str]:
        return {status.version: status.reason for status in self.versions.statuses() if status.reason}

    async def settled(self) -> None:
        await asyncio.wait_for(self.versions.settled(), PATIENCE_S)

    def _find(self) -> Mapping[int, str]:
        if self.broken_disk:
            raise ConfigError(self.broken_disk)
        return dict(self.disk)

    async def _load(self, version: int) -> Served:
        if version in self.held:
            await self.held[version].wait()
        return self._load_now(version)

    def _load_now(self, version: int) -> Served:
        self.loads.append(version)
        content = self.disk.get(version, f"There is no version {version}.")
        if content == "crash":
            raise RuntimeError("the libraries of a model")
        if not content.startswith("good"):
            raise ConfigError(content)
        return Served(version)

    async def _peers(self) -> Sequence[Mapping[int, State]]:
        if self.others is None:
            raise ConnectionError
        return [self.states(), *self.others]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions_module, "PEERS_S", 0.01)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def some_time() -> None:
    """For what is not to happen: many times as long as the peers' period."""
    await asyncio.sleep(0.1)


def run(scenario: Coroutine[None, None, None]) -> None:
    asyncio.run(scenario)


# What is wanted


def test_latest_one_swaps_to_a_new_version_and_closes_the_old_one() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good"})
        replica.load_first(LATEST)
        old = replica.versions.get(1)
        replica.disk[2] = "good"
        replica.versions.look_again()
        await replica.settled()
        assert replica.states() == {1: "END", 2: "AVAILABLE"}
        assert replica.versions.get(1) is None
        assert old is not None
        assert old.is_closed
        await replica.versions.stop()

    run(scenario())


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        pytest.param(LATEST, (4,), id="latest 1"),
        pytest.param(LATEST_2, (2, 4), id="latest 2 skips what fails"),
        pytest.param(VersionPolicy(latest=9), (1, 2, 4), id="fewer than are wanted"),
        pytest.param(ALL, (1, 2, 4), id="all that pass"),
        pytest.param(specific(1, 3), (1,), id="specific, as far as they pass"),
    ],
)
def test_at_the_start_a_policy_loads_what_it_says(policy: VersionPolicy, served: tuple[int, ...]) -> None:
    replica = Replica({1: "good", 2: "good", 3: "Its weights are wrong.", 4: "good"})
    replica.load_first(policy)
    assert replica.versions.available() == served
    assert replica.versions.serving() == served


def test_a_start_with_no_version_that_passes_says_why_the_highest_does_not() -> None:
    replica = Replica({1: "The first is wrong.", 2: "The second is wrong."})
    with pytest.raises(ConfigError, match=r"^The second is wrong\.$"):
        replica.load_first(LATEST)
    with pytest.raises(ConfigError, match="none of the versions that are asked for"):
        Replica({}).load_first(LATEST)


def test_a_policy_that_wants_more_keeps_what_is_there() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good", 2: "good", 3: "bad"})
        replica.load_first(LATEST)
        replica.versions.want(LATEST_2)
        await replica.settled()
        assert replica.versions.available() == (1, 2)
        assert replica.loads.count(2) == 1
        await replica.versions.stop()

    run(scenario())


def test_what_is_wanted_already_is_not_loaded_again() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good"})
        replica.load_first(LATEST)
        replica.versions.want(LATEST)
        replica.versions.look_again()
        await replica.settled()
        assert replica.loads == [1]
        await replica.versions.stop()

    run(scenario())


def test_no_version_is_wanted_until_one_is() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good", 2: "bad"})
        replica.load_first(LATEST)
        # Others need not agree to that.
        replica.others = None
        replica.versions.want(None)
        await replica.settled()
        assert (replica.states(), replica.versions.fault) == ({1: "END", 2: "END"}, "")
        assert replica.reasons() == {2: "bad"}
        replica.versions.look_again()
        await replica.settled()
        assert replica.versions.serving() == ()
        replica.versions.want(LATEST)
        await until(lambda: replica.versions.available() == (1,))
        await replica.versions.stop()

    run(scenario())


# What fails


@pytest.mark.parametrize("policy", [LATEST, specific(2)], ids=["latest", "specific"])
def test_a_version_that_fails_leaves_the_old_one_and_says_why(policy: VersionPolicy) -> None:
    async def scenario() -> None:
        replica = Replica({1: "good"})
        replica.load_first(LATEST)
        replica.disk[2] = "Its golden outputs are others."
        replica.versions.want(policy)
        replica.versions.look_again()
        await replica.settled()
        assert replica.states() == {1: "AVAILABLE", 2: "END"}
        assert replica.reasons() == {2: "Its golden outputs are others."}
        assert replica.versions.fault == "Its golden outputs are others."
        await replica.versions.stop()

    run(scenario())


def test_specific_with_one_that_fails_gives_up_nothing() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good", 2: "good", 3: "bad"})
        replica.load_first(specific(1))
        replica.versions.want(specific(2, 3))
        await replica.settled()
        assert replica.versions.available() == (1, 2)
        replica.disk[3] = "good now"
        replica.versions.look_again()
        await replica.settled()
        assert replica.versions.available() == (2, 3)
        await replica.versions.stop()

    run(scenario())


def test_what_nobody_expected_of_a_load_fails_that_version_alone_and_tells_no_internals() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good"})
        replica.load_first(LATEST)
        replica.disk |= {2: "good", 3: "crash"}
        replica.versions.look_again()
        await replica.settled()
        assert replica.states() == {1: "END", 2: "AVAILABLE", 3: "END"}
        assert replica.reasons() == {3: "It could not be loaded: RuntimeError."}
        await replica.versions.stop()

    run(scenario())


def test_a_failed_version_is_tried_again_when_its_files_change_or_when_asked_and_not_otherwise() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good", 2: "bad"})
        replica.load_first(LATEST)

        async def tries(*, retry_failed: bool) -> int:
            replica.versions.look_again(retry_failed=retry_failed)
            await replica.settled()
            return replica.loads.count(2)

        assert await tries(retry_failed=False) == 1
        assert await tries(retry_failed=True) == 2
        assert await tries(retry_failed=False) == 2
        replica.disk[2] = "bad in another way"
        assert await tries(retry_failed=False) == 3
        assert await tries(retry_failed=False) == 3
        await replica.versions.stop()

    run(scenario())


def test_what_was_asked_again_while_it_failed_is_tried_again() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good"})
        replica.load_first(LATEST)
        replica.disk[2] = "bad"
        replica.held[2] = asyncio.Event()
        replica.versions.look_again()
        await until(lambda: replica.states().get(2) == "LOADING")
        replica.versions.look_again()
        replica.held[2].set()
        await replica.settled()
        assert replica.loads.count(2) == 2
        await replica.versions.stop()

    run(scenario())


@pytest.mark.parametrize("disk", ["empty", "broken"])
def test_a_directory_without_versions_changes_nothing_and_is_told_of(disk: str) -> None:
    async def scenario() -> None:
        replica = Replica({1: "good"})
        replica.load_first(LATEST)
        replica.disk.clear()
        replica.broken_disk = "The model directory does not exist." if disk == "broken" else ""
        replica.versions.look_again()
        await replica.settled()
        assert replica.versions.available() == (1,)
        assert replica.versions.fault == (
            replica.broken_disk or "Model 'shapes' has none of the versions that are asked for."
        )
        replica.disk[2], replica.broken_disk = "good", ""
        replica.versions.look_again()
        await replica.settled()
        assert (replica.versions.available(), replica.versions.fault) == ((2,), "")
        await replica.versions.stop()

    run(scenario())


def test_a_directory_that_goes_while_a_version_is_unloading_keeps_that_version() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good"}, linger_s=PATIENCE_S)
        replica.load_first(LATEST)
        replica.disk[2] = "good"
        replica.versions.look_again()
        await until(lambda: replica.states()[1] == "UNLOADING")
        replica.disk.clear()
        replica.versions.look_again()
        await replica.settled()
        assert replica.states() == {1: "AVAILABLE", 2: "AVAILABLE"}
        await replica.versions.stop()

    run(scenario())


# All replicas together


def test_the_old_version_stays_until_every_replica_has_the_new_one() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good"})
        replica.load_first(LATEST)
        replica.others = [{1: "AVAILABLE", 2: "AVAILABLE"}, {1: "AVAILABLE", 2: "LOADING"}]
        replica.disk[2] = "good"
        replica.versions.look_again()
        await until(lambda: replica.states().get(2) == "AVAILABLE")
        await some_time()
        assert replica.versions.available() == (1, 2)
        # Loaded as far as this replica goes.
        assert not replica.versions.is_loading
        replica.others = [replica.states()]
        await replica.settled()
        assert replica.versions.available() == (2,)
        await replica.versions.stop()

    run(scenario())


def test_replicas_that_do_not_answer_or_never_do_keep_the_old_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions_module, "PEERS_TIMEOUT_S", 0.01)

    async def scenario() -> None:
        replica = Replica({1: "good"})
        answers: list[str] = []

        async def peers() -> Sequence[Mapping[int, State]]:
            answers.append("asked")
            if len(answers) == 1:
                raise ConnectionError
            if len(answers) == 2:
                await asyncio.Event().wait()
            return [] if len(answers) == 3 else [{1: "AVAILABLE"}]

        replica.versions = VersionSet("shapes", replica._find, replica._load, peers, 0.0)
        replica.load_first(LATEST)
        replica.disk[2] = "good"
        replica.versions.look_again()
        await until(lambda: len(answers) > 4)
        assert replica.versions.available() == (1, 2)
        await replica.versions.stop()

    run(scenario())


# Giving up


def test_a_version_that_is_unloading_still_answers_until_nobody_asks() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good"}, linger_s=0.2)
        replica.load_first(LATEST)
        old = replica.versions.get(1)
        assert old is not None
        old.idle.clear()
        replica.disk[2] = "good"
        replica.versions.look_again()
        await until(lambda: replica.states()[1] == "UNLOADING")
        assert replica.versions.get(1) is old
        assert (replica.versions.available(), replica.versions.serving()) == ((2,), (1, 2))
        # Lingered enough: nothing more is asked of it, and what runs goes on.
        await until(lambda: replica.versions.get(1) is None)
        await some_time()
        assert replica.states()[1] == "UNLOADING"
        assert not old.is_closed
        old.idle.set()
        await replica.settled()
        assert old.is_closed
        assert replica.states() == {1: "END", 2: "AVAILABLE"}
        await replica.versions.stop()

    run(scenario())


def test_a_version_that_is_wanted_again_while_it_is_unloading_stays() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good", 2: "good"}, linger_s=PATIENCE_S)
        replica.load_first(specific(1))
        old = replica.versions.get(1)
        replica.versions.want(specific(2))
        await until(lambda: replica.states()[1] == "UNLOADING")
        replica.versions.want(specific(1, 2))
        await replica.settled()
        assert replica.versions.available() == (1, 2)
        assert replica.versions.get(1) is old
        assert replica.loads == [1, 2]
        await replica.versions.stop()

    run(scenario())


def test_a_version_that_is_wanted_again_while_it_drains_is_loaded_again() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good", 2: "good"})
        replica.load_first(specific(1))
        old = replica.versions.get(1)
        assert old is not None
        old.idle.clear()
        replica.versions.want(specific(2))
        await until(lambda: replica.states()[1] == "UNLOADING" and replica.versions.get(1) is None)
        replica.versions.want(specific(1))
        old.idle.set()
        await replica.settled()
        assert replica.loads == [1, 2, 1]
        assert old.is_closed
        new = replica.versions.get(1)
        assert new is not None
        assert not new.is_closed
        await replica.versions.stop()

    run(scenario())


def test_a_version_that_cannot_be_closed_is_gone_all_the_same() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good", 2: "good"})
        replica.load_first(specific(1))
        old = replica.versions.get(1)
        assert old is not None
        old.is_closed = True  # So that `drained` fails.
        replica.versions.want(specific(2))
        await replica.settled()
        assert replica.states() == {1: "END", 2: "AVAILABLE"}
        replica.versions.look_again()
        await replica.settled()
        assert replica.versions.available() == replica.versions.serving() == (2,)
        await replica.versions.stop()

    run(scenario())


def test_looking_again_does_not_bring_back_for_a_moment_what_is_unloading() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good"}, linger_s=PATIENCE_S)
        replica.load_first(LATEST)
        replica.disk[2] = "good"
        replica.versions.look_again()
        await until(lambda: replica.states()[1] == "UNLOADING")
        replica.disk[4] = "good"
        replica.held[4] = asyncio.Event()
        replica.versions.look_again()
        await until(lambda: replica.states().get(4) == "LOADING")
        assert replica.states()[1] == "UNLOADING"
        await replica.versions.stop()

    run(scenario())


# While something loads


def test_what_is_to_come_is_told_of_in_the_order_in_which_it_does() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good", 2: "good", 3: "good"})
        replica.load_first(specific(1))
        replica.held = {2: asyncio.Event(), 3: asyncio.Event()}
        replica.versions.want(ALL)
        await until(lambda: replica.states() == {1: "AVAILABLE", 2: "START", 3: "LOADING"})
        assert replica.versions.is_loading
        replica.held[3].set()
        await until(lambda: replica.states() == {1: "AVAILABLE", 2: "LOADING", 3: "AVAILABLE"})
        replica.held[2].set()
        await replica.settled()
        assert not replica.versions.is_loading
        await replica.versions.stop()

    run(scenario())


def test_a_policy_that_changes_during_a_load_holds_as_soon_as_that_is_done() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good", 2: "good", 3: "good"})
        replica.load_first(specific(1))
        replica.held[3] = asyncio.Event()
        replica.versions.want(specific(2, 3))
        await until(lambda: replica.states() == {1: "AVAILABLE", 2: "START", 3: "LOADING"})
        replica.versions.want(specific(1))
        assert replica.versions.get(1) is not None
        replica.held[3].set()
        await replica.settled()
        # Version 2 was never begun, and 3 is given up.
        assert replica.states() == {1: "AVAILABLE", 3: "END"}
        assert 2 not in replica.loads
        await replica.versions.stop()

    run(scenario())


def test_a_version_to_come_that_is_not_wanted_any_more_is_forgotten() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good", 2: "good", 3: "good"})
        replica.load_first(specific(1))
        replica.held[3] = asyncio.Event()
        replica.versions.want(specific(2, 3))
        await until(lambda: replica.states().get(3) == "LOADING")
        replica.versions.want(None)
        replica.held[3].set()
        await replica.settled()
        assert replica.states() == {1: "END", 3: "END"}
        await replica.versions.stop()

    run(scenario())


# Polling


def test_polling_finds_a_new_directory_and_tries_a_failed_one_once() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good", 2: "bad"})
        replica.load_first(LATEST)
        replica.versions.want(LATEST, poll_s=0.01)
        await some_time()
        assert replica.loads.count(2) == 1
        replica.disk[3] = "good"
        await until(lambda: replica.versions.available() == (3,))
        await replica.versions.stop()

    run(scenario())


def test_failures_beyond_those_that_are_told_of_are_remembered_while_they_are_on_disk() -> None:
    many = 2 * MAX_ENDED

    async def scenario() -> None:
        replica = Replica({1: "good"} | dict.fromkeys(range(2, many), "bad"))
        replica.load_first(LATEST)
        assert len(replica.versions.statuses()) == MAX_ENDED + 1
        assert replica.versions.fault.count("bad") == MAX_REASONS
        replica.versions.look_again(retry_failed=False)
        await replica.settled()
        assert len(replica.loads) == many - 1
        await replica.versions.stop()

    run(scenario())


def test_versions_that_come_and_go_for_ever_are_not_all_remembered() -> None:
    async def scenario() -> None:
        replica = Replica({1: "good"})
        replica.load_first(LATEST)
        for version in range(2, 3 * MAX_ENDED):
            del replica.disk[version - 1]
            replica.disk[version] = "good"
            replica.versions.look_again()
            await replica.settled()
        assert len(replica.versions._versions) <= MAX_ENDED + 2
        assert len(replica.versions.statuses()) == MAX_ENDED + 1
        assert replica.versions.available() == (3 * MAX_ENDED - 1,)
        await replica.versions.stop()

    run(scenario())


@pytest.mark.parametrize("moment", ["loading", "waiting for others", "lingering", "polling", "never begun"])
def test_stop_leaves_no_task(moment: str) -> None:
    async def scenario() -> None:
        replica = Replica({1: "good"}, linger_s=PATIENCE_S if moment == "lingering" else 0.0)
        replica.load_first(LATEST)
        if moment != "never begun":
            replica.disk[2] = "good"
            replica.held = {2: asyncio.Event()} if moment == "loading" else {}
            replica.others = [{}] if moment == "waiting for others" else []
            replica.versions.want(LATEST, poll_s=0.01 if moment == "polling" else None)
            replica.versions.look_again()
            await until(lambda: replica.states().get(2) in ("LOADING", "AVAILABLE"))
            await some_time()
        await replica.versions.stop()
        await replica.versions.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scenario())


# On disk


def preparation(path: Path | None) -> Preparation:
    settings = ModelSettings(name="shapes", path=str(path)) if path else ModelSettings(name="shapes", engine="dummy")
    return Preparation(settings, lambda *_: pytest.fail("nothing is loaded"), Watchdog(1.0), Workload(runners=1))


def test_a_version_on_disk_differs_once_a_file_below_it_does_and_not_when_another_version_does(tmp_path: Path) -> None:
    for version in (1, 2):
        (tmp_path / f"{version}/golden").mkdir(parents=True)
        (tmp_path / f"{version}/golden/one.png").write_bytes(b"one")
    on_disk = preparation(tmp_path).on_disk
    before = on_disk()
    assert set(before) == {1, 2}
    assert on_disk() == before
    (tmp_path / "2/golden/one.png").write_bytes(b"another")
    after = on_disk()
    assert after[1] == before[1]
    assert after[2] != before[2]
    (tmp_path / "1/model.yaml").touch()
    assert on_disk()[1] != before[1]


def test_a_file_that_goes_while_versions_are_looked_at_is_none_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    # As a copy in progress has it: in the listing, and gone when it is looked at.
    (tmp_path / "1/.model.safetensors.partial").symlink_to(tmp_path / "gone")
    before = preparation(tmp_path).on_disk()
    (tmp_path / "gone").write_bytes(b"weights")
    assert preparation(tmp_path).on_disk()[1] != before[1]


def test_a_model_without_a_directory_has_one_version_and_one_whose_directory_is_gone_says_so(tmp_path: Path) -> None:
    assert preparation(None).on_disk() == {1: None}
    with pytest.raises(ConfigError, match="does not exist"):
        preparation(tmp_path / "gone").on_disk()


def test_a_half_copied_version_fails_and_is_loaded_once_it_is_complete(tmp_path: Path) -> None:
    def load(version: int) -> Served:
        if not (tmp_path / f"{version}/model.yaml").exists():
            raise ConfigError(f"Version {version} has no model.yaml.")
        return Served(version)

    async def load_beside(version: int) -> Served:
        return load(version)

    async def peers() -> Sequence[Mapping[int, State]]:
        return [{each.version: each.state for each in served.statuses()}]

    served: VersionSet[Served] = VersionSet("shapes", preparation(tmp_path).on_disk, load_beside, peers, 0.0)

    async def scenario() -> None:
        (tmp_path / "1").mkdir()
        (tmp_path / "1/model.yaml").touch()
        served.load_first(LATEST, load)
        served.want(LATEST, poll_s=0.01)
        (tmp_path / "2").mkdir()
        await until(lambda: served.fault == "Version 2 has no model.yaml.")
        (tmp_path / "2/model.safetensors").write_bytes(b"weights")
        (tmp_path / "2/model.yaml").touch()
        await until(lambda: served.available() == (2,))
        await served.stop()

    run(scenario())
