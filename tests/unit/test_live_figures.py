"""GET /playground/live: figures of all replicas together, asked for once a second however many look."""

import asyncio
import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from jsonschema_rs import Draft202012Validator

from deployments.live_figures import LiveFigures, LiveView, Polled
from deployments.live_poll import GraphPoll, running_replicas
from deployments.protocols.http import asgi_app
from deployments.protocols.openapi.document import document
from deployments.protocols.playground.live import PATH, routes
from deployments.recent import RecentRequests
from deployments.settings import Limits
from tests.unit.test_recent import NOW, Clock, counted

REPLICAS = {"Ingress": 2, "Preprocessor": 1, "shapes": 3}


class Poll:
    """Two Ingress replicas, of which one has answered ten requests in the last second and failed at one."""

    def __init__(self) -> None:
        self.ends: list[int] = []
        self.go = asyncio.Event()
        self.go.set()
        self.fails = False

    async def __call__(self, end: int) -> Polled:
        self.ends.append(end)
        await self.go.wait()
        if self.fails:
            raise ConnectionError("Nobody answers.")
        busy = counted(*[(end - 1, 0.05, False)] * 10, (end - 1, 0.05, True))
        minutes = [busy.minute_before(end), RecentRequests().minute_before(end)]
        return Polled(minutes, [Counter({1: 2, 8: 1}), Counter({8: 4})], REPLICAS)


def test_the_figures_are_those_of_all_replicas_together() -> None:
    figures = asyncio.run(LiveView(Poll(), Clock(NOW + 0.25)).figures())
    assert (figures.now_ms, figures.replicas) == ((NOW * 1000) + 250, REPLICAS)
    assert (figures.seconds[-1].requests, figures.seconds[-1].failed) == (11, 1)
    assert sum(second.requests for second in figures.seconds[:-1]) == 0
    assert figures.p50_ms == pytest.approx(50, rel=0.06)
    assert figures.p99_ms == pytest.approx(50, rel=0.06)
    assert figures.batch_sizes == {1: 2, 8: 5}


def test_however_many_look_the_replicas_are_asked_once_a_second() -> None:
    async def look() -> None:
        poll, clock = Poll(), Clock(NOW)
        view = LiveView(poll, clock)
        await asyncio.gather(*(view.figures() for _ in range(100)))
        clock.now = NOW + 0.9
        await view.figures()
        assert poll.ends == [NOW]
        clock.now = NOW + 1
        await asyncio.gather(*(view.figures() for _ in range(100)))
        assert poll.ends == [NOW, NOW + 1]

    asyncio.run(look())


def test_nobody_is_asked_while_nobody_looks_and_none_twice_while_an_answer_takes_its_time() -> None:
    async def look() -> None:
        poll, clock = Poll(), Clock(NOW)
        view = LiveView(poll, clock)
        await asyncio.sleep(0)
        assert poll.ends == []
        poll.go.clear()
        early = asyncio.create_task(view.figures())
        await asyncio.sleep(0)
        clock.now = NOW + 5
        late = asyncio.create_task(view.figures())
        await asyncio.sleep(0)
        assert poll.ends == [NOW]
        early.cancel()
        poll.go.set()
        assert (await late).replicas == REPLICAS

    asyncio.run(look())


def test_what_fails_is_tried_again_a_second_later() -> None:
    async def look() -> None:
        poll, clock = Poll(), Clock(NOW)
        view = LiveView(poll, clock)
        poll.fails = True
        with pytest.raises(ConnectionError):
            await view.figures()
        poll.fails, clock.now = False, NOW + 1
        assert (await view.figures()).replicas == REPLICAS

    asyncio.run(look())


class Deployment:
    """In the place of Serve's handle of two replicas; `answer` is what each says, or raises."""

    def __init__(self, answer: Any, replicas: int = 2) -> None:
        curr = {number: None for number in range(replicas)}
        self._router = SimpleNamespace(
            _asyncio_router=SimpleNamespace(request_router=SimpleNamespace(curr_replicas=curr))
        )
        self._answer = answer
        self.asked: list[tuple[Any, ...]] = []

    def broadcast(self, method: str, *args: Any) -> "Deployment":
        self.asked.append((method, *args))
        return self

    async def results_async(self) -> list[Any]:
        if isinstance(self._answer, Exception):
            raise self._answer
        return [self._answer] * 2


def test_a_deployment_that_does_not_answer_leaves_the_figures_of_the_others() -> None:
    ingress: Any = Deployment(counted((NOW, 0.1, False)).minute_before(NOW + 1))
    gone: Any = Deployment(ConnectionError("It is going."), 1)
    preprocessor: Any = Deployment(None, 3)
    there: Any = Deployment(Counter({4: 1}))
    poll = GraphPoll(lambda: ingress, preprocessor, {"shapes": there, "others": gone})
    polled = asyncio.run(poll(NOW + 1))
    assert [minute.seconds[-1].requests for minute in polled.requests] == [1, 1]
    assert polled.batches == [Counter({4: 1})] * 2
    assert polled.replicas == {"Ingress": 2, "Preprocessor": 3, "shapes": 2, "others": 1}
    assert (ingress.asked, preprocessor.asked) == ([("requests_before", NOW + 1)], [])
    assert there.asked == [("batches_before", NOW + 1)]


def test_a_handle_that_has_not_heard_of_its_replicas_has_none() -> None:
    handles: list[Any] = [
        SimpleNamespace(_router=None),
        SimpleNamespace(_router=SimpleNamespace(_asyncio_router=SimpleNamespace(request_router=None))),
    ]
    assert [running_replicas(handle) for handle in handles] == [0, 0]


def answered(figures: LiveFigures) -> httpx.Response:
    class Known:
        async def figures(self) -> LiveFigures:
            return figures

    app = asgi_app(routes(Known()), Limits(), lambda: "test-id")

    async def exchange() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return await client.get(PATH)

    return asyncio.run(exchange())


@pytest.mark.parametrize("quantile", [12.5, None])
def test_the_answer_is_what_is_described(quantile: float | None) -> None:
    seconds = counted((NOW, 0.1, True)).minute_before(NOW + 1).seconds
    response = answered(LiveFigures(NOW * 1000, seconds, quantile, quantile, {1: 2, 16: 3}, REPLICAS))
    body = response.json()
    components = json.loads(document({"shapes": None}, {"shapes": {}}))["components"]
    Draft202012Validator({"$ref": "#/components/schemas/LastMinute", "components": components}).validate(body)
    assert body.pop("seconds") == [{"requests": 0, "failed": 0}] * 59 + [{"requests": 1, "failed": 1}]
    assert body == {
        "now_ms": NOW * 1000,
        "p50_ms": quantile,
        "p99_ms": quantile,
        "batch_sizes": {"1": 2, "16": 3},
        "replicas": REPLICAS,
    }
    assert response.headers["cache-control"] == "no-store"
