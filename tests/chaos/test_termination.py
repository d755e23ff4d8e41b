"""SIGTERM of the whole service, in the middle of its work."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks.chaos.cluster import Cluster, ask
from benchmarks.chaos.load import Endpoints
from benchmarks.chaos.scenarios import Stage, stopped
from tests.commands.conftest import ENVIRONMENT, Service, write_config

# A batch takes so long that some are always under way.
SECONDS = {"APERTURE_DUMMY_SECONDS": "0.3 0"}
PER_SECOND = 12.0
# For what is in flight, a second; for Serve to stop its processes, some more.
GRACE_S = 60.0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[Service, Endpoints]]:
    path = write_config(tmp_path, engine="dummy", path=None)
    config = yaml.safe_load(path.read_text())
    service = Service(path, environment={**ENVIRONMENT, **SECONDS})
    try:
        service.await_ready()
        yield service, Endpoints(service.url, f"127.0.0.1:{config['grpc_options']['port']}", "shapes")
    finally:
        service.stop()


def test_sigterm_answers_what_is_in_flight_and_ends_with_0(service: tuple[Service, Endpoints]) -> None:
    running, endpoints = service
    cluster = Cluster(endpoints, "aperture", running.process.pid, {}, with_haproxy=True)

    async def run() -> None:
        stage = Stage(cluster, await ask(endpoints), PER_SECOND, lead_s=2.0)
        ledger, status = await stopped(stage, running.process, GRACE_S)
        assert status == 0
        assert ledger.count("answered") > 0
        assert ledger.count("lost") == ledger.count("wrong") == ledger.count("other") == 0, ledger.examples()

    asyncio.run(run())
