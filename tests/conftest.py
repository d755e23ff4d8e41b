"""The environment of every test: Serve's production data plane, as `make serve` has it, and a cache that begins empty.

Set here, because Ray reads it when it is first imported, and the processes that it starts inherit it. Here are also the
fixtures of the running graph, since one serves several directories; they import Ray only when they are asked for.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from scripts.ray_env import haproxy_folder, production_profile
from tests.awaiting import free_port

if TYPE_CHECKING:
    from tests.local_graph import Graph
    from tests.reference import Reference

os.environ.update(production_profile(on_one_machine=True))
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_SERVE_HAPROXY_METRICS_PORT"] = str(free_port())
os.environ["RAY_SERVE_HAPROXY_STATS_PORT"] = str(free_port())

# By default every HAProxy of this machine has the same files and the same socket, and tests of commands start another.
HAPROXY_FOLDER = tempfile.mkdtemp(prefix="haproxy-")
atexit.register(shutil.rmtree, HAPROXY_FOLDER, ignore_errors=True)
os.environ.update(haproxy_folder(HAPROXY_FOLDER))

# One for the whole session, its worker processes included, so that the engines of the bundled model are measured once.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["APERTURE_CACHE"] = tempfile.mkdtemp(prefix="aperture-tests-")
    atexit.register(shutil.rmtree, os.environ["APERTURE_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> "Iterator[Graph]":
    """Ray and Serve's proxies, with no application."""
    from tests.local_graph import running_cluster

    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def graph(cluster: "Graph") -> "Graph":
    """The application of `tests.local_graph.graph_config`, every model warm."""
    from tests.local_graph import deploy_graph

    deploy_graph(cluster)
    return cluster


@pytest.fixture
def client(graph: "Graph") -> Iterator[httpx.Client]:
    with httpx.Client(base_url=graph.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def reference() -> "Reference":
    from tests.reference import Reference

    return Reference(Path(__file__).resolve().parents[1] / "models/shapes")
