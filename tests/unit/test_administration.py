"""Requests of an administrator: every replica does what they say, or nothing changes and the answer says why."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path

import pytest

from deployments import versions as versions_module
from deployments.administration import ModelAdmin
from deployments.catalogue import Catalogue
from deployments.errors import (
    AdministrationOff,
    ApertureError,
    BadRequest,
    ConfigError,
    DeadlineExceeded,
    LoadFailed,
    ModelNotReady,
    UnknownModel,
)
from deployments.messages import ModelConfig, Override, ReplicaStatus, State
from deployments.settings import Access, Administration, LiveSettings, Settings, VersionPolicy
from deployments.settings.administration import check_administration
from deployments.versions import VersionSet
from tests.unit.versioned import version_info

# Of what takes milliseconds.
PATIENCE_S = 20.0
ABSOLUTE = str(Path("models/shapes").resolve())
LATEST, ALL = VersionPolicy(latest=1), VersionPolicy(all=True)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions_module, "PEERS_S", 0.01)


class Served:
    async def drained(self) -> None:
        """Nothing runs here."""

    def close(self) -> None:
        """It holds nothing."""


class Replica:
    """The versions of a Classifier replica, without images. `disk`: "good", or why a version cannot be loaded."""

    def __init__(self, model: "Model", base: LiveSettings) -> None:
        self.loads: list[int] = []
        self._model = model
        self.base = self.live = base
        self._override: Override | None = None
        self._versions: VersionSet[Served] = VersionSet("shapes", lambda: dict(model.disk), self._load, model.states, 0)
        self._versions.load_first(base.versions, self._load_now)

    def status(self) -> ReplicaStatus:
        versions = self._versions
        return ReplicaStatus(versions.statuses(), self.live, self._override, versions.is_loading, versions.fault)

    def override(self, override: Override) -> bool:
        if override.base != self.base:
            return False
        if self._override is None or override.sequence > self._override.sequence:
            self._override, self.live = override, override.live
            self._versions.want(None if override.unloaded else override.live.versions)
        return self._override.sequence == override.sequence

    def look_again(self) -> None:
        self._versions.look_again()

    async def settled(self) -> None:
        await self._versions.settled()

    async def stop(self) -> None:
        await self._versions.stop()

    async def _load(self, version: int) -> Served:
        await self._model.loading.wait()
        return self._load_now(version)

    def _load_now(self, version: int) -> Served:
        self.loads.append(version)
        content = self._model.disk.get(version, f"There is no version {version}.")
        if content != "good":
            raise ConfigError(content)
        return Served()


class Model:
    """As a ModelClient, its replicas in this process."""

    def __init__(self, name: str = "shapes", disk: dict[int, str] | None = None, replicas: int = 2) -> None:
        self.catalogue = Catalogue(name)
        self.disk = {1: "good"} if disk is None else disk
        self.loading = asyncio.Event()
        self.loading.set()
        self.base = LiveSettings()
        # How many calls are still to fail, as when a replica has just ended.
        self.faults = 0
        self.running = [Replica(self, self.base) for _ in range(replicas)]

    async def states(self) -> Sequence[Mapping[int, State]]:
        return [{each.version: each.state for each in replica.status().versions} for replica in self.running]

    async def replicas(self) -> Sequence[ReplicaStatus]:
        self._fail_perhaps()
        return [replica.status() for replica in self.running]

    async def override(self, override: Override) -> Sequence[bool]:
        self._fail_perhaps()
        return [replica.override(override) for replica in self.running]

    async def look_again(self) -> None:
        self._fail_perhaps()
        for replica in self.running:
            replica.look_again()

    async def refresh(self) -> None:
        statuses = await self.replicas()
        name = self.catalogue.name
        missing = self.catalogue.undescribed(statuses)
        self.catalogue.update(statuses, {version: version_info(version, name) for version in missing})
        if self.catalogue.override is not None:
            await self.override(self.catalogue.override)

    def answering(self) -> list[int]:
        return list(self.catalogue.infos)

    def _fail_perhaps(self) -> None:
        self.faults -= 1
        if self.faults >= 0:
            raise ConnectionError("a replica has ended")


class Fleet:
    def __init__(self, *models: Model, enabled: bool = True) -> None:
        self.models = {model.catalogue.name: model for model in models}
        paths = {name: f"models/{name}" for name in self.models}
        self.admin = ModelAdmin(self.models, paths, self._tell, enabled=enabled)

    async def load(self, model: str = "shapes", timeout_s: float = PATIENCE_S) -> None:
        await self.admin.load(model, "a test", timeout_s)

    async def unload(self, model: str = "shapes") -> None:
        await self.admin.unload(model, "a test", PATIENCE_S)

    async def reload(self, **wanted: ModelConfig) -> None:
        await self.admin.reload(wanted, "a test", PATIENCE_S)

    async def _tell(self, model: str) -> None:
        await self.models[model].refresh()


def run(scenario: "Coroutine[None, None, None]", *models: Model) -> None:
    async def play() -> None:
        try:
            for model in models:
                await model.refresh()
            await scenario
        finally:
            for model in models:
                for replica in model.running:
                    await replica.stop()

    asyncio.run(play())


def refused(error: type[ApertureError], words: str) -> "pytest.RaisesExc[ApertureError]":
    return pytest.raises(error, match=words)


# Load


def test_a_new_version_on_disk_answers_once_a_load_of_its_model_returns() -> None:
    model = Model()

    async def scenario() -> None:
        model.disk[2] = "good"
        await Fleet(model).load()
        assert 2 in model.answering()
        assert [replica.loads for replica in model.running] == [[1, 2], [1, 2]]

    run(scenario(), model)


def test_a_version_that_fails_fails_the_load_and_what_was_there_answers() -> None:
    model = Model()

    async def scenario() -> None:
        model.disk[2] = "The weights of version 2 are others."
        with refused(LoadFailed, r"^The weights of version 2 are others\. Of 'shapes' these versions answer: 1\.$"):
            await Fleet(model).load()
        assert model.answering() == [1]
        # Asked again, it is tried again.
        model.disk[2] = "good"
        await Fleet(model).load()
        assert 2 in model.answering()

    run(scenario(), model)


def test_a_load_that_takes_longer_than_its_request_goes_on() -> None:
    model = Model()

    async def scenario() -> None:
        fleet = Fleet(model)
        model.disk[2] = "good"
        model.loading.clear()
        with refused(DeadlineExceeded, "goes on"):
            await fleet.load(timeout_s=0.1)
        model.loading.set()
        await fleet.load()
        assert [replica.loads for replica in model.running] == [[1, 2], [1, 2]]

    run(scenario(), model)


def test_replicas_that_end_meanwhile_do_not_fail_a_request() -> None:
    model = Model()

    async def scenario() -> None:
        model.disk[2] = "good"
        model.faults = 2
        await Fleet(model).load()
        assert 2 in model.answering()

    run(scenario(), model)


# Unload


def test_an_unloaded_model_has_no_version_until_it_is_loaded() -> None:
    model, other = Model(), Model("others")

    async def scenario() -> None:
        fleet = Fleet(model, other)
        await fleet.unload()
        await fleet.unload()
        for version, label in ((None, None), ("1", None), (None, "stable")):
            with refused(UnknownModel, "is unloaded until an administrator loads it again"):
                model.catalogue.choose(version, label, "")
        assert (model.catalogue.default(), model.catalogue.is_unloaded) == (None, True)
        assert {status.state for status in model.catalogue.statuses()} <= {"UNLOADING", "END"}
        assert other.answering() == [1]
        await fleet.load()
        assert (model.answering(), model.catalogue.is_unloaded) == ([1], False)

    run(scenario(), model, other)


def test_a_replica_that_starts_after_an_unload_hears_of_it_and_nothing_is_announced_meanwhile() -> None:
    model = Model(replicas=1)

    async def scenario() -> None:
        await Fleet(model).unload()
        gone = model.running[0]
        model.running = [Replica(model, model.base)]
        await model.refresh()
        assert model.answering() == []
        assert model.running[0].status().override == gone.status().override
        await gone.stop()

    run(scenario(), model)


def test_what_fails_after_an_unload_is_tried_once_and_the_answer_says_why() -> None:
    model = Model(replicas=1)

    async def scenario() -> None:
        fleet = Fleet(model)
        await fleet.unload()
        # So that it is not there any more when it is loaded again.
        await asyncio.wait_for(model.running[0].settled(), PATIENCE_S)
        model.disk[1] = "The weights are gone."
        with refused(LoadFailed, "^The weights are gone. .* answer: none"):
            await fleet.load()
        assert model.running[0].loads == [1, 1]
        assert not model.catalogue.is_unloaded

    run(scenario(), model)


# Reload


def test_a_reload_sets_versions_and_labels_and_keeps_the_rest() -> None:
    model = Model(disk={1: "good", 2: "good"})

    async def scenario() -> None:
        fleet = Fleet(model)
        await fleet.reload(shapes=ModelConfig(ALL, {}, "models/shapes"))
        assert model.answering() == [1, 2]
        await fleet.reload(shapes=ModelConfig(ALL, {"stable": 1, "canary": 2}, ABSOLUTE))
        assert model.catalogue.labels == {"stable": 1, "canary": 2}
        await fleet.reload(shapes=ModelConfig(VersionPolicy(specific=(1,)), {"stable": 1}))
        assert model.catalogue.labels == {"stable": 1}
        assert model.running[0].live == LiveSettings(versions=VersionPolicy(specific=(1,)), labels={"stable": 1})

    run(scenario(), model)


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        pytest.param(ModelConfig(ALL, {"stable": 2}), LoadFailed, "'stable' cannot be given", id="not available"),
        pytest.param(ModelConfig(ALL, {"stable": 3}), LoadFailed, "load it first", id="not there"),
        pytest.param(ModelConfig(VersionPolicy(specific=(2,)), {"a": 1}), LoadFailed, "will not be", id="given up"),
        pytest.param(ModelConfig(ALL, {}, "/etc"), BadRequest, "base_path .* cannot be changed", id="elsewhere"),
        pytest.param(ModelConfig(ALL, {"1st": 1}), BadRequest, "1st", id="no label"),
        pytest.param(ModelConfig(ALL, {}), BadRequest, "none of its labels", id="traffic without its label"),
    ],
)
def test_a_reload_with_anything_wrong_changes_nothing(
    config: ModelConfig, error: type[ApertureError], words: str
) -> None:
    model, other = Model(disk={1: "good", 2: "bad"}), Model("others")

    async def scenario() -> None:
        if "labels" in words:
            # Of which a reload says nothing, so that it goes on.
            for replica in model.running:
                replica.base = replica.live = LiveSettings(labels={"stable": 1}, traffic={"stable": 1})
            await model.refresh()
        before = [replica.status().live for replica in model.running]
        with refused(error, words):
            await Fleet(model, other).reload(others=ModelConfig(VersionPolicy(latest=2), {}), shapes=config)
        assert [replica.status().live for replica in model.running] == before
        assert [replica.status().override for replica in (*model.running, *other.running)] == [None] * 4

    run(scenario(), model, other)


def test_a_reload_unloads_the_models_that_it_leaves_out_and_loads_those_that_it_names() -> None:
    model, other = Model(), Model("others")

    async def scenario() -> None:
        fleet = Fleet(model, other)
        await fleet.reload(others=ModelConfig(LATEST, {}))
        assert (model.answering(), other.answering()) == ([], [1])
        await fleet.reload(shapes=ModelConfig(LATEST, {}))
        assert (model.answering(), other.answering()) == ([1], [])

    run(scenario(), model, other)


def test_a_version_that_a_reload_asks_for_in_vain_is_tried_once_in_each_replica() -> None:
    model = Model(disk={1: "good", 2: "bad"})

    async def scenario() -> None:
        with refused(LoadFailed, "^bad Of 'shapes' these versions answer: 1"):
            await Fleet(model).reload(shapes=ModelConfig(VersionPolicy(specific=(1, 2)), {}))
        # At the start, and now.
        assert [replica.loads.count(2) for replica in model.running] == [2, 2]

    run(scenario(), model)


# Others who change the model


def test_a_request_holds_over_what_a_faster_clock_has_made() -> None:
    model = Model()

    async def scenario() -> None:
        ahead = time.time_ns() + 10**12
        await model.override(Override(model.base, ahead, LiveSettings(versions=ALL)))
        await Fleet(model).unload()
        assert model.catalogue.is_unloaded
        await Fleet(model).load()
        # What was in force besides is so again.
        assert model.running[0].live.versions == ALL

    run(scenario(), model)


def test_replicas_whose_configuration_is_just_changing_refuse_and_the_client_is_told_to_come_again() -> None:
    model = Model()

    async def scenario() -> None:
        model.running[1].base = LiveSettings(versions=ALL)
        with refused(ModelNotReady, "just changing the model 'shapes'; try again") as caught:
            await Fleet(model).unload()
        assert isinstance(caught.value, ModelNotReady)
        assert caught.value.retry_after_s

    run(scenario(), model)


# Who may, and what is written down


def test_nothing_is_changed_where_nobody_has_allowed_it() -> None:
    model = Model()

    async def scenario() -> None:
        fleet = Fleet(model, enabled=False)
        for action in (fleet.load(), fleet.unload(), fleet.reload(shapes=ModelConfig(ALL, {}))):
            with refused(AdministrationOff, "administration.enabled is true in args"):
                await action
        assert model.answering() == [1]
        assert model.running[0].loads == [1]

    run(scenario(), model)


def test_each_request_is_a_line_in_the_log_whatever_becomes_of_it(caplog: pytest.LogCaptureFixture) -> None:
    model = Model()

    async def scenario() -> None:
        fleet = Fleet(model)
        await fleet.unload()
        hostile = "cats\nBy root, in 0.1 s: unload of shapes: done" + 1000 * "!"
        with refused(UnknownModel, "There is no model 'cats"):
            await fleet.load(hostile)
        with refused(UnknownModel, "There is no model"):
            await fleet.reload(cats=ModelConfig(ALL, {"a": 1}))
        model.disk[1] = "bad"
        model.loading.clear()
        with refused(DeadlineExceeded, "not done"):
            await fleet.load(timeout_s=0.1)

    with caplog.at_level(logging.INFO, "ray.serve"):
        run(scenario(), model)
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("By ")]
    assert [line.partition(",")[0] for line in lines] == ["By a test"] * 4
    assert lines[0].endswith(" s: unload of 'shapes': done")
    assert " s: load of 'cats\\nBy root, in 0.1 s" in lines[1]
    assert "': refused: There is no model 'cats" in lines[1]
    assert len(lines[1]) < 1000
    assert "configuration \"cats: {'all': True} {'a': 1}\": refused: There is no" in lines[2]
    assert lines[3].endswith("load of 'shapes': not done yet")
    assert not any("\n" in line for line in lines)


def test_administration_is_off_unless_the_operator_says_otherwise() -> None:
    content = {"models": [{"name": "shapes", "engine": "dummy"}]}
    assert not Settings.model_validate(content).administration.enabled
    assert Settings.model_validate(content | {"administration": {"enabled": True}}).administration.enabled


KEYS, OPEN, NOBODY = Access(keys_env="KEYS"), Access(open_to_all=True), Access()


@pytest.mark.parametrize(
    ("access", "host", "allowed"),
    [
        (KEYS, "0.0.0.0", True),
        (KEYS, "127.0.0.1", True),
        (NOBODY, "127.0.0.1", True),
        (NOBODY, "0.0.0.0", False),
        (NOBODY, None, False),
        (OPEN, "0.0.0.0", False),
        # gRPC listens everywhere.
        (OPEN, "127.0.0.1", False),
    ],
)
def test_no_other_machine_changes_models_without_a_key(access: Access, host: str | None, allowed: bool) -> None:
    check_administration(Administration(), access, host)
    enabled = Administration(enabled=True)
    if allowed:
        check_administration(enabled, access, host)
    else:
        with pytest.raises(ConfigError, match="name API keys in args"):
            check_administration(enabled, access, host)
