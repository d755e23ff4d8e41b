"""The driver of a promotion: each step taken once, in the log with its figures, and by hand where that is asked for."""

import asyncio
import logging
from typing import Any

import pytest

from deployments import promotion_driver
from deployments.comparison import Comparison, Trial
from deployments.promotion import LEAST_EVENTS
from deployments.promotion_driver import RECENT_S, Look, PromotionDriver
from deployments.settings.promotion import Promotion, Stage


class World:
    """A service with one candidate. What is applied is in force at the next look, unless `refuses`."""

    def __init__(self, **promotion: Any) -> None:
        self.promotion = Promotion.model_validate({"candidate": 2, "min_requests": 100, **promotion})
        self.stages: list[Stage] = []
        self.counted = Comparison()
        self.is_on_trial, self.refuses, self.now, self.looks = True, False, 0.0, 0
        self.driver = PromotionDriver("pets", self.look, self.apply, lambda: self.now)

    async def look(self) -> Look | None:
        self.looks += 1
        if not self.is_on_trial:
            return None
        counted = Comparison()
        counted.merge(self.counted)
        return Look(Trial("settings", 1, 2, self.promotion.stage), self.promotion, counted)

    async def apply(self, promotion: Promotion) -> None:
        if self.refuses:
            raise RuntimeError("refused")
        self.promotion = promotion
        self.stages.append(promotion.stage)
        self.counted = Comparison()

    def compare(self, images: int) -> None:
        self.counted.agreements += images
        for _ in range(images):
            self.counted.differences.add(0.01)
            self.counted.stable_engine.add(0.01)
            self.counted.candidate_engine.add(0.01)

    def serve(self, images: int, failing: int = 0, candidate_s: float = 0.01) -> None:
        self.counted.candidate_served.errors += failing
        for number in range(10 * images):
            if number % 10:
                self.counted.stable_served.latency.add(0.01)
            else:
                self.counted.candidate_served.latency.add(candidate_s)

    def step(self, after_s: float = promotion_driver.LOOK_S) -> None:
        self.now += after_s
        asyncio.run(self.driver.step())


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve")


def test_a_good_candidate_goes_from_shadow_to_canary_to_stable(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.compare(99)
    world.step()
    assert world.stages == []
    world.compare(1)
    world.step()
    assert world.stages == ["canary"]
    world.serve(99)
    world.step()
    world.serve(1)
    world.step()
    world.step()
    assert world.stages == ["canary", "stable"]
    assert (
        "version 2 goes from shadow to canary: In bounds after 100 images compared: top-1 agreement 1 (" in caplog.text
    )
    assert "version 2 goes from canary to stable: In bounds after 100 images answered" in caplog.text


def test_a_canary_that_leaves_its_bounds_is_rolled_back_once_with_its_figures(caplog: pytest.LogCaptureFixture) -> None:
    world = World(stage="canary")
    world.serve(20, failing=10)
    world.step()
    world.serve(20, failing=10)
    world.step()
    assert world.stages == ["rolled_back"]
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert (
        "goes from canary to rolled_back: Out of bounds after 30 images answered: 10 of 30 images failed"
        in warning.getMessage()
    )
    assert world.promotion.reason.startswith("Out of bounds after 30 images answered")


def test_a_step_by_hand_is_told_once_and_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    world = World(automatic={"canary": False})
    for _ in range(3):
        world.compare(100)
        world.step()
    assert world.stages == []
    told = [record.getMessage() for record in caplog.records if "by hand" in record.getMessage()]
    assert len(told) == 1
    assert "is ready to go from shadow to canary by hand: In bounds after 100 images compared" in told[0]


def test_a_rollback_by_hand_is_told_and_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    world = World(stage="canary", automatic={"rollback": False})
    world.serve(20, failing=20)
    world.step()
    world.step()
    assert world.stages == []
    assert caplog.text.count("is ready to go from canary to rolled_back by hand") == 1


def test_a_slow_canary_is_rolled_back_by_what_came_lately(caplog: pytest.LogCaptureFixture) -> None:
    world = World(stage="canary", min_requests=100_000)
    for _ in range(5):
        world.serve(300)
        world.step()
    assert world.stages == []
    world.step(2 * RECENT_S)
    world.serve(20, candidate_s=0.1)
    world.step()
    assert world.stages == ["rolled_back"]
    assert "20 of 20 images took longer than 14.99 ms lately" in caplog.text


def test_what_came_more_than_a_minute_ago_is_not_lately() -> None:
    world = World(stage="canary", min_requests=100_000)
    world.step()
    world.serve(LEAST_EVENTS - 1, candidate_s=0.1)
    world.step()
    for _ in range(3):
        world.step(RECENT_S / 2)
    world.serve(1, candidate_s=0.1)
    world.serve(12)
    world.step()
    assert world.stages == []


def test_what_came_within_a_minute_is_lately() -> None:
    world = World(stage="canary", min_requests=100_000)
    world.serve(100)
    world.step()
    for _ in range(LEAST_EVENTS):
        world.serve(1, candidate_s=0.1)
        world.step()
    assert world.stages == ["rolled_back"]


def test_what_was_rolled_back_stays_out_until_the_configuration_changes() -> None:
    world = World(stage="canary")
    world.serve(20, failing=20)
    world.step()
    for _ in range(5):
        world.compare(1000)
        world.serve(1000)
        world.step()
    assert world.stages == ["rolled_back"]
    world.promotion = world.promotion.model_copy(update={"stage": "shadow", "reason": ""})
    world.step()
    assert world.stages == ["rolled_back", "canary"]


def test_what_could_not_be_applied_is_due_again(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.compare(100)
    world.refuses = True
    with pytest.raises(RuntimeError):
        world.step()
    world.refuses = False
    world.step()
    assert world.stages == ["canary"]


def test_nothing_happens_while_nothing_is_on_trial() -> None:
    world = World()
    world.compare(1000)
    world.is_on_trial = False
    world.step()
    assert world.stages == []


def test_another_driver_goes_on_where_one_has_ended() -> None:
    world = World()
    world.compare(100)
    world.step()
    world.driver = PromotionDriver("pets", world.look, world.apply, lambda: world.now)
    world.serve(100)
    world.step()
    assert world.stages == ["canary", "stable"]


def test_it_looks_again_after_a_look_that_failed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(promotion_driver, "LOOK_S", 0.001)
    world = World()
    world.compare(100)
    world.refuses = True

    async def run() -> None:
        running = asyncio.create_task(world.driver.run())
        async with asyncio.timeout(20):
            while world.looks < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            world.refuses = False
            while world.stages != ["canary"]:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        running.cancel()

    asyncio.run(run())
    assert "could not be looked at" in caplog.text
