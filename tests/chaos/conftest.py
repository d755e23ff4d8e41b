"""The session's cluster with two replicas of each deployment, and questions whose answers torchvision gave.

Ends as it began: what other tests have deployed is put back where others of them follow.
"""

import asyncio
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from benchmarks.chaos.questions import Question, apart, candidates
from tests.awaiting import await_condition, is_ready

if TYPE_CHECKING:
    from benchmarks.chaos.scenarios import Stage
    from tests.local_graph import Graph
    from tests.reference import Reference

MODEL = "shapes"
# Few enough for a machine that runs other tests at the same time.
PER_SECOND = 12.0
DEPLOY_TIMEOUT_S = 120.0


@pytest.fixture(scope="package")
def questions(reference: "Reference") -> list[Question]:
    return apart([Question(picture, reference.probabilities(picture)) for picture in candidates(60)])


@pytest.fixture(scope="package")
def stage(cluster: "Graph", questions: list[Question], request: pytest.FixtureRequest) -> "Iterator[Stage]":
    # Ray is imported late, so that it finds the environment of tests/conftest.py.
    from benchmarks.chaos.cluster import Cluster, chaos_config, is_settled, until
    from benchmarks.chaos.load import Endpoints
    from benchmarks.chaos.scenarios import Stage
    from tests.local_graph import deploy, deploy_graph, local_config

    config = chaos_config(local_config())
    endpoints = Endpoints(cluster.url, cluster.grpc_address, MODEL)
    played_on = Cluster(endpoints, config["applications"][0]["name"], os.getpid(), config, with_haproxy=True)
    deploy(config)
    await_condition(lambda: is_ready(cluster.url), DEPLOY_TIMEOUT_S, "the model is warm")
    asyncio.run(until(lambda: is_settled(played_on, config), DEPLOY_TIMEOUT_S, "every replica runs"))
    yield Stage(played_on, questions, PER_SECOND, lead_s=1.0, well_s=1.5)
    if any("graph" in item.fixturenames for item in following(request)):
        deploy_graph(cluster)


def following(request: pytest.FixtureRequest) -> list[pytest.Function]:
    """The tests of the session that come after those of this directory."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    ours = [number for number, item in enumerate(items) if "stage" in item.fixturenames]
    return items[max(ours) + 1 :]
