"""What the running graph tells of its requests: numbers at the agent's endpoint of the node, and lines in the log."""

import base64
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from ray import serve

from deployments.protocols.generated import inference_pb2_grpc, tensorflow_serving_pb2_grpc
from deployments.protocols.generated import tensorflow_serving_pb2 as tfs
from tests.awaiting import await_condition
from tests.graph.test_grpc_inference import images_request
from tests.local_graph import SLOW_S, Graph
from tests.reference import picture

# Replicas hand over every 5 s, Ray's workers to their agent every second (local_graph.py), and the machine is busy.
TOLD_WITHIN_S = 60.0
HEART = picture("heart")
CORRUPT = HEART[: len(HEART) // 2]
B64 = base64.b64encode(HEART).decode()

Series = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class Told:
    """What came of the requests of `ask`: by how much each number has grown, and their lines by what was asked."""

    grown: Mapping[Series, float]
    kinds: Mapping[str, str]
    lines: Mapping[str, Mapping[str, Any]]

    def sum(self, name: str, **labels: str) -> float:
        """Over all series of that name that have these labels."""
        return summed(self.grown, name, **labels)


def summed(numbers: Mapping[Series, float], name: str, **labels: str) -> float:
    return sum(value for (each, has), value in numbers.items() if each == f"ray_{name}" and labels.items() <= has)


@pytest.fixture(scope="module")
def told(graph: Graph) -> Told:
    before, _ = scraped()
    asked = ask(graph)
    await_condition(lambda: len(lines_of(asked)) == len(asked), TOLD_WITHIN_S, "the requests are in the log")
    # Each process hands over by itself: the Ingress, the Preprocessor, and the Classifiers of two models.
    expected: list[tuple[str, dict[str, str], int]] = [
        # Not the sum of all: polls for readiness, counted before, may be handed over only now.
        *(("requests_total", {"protocol": protocol}, 1) for protocol in PROTOCOLS),
        ("engine_info", {"model": "colours"}, 0),
        ("queue_duration_seconds_count", {"place": "preprocessor"}, len(PROTOCOLS)),
        ("queue_duration_seconds_count", {"place": "classifier", "model": "shapes"}, len(PROTOCOLS)),
    ]

    def is_told() -> bool:
        now, _ = scraped()
        return all(
            summed(now, f"aperture_{name}", **labels) - summed(before, f"aperture_{name}", **labels) >= count
            for name, labels, count in expected
        )

    await_condition(is_told, TOLD_WITHIN_S, "the requests are counted")
    after, kinds = scraped()
    grown = {series: value - before.get(series, 0.0) for series, value in after.items()}
    return Told(grown, kinds, lines_of(asked))


def ask(graph: Graph) -> dict[str, str]:
    """The id of each request by what it was."""
    with httpx.Client(base_url=graph.url, timeout=30) as client:
        asked = {name: str(post(client).headers["x-request-id"]) for name, post in BY_HTTP.items()}
    with suppress(httpx.ReadTimeout):
        headers = {"x-request-id": "told-left"}
        httpx.post(f"{graph.url}/predict?model=slow", content=HEART, headers=headers, timeout=SLOW_S / 4)
    with grpc.insecure_channel(graph.grpc_address) as channel:
        for name, (stub, request) in BY_GRPC.items():
            _, call = stub(channel).with_call(request, timeout=30)
            asked[name] = dict(call.trailing_metadata())["request_id"]
    answer = serve.get_app_handle("aperture").predict.remote(HEART).result(timeout_s=30)
    return {**asked, "left": "told-left", "handle": answer["request_id"]}


BY_HTTP: dict[str, Callable[[httpx.Client], httpx.Response]] = {
    "predict": lambda client: client.post("/predict", content=HEART),
    "three images, one of them bad": lambda client: client.post(
        "/predict", files=[("file", (name, CORRUPT if name == "b" else HEART)) for name in "abc"]
    ),
    "stream": lambda client: client.post(
        "/predict", files=[("file", ("a", HEART))], headers={"accept": "application/x-ndjson"}
    ),
    "huggingface": lambda client: client.post("/", content=HEART),
    "oip": lambda client: client.post(
        "/v2/models/shapes/infer",
        json={"inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [B64],
                          "parameters": {"content_type": "base64"}}]},
    ),
    "tfserving": lambda client: client.post("/v1/models/shapes:predict", json={"instances": [{"b64": B64}]}),
    "corrupt": lambda client: client.post("/predict", content=CORRUPT),
    "unknown model": lambda client: client.post("/predict?model=%0a%22evil", content=HEART),
    "unknown route": lambda client: client.get("/nowhere%0a"),
}  # fmt: skip
BY_GRPC: dict[str, tuple[Callable[[grpc.Channel], Any], Any]] = {
    "oip_grpc": (
        lambda channel: inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer,
        images_request([HEART]),
    ),
    "tfserving_grpc": (
        lambda channel: tensorflow_serving_pb2_grpc.PredictionServiceStub(channel).Predict,
        tfs.PredictRequest(
            model_spec={"name": "shapes"},
            inputs={"IMAGE": {"dtype": "DT_STRING", "tensor_shape": {"dim": [{"size": 1}]}, "string_val": [HEART]}},
        ),
    ),
}


