"""What replicas had when they died: everybody but the culprit is answered, and the culprit ends no more than two."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any
from unittest.mock import Mock

import grpc
import numpy as np
import pytest
from grpc.aio import AioRpcError, Metadata
from ray.exceptions import ActorUnavailableError

from deployments import deadlines
from deployments.errors import ApertureError, DeadlineExceeded, InferenceFailed, ModelNotReady
from deployments.hops import Hops
from deployments.messages import ModelInfo, Pixels, Scores
from deployments.metrics import LOST_CALLS
from deployments.settings import ModelSettings, PreprocessingSpec, Settings
from tests.unit.devices import in_loop

MODEL = ModelSettings(name="model", engine="dummy")
INFO = ModelInfo("model", 1, ("red", "green", "blue"), PreprocessingSpec(), "dummy", "dummy", "fp32", "cpu")
POISON = 66
Job = tuple[Pixels, float]


def unavailable() -> Exception:
    return ActorUnavailableError("Actor is unavailable.", b"a" * 16)


def rpc_error(code: grpc.StatusCode) -> Exception:
    error: Exception = AioRpcError(code, Metadata(), Metadata(), "details")
    return error


class Deployment:
    """In the place of Serve's handle: replicas that die of poison, and of what the test does to them."""

    def __init__(self, deaths: Sequence[Exception] = ()) -> None:
        self.deaths = list(deaths)  # of the next calls, whatever is in them
        self.ended = 0
        self.calls: list[list[int]] = []
        self.alone: list[int] = []
        self.running_alone = 0
        self.most_alone = 0
        self.is_up = asyncio.Event()
        self.is_up.set()

    def options(self, *, stream: bool) -> "Deployment":
        assert stream
        return self

    @property
    def classify(self) -> "Remote":
        return Remote(self._classify)

    @property
    def classify_alone(self) -> "Remote":
        return Remote(self._classify_alone)

    async def _classify(self, jobs: Sequence[Job], version: int) -> list[Scores | ApertureError]:
        values = [value_of(pixels) for pixels, _ in jobs]
        self.calls.append(values)
        await self.is_up.wait()
        await asyncio.sleep(0)
        self._die_for_cause(POISON in values)
        return [scores_of(value) for value in values]

    async def _classify_alone(self, job: Job, version: int) -> AsyncGenerator[Scores | ApertureError | None, None]:
        value = value_of(job[0])
        self.running_alone += 1
        self.most_alone = max(self.most_alone, self.running_alone)
        try:
            await self.is_up.wait()
            await asyncio.sleep(0)
            self._die_for_cause(False)
            self.alone.append(value)
            yield None
            await asyncio.sleep(0)
            self._die_for_cause(value == POISON)
            yield scores_of(value)
        finally:
            self.running_alone -= 1

    def _die_for_cause(self, is_poisoned: bool) -> None:
        if is_poisoned or self.deaths:
            self.ended += 1
            raise self.deaths.pop(0) if self.deaths else unavailable()


class Remote:
    def __init__(self, method: Callable[..., Any]) -> None:
        self.remote = method


class Preprocessors:
    """The same, one call after the other."""

    def __init__(self, outcomes: Sequence[Exception | Pixels]) -> None:
        self.outcomes = list(outcomes)

    @property
    def preprocess(self) -> Remote:
        return Remote(self._preprocess)

    async def _preprocess(self, jobs: Sequence[Job], spec: PreprocessingSpec) -> list[Pixels]:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return [outcome] * len(jobs)


def image(value: int) -> Pixels:
    return np.full((4, 4, 3), value, np.uint8)


def value_of(pixels: Pixels) -> int:
    return int(pixels[0, 0, 0])


def scores_of(value: int) -> Scores:
    return Scores(np.array([value], np.float32), version=1, inference_s=0.0)


def hops_to(classifier: Any = None, preprocessor: Any = None) -> Hops:
    nobody = Mock(spec=["preprocess", "classify"])
    return Hops(MODEL, Settings(models=(MODEL,)), preprocessor or nobody, classifier or nobody, INFO)


def classified(hops: Hops, values: Sequence[int], within_s: float = 10.0) -> Awaitable[list[Any]]:
    deadline = deadlines.after(within_s)
    return asyncio.gather(*(hops.classify(image(value), deadline) for value in values), return_exceptions=True)


def logit(outcome: Scores | ApertureError) -> float:
    assert isinstance(outcome, Scores)
    return float(outcome.logits[0])


