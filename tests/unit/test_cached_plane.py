"""The data plane with a cache: what it saves, what it leaves of admission, and that a version that changes is asked."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from deployments.answer_keys import MOST_HASHED_ON_LOOP_BYTES
from deployments.dataplane import ServeDataPlane
from deployments.errors import Overloaded
from deployments.messages import Answer, ModelInfo, Pixels, ReplicaStatus, Scores
from deployments.settings import LiveSettings, ModelSettings, Settings
from tests.unit.devices import in_loop, turns_of_the_loop
from tests.unit.versioned import replica, status, version_info

ON: dict[str, Any] = {"cache": {"max_bytes": 2**20}}
Job = tuple[Any, float]


class Response:
    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values

    async def results_async(self) -> Sequence[Any]:
        return self._values


class Deployment:
    """In the place of both of Serve's handles. The logit of each image is `content`, while `is_up`."""

    def __init__(self) -> None:
        self.status: ReplicaStatus = replica(1, **ON)
        self.content = 1.0
        self.computed = 0
        self.is_up = asyncio.Event()
        self.is_up.set()

    def _init(self, **options: Any) -> None:
        pass

    def broadcast(self, method: str, *args: Any) -> Response:
        return Response([self.status if method == "status" else version_info(args[0], "model", 4)])

    @property
    def preprocess(self) -> "Remote":
        return Remote(self._preprocess)

    @property
    def classify(self) -> "Remote":
        return Remote(self._classify)

    async def _preprocess(self, jobs: Sequence[Job], spec: object) -> list[Pixels]:
        return [np.zeros((4, 4, 3), np.uint8) for _ in jobs]

    async def _classify(self, jobs: Sequence[Job], version: int) -> list[Scores]:
        self.computed += len(jobs)
        await self.is_up.wait()
        return [Scores(np.array([self.content, 0.0], np.float32), version, 0.0) for _ in jobs]


class Remote:
    def __init__(self, method: Any) -> None:
        self.remote = method


async def nothing_of(model: str) -> Sequence[Any]:
    return []


async def plane_on(deployment: Deployment, **settings: Any) -> ServeDataPlane:
    model = ModelSettings(name="model", engine="dummy")
    whole = Settings(models=(model,), **settings)
    handle: Any = deployment
    plane = ServeDataPlane(whole, handle, {"model": handle}, nothing_of, lambda: "id", nothing_of, lambda: False)
    await plane.models["model"].refresh()
    return plane


async def ask(
    plane: ServeDataPlane, image: bytes = b"image", info: ModelInfo | None = None
) -> tuple[str | None, float]:
    """Where the answer came from, and its logit."""
    (answer,) = await plane.classify([image], info or plane.info_of("model"))
    assert isinstance(answer, Answer)
    return answer.cached, float(answer.logits[0])


async def tell(plane: ServeDataPlane, deployment: Deployment, status: ReplicaStatus) -> None:
    deployment.status = status
    await plane.models["model"].refresh()


def test_a_version_that_is_unloaded_replaced_and_loaded_again_is_asked_again() -> None:
    async def run() -> None:
        deployment = Deployment()
        plane = await plane_on(deployment)
        assert [await ask(plane), await ask(plane)] == [("miss", 1.0), ("hit", 1.0)]
        await tell(plane, deployment, replica(status(1, "END"), **ON))
        assert len(plane.models["model"].cache) == 0
        deployment.content = 2.0
        await tell(plane, deployment, replica(1, **ON))
        assert [await ask(plane), await ask(plane)] == [("miss", 2.0), ("hit", 2.0)]

    in_loop(run())


def test_a_request_that_is_still_hashing_when_its_version_is_replaced_shares_nothing_with_the_new_one() -> None:
    async def run() -> None:
        plane = await plane_on(deployment := Deployment())
        hashers = ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(hashers)
        go_on = threading.Event()
        hashers.submit(go_on.wait)
        image = bytes(MOST_HASHED_ON_LOOP_BYTES + 1)
        old = asyncio.create_task(ask(plane, image))
        await turns_of_the_loop(5)
        await tell(plane, deployment, replica(status(1, "END"), **ON))
        await tell(plane, deployment, replica(1, **ON))
        new = asyncio.create_task(ask(plane, image))
        go_on.set()
        assert [(await old)[0], (await new)[0]] == ["miss", "miss"]

    in_loop(run())


def test_versions_do_not_share_answers_and_one_that_goes_leaves_the_others_theirs() -> None:
    async def run() -> None:
        deployment = Deployment()
        deployment.status = replica(1, 2, **ON)
        plane = await plane_on(deployment)
        first, second = plane.info_of("model", "1"), plane.info_of("model", "2")
        assert await ask(plane, info=first) == ("miss", 1.0)
        assert await ask(plane, info=second) == ("miss", 1.0)
        await tell(plane, deployment, replica(2, **ON))
        assert await ask(plane, info=second) == ("hit", 1.0)
        assert len(plane.models["model"].cache) == 1

    in_loop(run())


def test_a_cache_is_switched_on_and_off_while_the_model_serves() -> None:
    async def run() -> None:
        deployment = Deployment()
        deployment.status = replica(1)
        plane = await plane_on(deployment)
        assert [await ask(plane), await ask(plane)] == [(None, 1.0), (None, 1.0)]
        await tell(plane, deployment, replica(1, **ON))
        assert [await ask(plane), await ask(plane)] == [("miss", 1.0), ("hit", 1.0)]
        await tell(plane, deployment, ReplicaStatus(deployment.status.versions, LiveSettings()))
        assert await ask(plane) == (None, 1.0)
        assert deployment.computed == 4

    in_loop(run())


def test_the_same_image_twice_in_a_request_is_computed_once() -> None:
    async def run() -> None:
        deployment = Deployment()
        plane = await plane_on(deployment)
        answers = await plane.classify([b"image", b"other", b"image"], plane.info_of("model"))
        assert [isinstance(answer, Answer) and answer.cached for answer in answers] == ["miss", "miss", "joined"]
        assert deployment.computed == 2

    in_loop(run())


def test_who_waits_for_anothers_image_takes_no_place_of_those_that_are_computed() -> None:
    async def run() -> None:
        deployment = Deployment()
        deployment.is_up.clear()
        plane = await plane_on(deployment, admission={"max_images": 2})
        asking = []
        for image in [b"image"] * 20 + [b"other"]:
            asking.append(asyncio.create_task(ask(plane, image)))
            await turns_of_the_loop(5)
        refused = await asyncio.gather(ask(plane, b"third"), return_exceptions=True)
        deployment.is_up.set()
        origins = [origin for origin, _ in await asyncio.gather(*asking)]
        assert (origins.count("miss"), origins.count("joined")) == (2, 19)
        assert isinstance(refused[0], Overloaded)
        assert plane._admission.images == 0

    in_loop(run())


def test_hits_do_not_make_the_model_look_faster_than_it_is() -> None:
    async def run() -> None:
        plane = await plane_on(Deployment())
        await ask(plane)
        line = plane._admission._lines["model"]
        drained = line.rate._drained
        for _ in range(50):
            assert (await ask(plane))[0] == "hit"
        assert line.rate._drained <= drained

    in_loop(run())
