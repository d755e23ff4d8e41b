"""The answer cache on the running graph: switched on and off by `user_config`, and one computation for many callers."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.awaiting import await_condition
from tests.local_graph import Graph, deploy, graph_config
from tests.reference import picture

URL = "/predict?model=slow"
CALLERS = 8
SWITCHED_TIMEOUT_S = 30.0


@pytest.fixture
def cached(graph: Graph, client: httpx.Client) -> Iterator[None]:
    """A cache for the model `slow`, while the test runs."""
    configure_slow({"cache": {"max_bytes": 2**20}})
    await_condition(lambda: cache_of(client, 0) is not None, SWITCHED_TIMEOUT_S, "the cache is on")
    yield
    configure_slow({})  # With none at all, Serve would leave what is in force.
    await_condition(lambda: cache_of(client, 0) is None, SWITCHED_TIMEOUT_S, "the cache is off")


def configure_slow(user_config: dict[str, Any]) -> None:
    config = graph_config()
    (slow,) = (each for each in config["applications"][0]["deployments"] if each["name"] == "slow")
    slow["user_config"] = user_config
    deploy(config)


def cache_of(client: httpx.Client, number: int) -> str | None:
    response = client.post(URL, content=picture("arrow", number)).raise_for_status()
    cached: str | None = response.headers.get("x-cache")
    return cached


def computed(client: httpx.Client) -> int:
    """Images that the engine has had."""
    count: int = client.get("/v2/models/slow/stats").json()["model_stats"][0]["inference_count"]
    return count


def test_identical_images_are_computed_once_and_kept_while_there_is_a_cache(
    graph: Graph, client: httpx.Client, cached: None
) -> None:
    async def ask_together(body: bytes) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=graph.url, timeout=60) as many:
            return await asyncio.gather(*(many.post(URL, content=body) for _ in range(CALLERS)))

    before = computed(client)
    together = asyncio.run(ask_together(picture("arrow", 1)))
    later = client.post(URL, content=picture("arrow", 1))
    assert sorted(response.headers["x-cache"] for response in together) == ["joined"] * (CALLERS - 1) + ["miss"]
    assert later.headers["x-cache"] == "hit"
    assert "inference;dur=0.0" in later.headers["server-timing"].replace(" ", "")
    answers = [response.json()["predictions"] for response in [*together, later]]
    assert answers == [answers[0]] * (CALLERS + 1)
    assert cache_of(client, 2) == "miss"
    assert computed(client) - before == 2
