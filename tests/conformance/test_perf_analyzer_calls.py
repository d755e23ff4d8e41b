"""What perf_analyzer asks of a server: extensions, metadata, config, and statistics before and after a load.

Its reports are differences of two statistics. Source: triton_client_backend.cc and inference_profiler.cc of
triton-inference-server/perf_analyzer.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.another_hand import LABELS
from tests.conformance.images import encoded
from tests.conformance.triton import Transport, Triton, connected
from tests.local_graph import Graph
from tests.reference import picture

REQUESTS, IMAGES = 7, 3
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@pytest.fixture(params=["http", "grpc"])
def triton(graph: Graph, request: pytest.FixtureRequest) -> Iterator[Triton]:
    transport: Transport = request.param
    with connected(transport, graph) as connection:
        yield connection


def statistics(triton: Triton, model: str = "shapes") -> dict[str, Any]:
    (found,) = triton.describe("inference_statistics", model)["model_stats"]
    return dict(found)


def count(stats: dict[str, Any], name: str) -> int:
    return int(stats["inference_stats"].get(name, {}).get("count", 0))


def ns(stats: dict[str, Any], name: str) -> int:
    return int(stats["inference_stats"].get(name, {}).get("ns", 0))


def test_the_statistics_grow_by_what_was_sent(triton: Triton) -> None:
    assert "statistics" in triton.describe("server_metadata")["extensions"]
    before = statistics(triton)
    images = encoded(*[picture(label) for label in LABELS[:IMAGES]])
    for _ in range(REQUESTS):
        triton.infer("IMAGE", images)
    after = statistics(triton)
    assert (after["name"], after["version"]) == ("shapes", "1")
    assert count(after, "success") - count(before, "success") == REQUESTS
    assert count(after, "fail") == count(before, "fail")
    assert all(count(after, part) - count(before, part) == REQUESTS for part in PARTS)
    assert int(after["inference_count"]) - int(before["inference_count"]) == REQUESTS * IMAGES
    executions = int(after["execution_count"]) - int(before["execution_count"])
    assert REQUESTS <= executions <= REQUESTS * IMAGES
    assert int(after["last_inference"]) > int(before.get("last_inference", 0))


def test_the_parts_of_the_time_do_not_exceed_the_whole(triton: Triton) -> None:
    before = statistics(triton)
    for label in LABELS:
        triton.infer("IMAGE", encoded(picture(label)))
    after = statistics(triton)
    whole, *parts = (ns(after, name) - ns(before, name) for name in ("success", *PARTS))
    assert all(part > 0 for part in parts[1:3])
    # Each is rounded to a nanosecond for each request.
    assert sum(parts) <= whole + len(LABELS) * len(PARTS)
    assert sum(parts) > 0.9 * whole


def test_a_request_that_fails_counts_as_failed_alone(triton: Triton) -> None:
    before = statistics(triton, "colours")
    with pytest.raises(InferenceServerException):
        triton.infer("IMAGE", encoded(b"nothing"), "colours")
    after = statistics(triton, "colours")
    assert count(after, "fail") - count(before, "fail") == 1
    assert count(after, "success") == count(before, "success")


def test_batches_are_counted_by_their_size(triton: Triton) -> None:
    triton.infer("IMAGE", encoded(*[picture(label) for label in LABELS]))
    stats = statistics(triton)
    batches = stats["batch_stats"]
    images = sum(int(each["batch_size"]) * int(each["compute_infer"]["count"]) for each in batches)
    assert images == int(stats["inference_count"])
    assert sum(int(each["compute_infer"]["count"]) for each in batches) == int(stats["execution_count"])
    assert max(int(each["batch_size"]) for each in batches) <= 8


def test_tensors_made_from_the_metadata_alone_are_accepted(triton: Triton) -> None:
    """As `perf_analyzer -m tensors -b 2 --input-data zero` makes them; only dimensions of -1 need its --shape."""
    config = triton.describe("model_config", "tensors")
    config = config.get("config", config)
    (announced,) = triton.describe("model_metadata", "tensors")["inputs"]
    assert int(config["max_batch_size"]) >= 2
    shape = [2, *map(int, announced["shape"][1:])]
    zeros = np.zeros(shape, np.float32)
    assert announced["datatype"] == "FP32"
    assert triton.infer(announced["name"], zeros, "tensors").as_numpy("PROBABILITIES").shape == (2, len(LABELS))
