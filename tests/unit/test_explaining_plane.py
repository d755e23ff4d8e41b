"""The data plane behind /explain and the live figures: what it asks of a Classifier, refuses and counts."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorUnavailableError
from ray.serve.exceptions import BackPressureError

from deployments.dataplane import ServeDataPlane
from deployments.errors import ApertureError, BadRequest, ModelNotReady, NotExplainable, Overloaded
from deployments.recent import Second
from deployments.settings import Admission
from tests.unit.devices import in_loop, turns_of_the_loop
from tests.unit.test_cached_plane import ON, Deployment, Remote, plane_on
from tests.unit.versioned import replica

HEAT = np.eye(4, dtype=np.float32)


class Explaining(Deployment):
    """`outcome`: what its method `explain` returns or raises. `asked`: for which classes."""

    def __init__(self, outcome: Any = HEAT) -> None:
        super().__init__()
        self.status = replica(1)
        self.outcome = outcome
        self.asked: list[tuple[tuple[int, ...], int, int]] = []

    @property
    def explain(self) -> Remote:
        return Remote(self._explain)

    async def _explain(self, job: tuple[Any, float], index: int, version: int) -> Any:
        pixels, budget_s = job
        assert 0 < budget_s <= 30
        self.asked.append((pixels.shape, index, version))
        if isinstance(self.outcome, Exception) and not isinstance(self.outcome, ApertureError):
            raise self.outcome
        return self.outcome


def on(deployment: Explaining, test: Callable[[ServeDataPlane], Awaitable[None]], **settings: Any) -> None:
    async def run() -> None:
        await test(await plane_on(deployment, **settings))

    in_loop(run())


def test_the_best_class_is_explained_or_the_one_that_is_asked_for() -> None:
    deployment = Explaining()

    async def ask(plane: ServeDataPlane) -> None:
        info = plane.info_of("model")
        for index, explained in ((None, 0), (1, 1)):
            explanation = await plane.explain(b"image", info, index)
            assert (explanation.index, explanation.answer.info) == (explained, info)
            assert explanation.heat is HEAT
        assert deployment.asked == [((4, 4, 3), 0, 1), ((4, 4, 3), 1, 1)]

    on(deployment, ask)


def test_a_class_that_is_not_there_is_refused_in_a_sentence_that_names_those_that_are() -> None:
    async def ask(plane: ServeDataPlane) -> None:
        info = plane.info_of("model")
        with pytest.raises(BadRequest, match=f"0 to {len(info.labels) - 1}, and no {len(info.labels)}"):
            await plane.explain(b"image", info, len(info.labels))

    on(deployment := Explaining(), ask)
    assert deployment.asked == []


REFUSALS = {
    "refused": (NotExplainable("It is no network."), NotExplainable),
    "busy": (Overloaded("Another one.", 1.0), Overloaded),
    "full": (BackPressureError(num_queued_requests=1, max_queued_requests=1), Overloaded),
    "lost": (ActorUnavailableError("gone", b"0" * 16), ModelNotReady),
}


@pytest.mark.parametrize(("outcome", "kind"), REFUSALS.values(), ids=REFUSALS)
def test_what_keeps_a_heat_map_from_being_made_is_a_refusal_and_the_answer_counts(
    outcome: Exception, kind: type[ApertureError]
) -> None:
    async def ask(plane: ServeDataPlane) -> None:
        with pytest.raises(kind):
            await plane.explain(b"image", plane.info_of("model"), None)
        counted = plane.requests_here("model")[1]
        assert (counted.success.count, counted.fail.count) == (1, 0)

    on(Explaining(outcome), ask)


def test_while_there_is_no_room_for_an_image_there_is_none_for_a_heat_map() -> None:
    async def ask(plane: ServeDataPlane) -> None:
        info = plane.info_of("model")
        deployment.is_up.clear()
        first = asyncio.create_task(plane.classify([b"image"], info))
        await turns_of_the_loop(20)
        with pytest.raises(Overloaded):
            await plane.explain(b"image", info, None)
        deployment.is_up.set()
        await first

    on(deployment := Explaining(), ask, admission=Admission(max_images=1))
    assert (deployment.asked, deployment.computed) == ([], 1)


def test_requests_are_counted_in_the_second_in_which_they_ended() -> None:
    async def ask(plane: ServeDataPlane) -> None:
        info = plane.info_of("model")
        await plane.classify([b"one", b"two"], info)
        await plane.classify([BadRequest("no image"), b"one"], info)
        minute = plane.recent.minute_before(int(time.time()) + 1)
        assert sum(minute.seconds, Second()) == Second(2, 1)
        assert minute.latencies.count == 1

    on(Explaining(), ask)


def test_triton_counts_hits_and_misses_of_the_cache_and_leaves_hits_out_of_computing() -> None:
    """protocol/extension_statistics.md of triton-inference-server/server."""
    deployment = Explaining()
    deployment.status = replica(1, **ON)

    async def ask(plane: ServeDataPlane) -> None:
        info = plane.info_of("model")
        for images in ([b"one"], [b"one"], [b"one", b"two"], [b"two", b"one"]):
            await plane.classify(images, info)
        counted = plane.requests_here("model")[1]
        assert {name: total.count for name, total in counted.durations().items()} == {
            **{"success": 4, "fail": 0, "queue": 4, "cache_hit": 2, "cache_miss": 2},
            **dict.fromkeys(("compute_input", "compute_infer", "compute_output"), 2),
        }
        parts = sum(total.ns for name, total in counted.durations().items() if name != "success")
        assert parts == pytest.approx(counted.success.ns, abs=100)

    on(deployment, ask)


def test_a_model_without_a_cache_has_neither_hits_nor_misses() -> None:
    async def ask(plane: ServeDataPlane) -> None:
        await plane.classify([b"one"], plane.info_of("model"))
        counted = plane.requests_here("model")[1]
        assert (counted.cache_hit.count, counted.cache_miss.count, counted.compute_infer.count) == (0, 0, 1)

    on(Explaining(), ask)
