"""A candidate in one Ingress: what is on trial, where mirrors go, when there is room, and how steps come into force."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest

from deployments import promotion_driver
from deployments.candidacy import MAX_LOST, Candidacy
from deployments.catalogue import Catalogue
from deployments.comparison import Comparisons, Trial
from deployments.errors import ApertureError, CorruptImage, InferenceFailed, Overloaded
from deployments.hops import ReplicaLost
from deployments.messages import Answer, ImageInput, ModelInfo, Override, ReplicaStatus, VersionStatus
from deployments.model_client import ModelClient
from deployments.settings import LiveSettings
from tests.unit.answers import answer_of, info_of

PIXELS = np.zeros((4, 4, 3), np.uint8)
PROMOTED: dict[str, Any] = {
    "default": "stable",
    "labels": {"stable": 1, "canary": 2},
    "shadow": {"candidate": "canary", "share": 1},
    "promotion": {"candidate": "canary", "min_requests": 100},
}


class Model:
    """Replicas that have what they are told to have, and take what overrides them."""

    def __init__(self, live: dict[str, Any], versions: Sequence[int] = (1, 2), replicas: int = 1) -> None:
        self.catalogue = Catalogue("pets")
        self.statuses: Sequence[ReplicaStatus] = ()
        self._base, self._override, self._versions = LiveSettings.model_validate(live), cast(Any, None), versions
        self._replicas = replicas
        self.update()

    def update(self) -> None:
        live = self._base if self._override is None else self._override.live
        statuses = tuple(VersionStatus(version, "AVAILABLE") for version in self._versions)
        self.statuses = [ReplicaStatus(statuses, live, self._override)] * self._replicas
        self.catalogue.update(self.statuses, {version: info_of(version) for version in self._versions})

    @property
    def live(self) -> LiveSettings:
        return self.catalogue.live

    @property
    def base(self) -> LiveSettings:
        return self.statuses[0].base

    async def override(self, override: Override) -> Sequence[bool]:
        self._override = override
        return [True] * self._replicas

    async def refresh(self) -> None:
        self.update()

    def versions_of_requests(self) -> dict[int, int]:
        """How many of 1000 requests that ask for none each version gets."""
        chosen = [self.catalogue.choose(None, None, f"{number}").version for number in range(1000)]
        return {version: chosen.count(version) for version in set(chosen)}


class World:
    def __init__(self, model: Model) -> None:
        self.model, self.in_hand, self.is_first = model, 0, True
        self.asked: list[tuple[int, bool]] = []
        self.outcome: Answer | ApertureError | Exception = answer_of(info_of(2), 0.7, 0.2, 0.1)
        self.others = Comparisons()
        self.candidacy = Candidacy(
            cast(ModelClient, model), self.ask, lambda: self.in_hand, self.of_all, lambda: self.is_first
        )

    async def ask(self, image: ImageInput, info: ModelInfo, niced: bool) -> Answer | ApertureError:
        self.asked.append((info.version, niced))
        if isinstance(self.outcome, Answer | ApertureError):
            return self.outcome
        raise self.outcome

    async def of_all(self, model: str) -> Sequence[Comparisons]:
        assert model == "pets"
        return [self.candidacy.counted.copy(), self.others]

    def answer(self, images: int = 1, version: int = 1) -> None:
        for _ in range(images):
            answer = answer_of(self.model.catalogue.infos[version], 0.7, 0.2, 0.1)
            self.candidacy.answered(b"picture", PIXELS, answer)
            self.candidacy.freed()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def trial(self) -> Trial | None:
        return (await self.candidacy.report()).trial


def run(test: Callable[[World], Any], model: Model) -> None:
    async def running() -> None:
        world = World(model)
        try:
            await test(world)
        finally:
            await world.candidacy.close()

    asyncio.run(running())


@pytest.mark.parametrize(
    ("live", "versions"),
    [
        ({}, (1, 2)),
        ({"shadow": {"candidate": 2, "share": 1}, "default": 1}, (1,)),
        ({"shadow": {"candidate": 2, "share": 1}}, (1, 2)),
        (PROMOTED, (2,)),
    ],
    ids=["no shadow", "no such candidate yet", "the candidate is what answers", "nothing to compare it with"],
)
def test_nothing_is_on_trial_without(live: dict[str, Any], versions: tuple[int, ...]) -> None:
    async def test(world: World) -> None:
        assert await world.trial() is None
        world.answer(version=versions[-1])
        await asyncio.sleep(0)
        assert world.asked == []

    run(test, Model(live, versions))


def test_a_shadow_is_compared_with_what_answers() -> None:
    async def test(world: World) -> None:
        trial = await world.trial()
        assert trial is not None
        assert (trial.stable, trial.candidate, trial.stage) == (1, 2, "shadow")
        world.answer(3)
        await world.until(lambda: world.candidacy.counted.of(trial).count == 3)
        assert set(world.asked) == {(2, True)}

    run(test, Model({"default": 1, "shadow": {"candidate": 2, "share": 1}}))


def test_mirrors_to_a_canary_do_not_make_its_requests_wait_for_what_gives_way() -> None:
    async def test(world: World) -> None:
        world.answer()
        await world.until(lambda: world.asked == [(2, False)])

    run(test, Model({**PROMOTED, "promotion": {"candidate": "canary", "stage": "canary"}}))


@pytest.mark.parametrize("stage", ["stable", "rolled_back"])
def test_nothing_is_mirrored_to_what_is_stable_or_was_rolled_back(stage: str) -> None:
    async def test(world: World) -> None:
        world.answer(5)
        for _ in range(10):
            await asyncio.sleep(0)
        assert world.asked == []

    run(test, Model({**PROMOTED, "promotion": {"candidate": "canary", "stage": stage}}))


@pytest.mark.parametrize(
    ("replicas", "in_hand", "is_free"),
    [(1, 0, True), (1, 1, False), (2, 1, False), (3, 1, True), (8, 6, True), (8, 7, False), (8, 20, False)],
)
def test_there_is_room_while_a_replica_beside_the_mirrors_one_is_idle(
    replicas: int, in_hand: int, is_free: bool
) -> None:
    async def test(world: World) -> None:
        world.in_hand = in_hand
        world.answer()
        for _ in range(10):
            await asyncio.sleep(0)
        assert bool(world.asked) == is_free

    run(test, Model({"default": 1, "shadow": {"candidate": 2, "share": 1}}, replicas=replicas))


def test_only_failures_of_the_version_itself_are_its_errors() -> None:
    async def test(world: World) -> None:
        for error in (InferenceFailed("no"), CorruptImage("no"), Overloaded("no")):
            world.candidacy.failed(info_of(2), error)
        report = await world.candidacy.report()
        assert report.counted.served[2].errors == 1
        assert report.trial is not None
        assert report.counted.of(report.trial).candidate_served.errors == 1

    run(test, Model(PROMOTED))


def test_a_candidate_that_ends_replicas_gets_no_more_mirrors() -> None:
    async def test(world: World) -> None:
        world.outcome = ReplicaLost()
        world.answer(20)
        await world.until(lambda: len(world.asked) >= MAX_LOST)
        trial = await world.trial()
        assert trial is not None
        await world.until(lambda: world.candidacy.counted.of(trial).errors >= MAX_LOST)
        asked = len(world.asked)
        world.answer(20)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(world.asked) == asked

    run(test, Model(PROMOTED))


def test_figures_are_those_of_all_ingress_replicas() -> None:
    async def test(world: World) -> None:
        world.others.answered(1, 0.01, None)
        world.candidacy.answered(b"x", PIXELS, answer_of(info_of(1), 0.7, 0.2, 0.1))
        assert (await world.candidacy.report()).counted.served[1].count == 2

    run(test, Model({}))


def test_another_configuration_is_another_trial() -> None:
    trials = []

    async def test(world: World) -> None:
        trials.append(await world.trial())

    for settings in (PROMOTED, PROMOTED, {**PROMOTED, "poll_s": 5}):
        run(test, Model(settings))
    assert trials[0] == trials[1]
    assert trials[0] != trials[2]


def test_a_step_divides_the_requests_and_keeps_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion_driver, "LOOK_S", 0.001)

    async def test(world: World) -> None:
        model = world.model
        assert model.versions_of_requests() == {1: 1000}
        world.candidacy.start()
        world.answer(30)
        await world.until(lambda: len(world.asked) == 30)
        for _ in range(3):
            world.answer(30)
            await world.until(lambda: not world.candidacy._mirrors.waiting)
        await world.until(lambda: model.live.promotion is not None and model.live.promotion.stage == "canary")
        assert model.live.promotion is not None
        assert model.live.promotion.reason.startswith("In bounds after 1")
        assert 60 <= model.versions_of_requests()[2] <= 140
        for _ in range(20):
            world.candidacy.failed(info_of(2), InferenceFailed("no"))
        await world.until(lambda: model.live.promotion is not None and model.live.promotion.stage == "rolled_back")
        assert model.versions_of_requests() == {1: 1000}
        assert (await world.trial()) is not None

    run(test, Model(PROMOTED))


def test_an_ingress_that_is_not_the_first_takes_no_step() -> None:
    async def test(world: World) -> None:
        for _ in range(20):
            world.candidacy.failed(info_of(2), InferenceFailed("no"))
        stages = []
        for world.is_first in (False, True):
            await world.candidacy._driver.step()
            assert world.model.live.promotion is not None
            stages.append(world.model.live.promotion.stage)
        assert stages == ["canary", "rolled_back"]

    run(test, Model({**PROMOTED, "promotion": {"candidate": "canary", "stage": "canary"}}))


def test_no_step_is_taken_while_a_configuration_comes_in() -> None:
    async def test(world: World) -> None:
        model = world.model
        for _ in range(20):
            world.candidacy.failed(info_of(2), InferenceFailed("no"))
        new = ReplicaStatus(model.statuses[0].versions, LiveSettings.model_validate({**PROMOTED, "default": 3}))
        model.statuses = [new, *model.statuses]
        await world.candidacy._driver.step()
        assert model._override is None

    run(test, Model({**PROMOTED, "promotion": {"candidate": "canary", "stage": "canary"}}))


def test_a_candidate_that_is_stable_answers_all_requests() -> None:
    model = Model({**PROMOTED, "promotion": {"candidate": "canary", "stage": "stable"}})
    assert model.versions_of_requests() == {2: 1000}
