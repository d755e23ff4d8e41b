"""Replicas follow a real load up and down, to none and back, and no request is lost on the way."""

import asyncio
import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from PIL import Image
from ray import serve

from scripts.check_config import APPLICATION_NAME
from tests.awaiting import await_condition
from tests.local_graph import DEPLOY_TIMEOUT_S, Graph, deploy, deploy_graph, graph_config

MODEL = "colours"
# 8 images/s in full batches of 8, which take a second, and no CPU.
SECONDS = {"APERTURE_DUMMY_SECONDS": "0.2 0.1"}
HOLD_DOWN_S = 8
AUTOSCALING = {
    "min_replicas": 0,
    "initial_replicas": 1,
    "max_replicas": 4,
    "metrics_interval_s": 1,
    "look_back_period_s": 5,
    "aggregation_function": "max",
    "upscale_delay_s": 0,
    "downscale_delay_s": 0,
    "policy": {
        "policy_function": "deployments.autoscaling:LatencyPolicy",
        "policy_kwargs": {"target_latency_s": 2.5, "hold_down_s": HOLD_DOWN_S},
    },
}
# Half as much again; more would have waited too long for an answer before another replica is there on a busy machine.
PER_SECOND = 12.0
SOON_S = 60.0


def autoscaled_config() -> dict[str, Any]:
    """graph_config with the model `colours` autoscaled; its images still travel together."""
    config = graph_config()
    (deployment,) = [one for one in config["applications"][0]["deployments"] if one["name"] == MODEL]
    deployment["autoscaling_config"] = AUTOSCALING
    deployment["ray_actor_options"]["runtime_env"] = {"env_vars": SECONDS}
    return config


@pytest.fixture
def autoscaled(graph: Graph) -> Iterator[Graph]:
    deploy(autoscaled_config())
    # The model itself may be asleep again before the others are warm.
    await_condition(is_settled, DEPLOY_TIMEOUT_S, "the autoscaled graph runs")
    yield graph
    deploy_graph(graph)
    await_condition(lambda: is_settled() and replicas() == 1, DEPLOY_TIMEOUT_S, "the graph is as it was")


def is_settled() -> bool:
    return serve.status().applications[APPLICATION_NAME].status.value == "RUNNING"


def states() -> dict[Any, int]:
    found: dict[Any, int] = serve.status().applications[APPLICATION_NAME].deployments[MODEL].replica_states
    return found


def replicas() -> int:
    """How many replicas of the model start, run or end."""
    return sum(states().values())


def running() -> int:
    return sum(count for state, count in states().items() if state == "RUNNING")


# Serve has nothing else yet that sets it for one deployment.
@pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning")
def test_replicas_follow_the_load_to_none_and_back_and_no_request_is_lost(autoscaled: Graph) -> None:
    assert asyncio.run(burst(autoscaled, 1)) == [200]

    # What does not fit into the calls in flight waits in the Ingress, where no replica sees it.
    statuses = asyncio.run(load_until(autoscaled, lambda: running() >= 2, SOON_S))
    assert running() >= 2
    assert set(statuses) == {200}

    # Nobody comes any more.
    await_condition(lambda: replicas() == 0, HOLD_DOWN_S + SOON_S, "the last replica ends")

    # These wait for a replica to start.
    assert asyncio.run(burst(autoscaled, 5)) == [200] * 5
    assert replicas() >= 1


async def load_until(graph: Graph, condition: Callable[[], bool], timeout_s: float) -> list[int]:
    """What became of requests that come PER_SECOND, whatever became of earlier ones, until the condition holds or the
    time is over."""
    calls: list[asyncio.Task[int]] = []
    started = time.monotonic()
    async with httpx.AsyncClient(base_url=graph.url, timeout=60) as client:
        while not await asyncio.to_thread(condition) and time.monotonic() < started + timeout_s:
            while len(calls) < PER_SECOND * (time.monotonic() - started):
                calls.append(asyncio.create_task(ask(client)))
            await asyncio.sleep(1 / PER_SECOND)
        return await asyncio.gather(*calls)


async def burst(graph: Graph, count: int) -> list[int]:
    async with httpx.AsyncClient(base_url=graph.url, timeout=60) as client:
        return await asyncio.gather(*(ask(client) for _ in range(count)))


async def ask(client: httpx.AsyncClient) -> int:
    response = await client.post("/predict", params={"model": MODEL}, content=picture())
    return response.status_code


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 30, 30)).save(file, "PNG")
    return file.getvalue()
