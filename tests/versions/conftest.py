"""Changes of a model's versions, played once under load in the session's cluster; the tests look at what came of them.

Ends as it began: what other tests have deployed is put back where others of them follow.
"""

import asyncio
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.awaiting import await_condition, is_ready

if TYPE_CHECKING:
    from benchmarks.versions.report import Row
    from tests.local_graph import Graph

MODEL = "shapes"
DEPLOY_TIMEOUT_S = 120.0
# As few as show what they are to show, since each version computes all of them.
GOLDEN_COUNT, QUESTIONS = 8, 12
# Over HTTP, and over gRPC: few enough for a machine that runs other tests at the same time.
CALLERS = (3, 1)
ANSWERS = 100
# `python -m benchmarks.versions` plays the others as well, which take longer.
PLAYED = ("load", "corrupt", "shadow of", "unload")


@pytest.fixture(scope="package")
def rows(
    cluster: "Graph", tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> "Iterator[Mapping[str, Row]]":
    """By the name of the change."""
    # Ray is imported late, so that it finds the environment of tests/conftest.py.
    from tests.local_graph import deploy_graph

    yield asyncio.run(_played(cluster, tmp_path_factory.mktemp("versions")))
    if any("graph" in item.fixturenames for item in _following(request)):
        deploy_graph(cluster)


async def _played(cluster: "Graph", folder: Path) -> "Mapping[str, Row]":
    from benchmarks.chaos.cluster import Cluster, chaos_config, is_settled, until
    from benchmarks.chaos.load import Endpoints
    from benchmarks.versions.files import ModelFiles
    from benchmarks.versions.scenarios import scenarios
    from benchmarks.versions.session import asked, played, under_load, with_versions
    from tests.local_graph import deploy, local_config

    files = ModelFiles(folder, GOLDEN_COUNT)
    questions = asked(files, QUESTIONS)
    config = with_versions(chaos_config(local_config()), files, "openvino")
    endpoints = Endpoints(cluster.url, cluster.grpc_address, MODEL)
    served = Cluster(endpoints, config["applications"][0]["name"], os.getpid(), config, with_haproxy=True)
    deploy(config)
    await until(lambda: is_settled(served, config), DEPLOY_TIMEOUT_S, "every replica runs")
    await_condition(lambda: is_ready(cluster.url), DEPLOY_TIMEOUT_S, "the model is warm")
    async with under_load(served, files, questions, CALLERS, ANSWERS) as stage:
        chosen = [scenario for scenario in scenarios() if scenario.name.startswith(PLAYED)]
        return {scenario.name: await played(scenario, stage, 0.0, 0.0) for scenario in chosen}


def _following(request: pytest.FixtureRequest) -> list[pytest.Function]:
    """The tests of the session that come after those of this directory."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    ours = [number for number, item in enumerate(items) if "rows" in item.fixturenames]
    return items[max(ours) + 1 :]