@pytest.mark.parametrize(
    "death",
    [unavailable(), rpc_error(grpc.StatusCode.UNAVAILABLE), rpc_error(grpc.StatusCode.CANCELLED)],
    ids=["actor unavailable", "by value, unavailable", "by value, told to stop"],
)
def test_what_a_replica_had_when_it_died_is_answered_by_another(death: Exception) -> None:
    async def test() -> None:
        deployment = Deployment([death])
        outcomes = await classified(hops_to(deployment), [1, 2, 3])
        assert [logit(outcome) for outcome in outcomes] == [1, 2, 3]
        assert deployment.ended == 1

    in_loop(test())


def test_an_image_that_ends_replicas_ends_two_and_all_its_neighbours_are_answered() -> None:
    async def test() -> None:
        deployment = Deployment()
        outcomes = await classified(hops_to(deployment), [1, 2, POISON, 3, 4])
        culprit = outcomes.pop(2)
        assert isinstance(culprit, InferenceFailed)
        assert [logit(outcome) for outcome in outcomes] == [1, 2, 3, 4]
        assert deployment.ended == 2
        assert deployment.alone.count(POISON) == 1

    in_loop(test())


def test_an_image_that_ended_two_replicas_is_not_tried_again() -> None:
    async def test() -> None:
        deployment = Deployment()
        hops = hops_to(deployment)
        await classified(hops, [POISON])
        calls = len(deployment.calls)
        again, other = await classified(hops, [POISON, 5])
        assert isinstance(again, InferenceFailed)
        assert logit(other) == 5
        assert deployment.calls[calls:] == [[5]]

    in_loop(test())


def test_an_innocent_whose_second_and_third_replica_dies_before_its_turn_is_asked_again_and_not_convicted() -> None:
    async def test() -> None:
        deployment = Deployment([unavailable(), unavailable(), unavailable()])
        hops = hops_to(deployment)
        (outcome,) = await classified(hops, [1])
        assert logit(outcome) == 1
        assert deployment.ended == 3
        assert deployment.alone == [1]

    in_loop(test())


def test_suspects_of_one_ingress_run_one_at_a_time() -> None:
    async def test() -> None:
        deployment = Deployment([unavailable()])
        await classified(hops_to(deployment), [1, 2, 3, 4, 5])
        assert deployment.alone == [1, 2, 3, 4, 5]
        assert deployment.most_alone == 1

    in_loop(test())


def test_while_there_is_no_replica_a_suspect_waits_and_may_leave() -> None:
    async def test() -> None:
        deployment = Deployment([unavailable()])
        hops = hops_to(deployment)
        deployment.is_up.clear()
        leaving, staying = (asyncio.ensure_future(classified(hops, [value])) for value in (1, 2))
        await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.sleep(0.01)
        assert not staying.done()
        deployment.is_up.set()
        assert logit((await staying)[0]) == 2

    in_loop(test())


def test_another_failure_of_a_call_is_not_repeated() -> None:
    async def test() -> None:
        deployment = Deployment([rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED)])
        (outcome,) = await classified(hops_to(deployment), [1])
        assert isinstance(outcome, AioRpcError)
        assert deployment.alone == []

    in_loop(test())


def lost(place: str) -> float:
    return sum(sample.value for sample in LOST_CALLS.samples() if sample.labels == {"place": place})


def test_a_lost_call_to_the_preprocessor_is_repeated() -> None:
    async def test() -> None:
        hops = hops_to(preprocessor=Preprocessors([unavailable(), image(7)]))
        before = lost("preprocessor")
        pixels = await hops.preprocess(b"encoded", deadlines.after(10))
        assert lost("preprocessor") == before + 1
        assert not isinstance(pixels, ApertureError)
        assert value_of(pixels) == 7

    in_loop(test())


def test_a_call_to_the_preprocessor_that_is_lost_twice_is_answered_with_when_to_come_again() -> None:
    async def test() -> None:
        hops = hops_to(preprocessor=Preprocessors([unavailable(), unavailable(), image(7)]))
        with pytest.raises(ModelNotReady) as caught:
            await hops.preprocess(b"encoded", deadlines.after(10))
        assert caught.value.http_status == 503
        assert caught.value.retry_after_s == 1

    in_loop(test())


def test_the_refusal_of_a_suspect_by_its_deadline_reaches_it() -> None:
    class Late(Deployment):
        async def _classify_alone(self, job: Job, version: int) -> AsyncGenerator[Scores | ApertureError | None, None]:
            yield DeadlineExceeded("too late")

    async def test() -> None:
        (outcome,) = await classified(hops_to(Late([unavailable()])), [1])
        assert isinstance(outcome, DeadlineExceeded)

    in_loop(test())
