"""One photograph for every protocol, and a graph that must still answer after each file of tests."""

from collections.abc import Iterator

import httpx
import pytest

from tests.conformance.images import HEART, probabilities
from tests.local_graph import Graph


@pytest.fixture(scope="session")
def heart() -> bytes:
    return HEART.read_bytes()


@pytest.fixture(scope="session")
def expected(graph: Graph, heart: bytes) -> dict[str, float]:
    """Probability of each label by the plain protocol, which tests/graph compares with torchvision's own."""
    return probabilities(httpx.post(f"{graph.url}/predict?top_k=100", content=heart, timeout=30).json())


@pytest.fixture(scope="module", autouse=True)
def _still_healthy(graph: Graph, heart: bytes, expected: dict[str, float]) -> Iterator[None]:
    yield
    assert httpx.get(f"{graph.url}/v2/health/ready", timeout=30).status_code == 200
    answer = httpx.post(f"{graph.url}/predict?top_k=100", content=heart, timeout=30).json()
    assert probabilities(answer) == pytest.approx(expected, abs=1e-6)