def scraped() -> tuple[dict[Series, float], dict[str, str]]:
    """Each number of ours on this node, and the type that each name is announced with."""
    (node,) = ray.nodes()  # type: ignore[no-untyped-call]
    text = httpx.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=30).text
    families = [each for each in text_string_to_metric_families(text) if each.name.startswith("ray_aperture_")]
    numbers = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    return numbers, {family.name: family.type for family in families}


def lines_of(asked: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Those of the requests of these ids, by what was asked."""
    node = ray._private.worker._global_node
    assert node is not None
    logs = Path(node.get_logs_dir_path()) / "serve"
    written = [json.loads(line) for log in logs.glob("requests_*.log") for line in log.read_text().splitlines()]
    found = [(name, line) for name, request_id in asked.items() for line in written if line["request_id"] == request_id]
    assert len(found) == len(dict(found)), "A request has two lines."
    return dict(found)


PROTOCOLS = ["predict", "huggingface", "oip", "tfserving", "oip_grpc", "tfserving_grpc", "handle"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_answer_is_counted_and_logged_by_its_protocol(told: Told, protocol: str) -> None:
    assert told.sum("aperture_requests_total", protocol=protocol, model="shapes", outcome="ok") >= 1
    assert told.sum("aperture_received_bytes_total", protocol=protocol) >= len(HEART)
    line = told.lines[protocol]
    assert (line["protocol"], line["model"], line["outcome"], line["images"]) == (protocol, "shapes", "ok", 1)
    assert (line["bytes_in"], line["batch_size"]) == (len(HEART), 1)


def test_what_failed_is_counted_by_why(told: Told) -> None:
    for code in ("corrupt_image", "unknown_model", "not_found", "client_left"):
        assert told.sum("aperture_requests_total", outcome=code) >= 1, code


def test_the_stages_add_up_to_the_whole_time_in_the_metrics_and_in_each_line(told: Told) -> None:
    def differ_by() -> float:
        now, _ = scraped()
        answered = sum(
            summed(now, "aperture_request_duration_seconds_sum", result="ok", model="shapes", protocol=protocol)
            for protocol in PROTOCOLS
        )
        return abs(answered - summed(now, "aperture_request_stage_duration_seconds_sum", model="shapes"))

    # What other tests have asked may still be on its way.
    await_condition(lambda: differ_by() < 1e-6, TOLD_WITHIN_S, "stages and whole times are the same")
    for line in told.lines.values():
        assert sum(line["stages_ms"].values()) == pytest.approx(line["total_ms"], abs=1e-6)
        assert list(line["stages_ms"]) == ["admission", "preprocess", "queue", "inference", "response"]


def test_images_are_timed_wherever_they_wait(told: Told) -> None:
    for place in ("before_preprocessor", "preprocessor", "before_classifier", "classifier"):
        assert told.sum("aperture_queue_duration_seconds_count", place=place) >= len(PROTOCOLS), place


def test_batches_are_counted_with_their_size_and_fill(told: Told) -> None:
    for name in ("batch_images", "batch_fill_ratio", "batch_duration_seconds"):
        assert told.sum(f"aperture_{name}_count", model="shapes", version="1") >= 1
    assert told.sum("aperture_batch_images_sum", model="shapes") >= len(PROTOCOLS)


def test_the_engine_in_use_and_the_state_of_each_version_are_told(told: Told) -> None:
    # Since the start: what has not changed must not vanish.
    now, _ = scraped()
    assert summed(now, "aperture_engine_info", model="colours", engine="dummy") == 1
    assert summed(now, "aperture_version_state", model="colours", state="AVAILABLE") == 1
    assert summed(now, "aperture_guard_verdicts_total", model="shapes", verdict="passed") >= 1


def test_names_end_as_prometheus_wants_them(told: Told) -> None:
    for name, kind in told.kinds.items():
        assert not name.endswith(("_total_total", "_ms", "_milliseconds")), name
        # The parser takes the _total of a counter away.
        assert kind in ("counter", "gauge"), name


def test_a_line_has_nothing_that_a_client_wrote(told: Told) -> None:
    line = told.lines["unknown model"]
    assert (line["model"], line["outcome"], line["status"], line["route"]) == (None, "unknown_model", 404, "/predict")
    assert told.lines["unknown route"]["route"] is None
    assert told.sum("aperture_requests_total", model="") >= 2


def test_who_leaves_is_logged_as_such(told: Told) -> None:
    line = told.lines["left"]
    assert (line["outcome"], line["status"], line["model"]) == ("client_left", None, "slow")


def test_a_bad_image_among_others_is_counted_and_the_request_is_answered(told: Told) -> None:
    line = told.lines["three images, one of them bad"]
    assert (line["outcome"], line["images"], line["failed_images"], line["status"]) == ("ok", 3, 1, 200)
    assert told.lines["stream"]["outcome"] == "ok"
