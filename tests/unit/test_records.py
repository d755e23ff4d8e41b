"""One record to a request: exactly one line for every protocol and outcome, and nothing of a client's in it."""

import asyncio
import contextvars
import functools
import json
from collections.abc import Generator, Iterator
from types import SimpleNamespace
from typing import Any, cast

import grpc
import httpx
import pytest

from deployments import metrics, records
from deployments.errors import ApertureError, DeadlineExceeded, Overloaded, QuotaExceeded
from deployments.ingress import Ingress
from deployments.instruments import MAX_SERIES, Sample
from deployments.protocols.generated import inference_pb2 as pb
from deployments.protocols.http import asgi_app
from deployments.protocols.naming import protocol_of_http
from deployments.protocols.predict import routes
from deployments.records import current, opened
from tests.unit.bytes_plane import BytesPlane, base64_of, info, send
from tests.unit.oip_requests import encoded, image_input
from tests.unit.rpc_server import INFERENCE, TIMEOUT_S, exchange, serving
from tests.unit.test_oip_grpc import WaitingPlane

Line = dict[str, Any]
HOSTILE = '\n{"outcome": "ok"}\x1b[2J\r\n\x00<script>'


@pytest.fixture(autouse=True)
def lines() -> Iterator[list[Line]]:
    written: list[Line] = []
    records.write_to(written.append)
    yield written
    records.write_to(None)


def only(lines: list[Line]) -> Line:
    assert len(lines) == 1, lines
    assert sum(lines[0]["stages_ms"].values()) == pytest.approx(lines[0]["total_ms"], abs=1e-6)
    return lines[0]


def counted(name: str, **labels: str) -> float:
    instrument: Any = getattr(metrics, name)
    samples: Iterator[Sample] = instrument.samples()
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def as_json(body: object) -> dict[str, Any]:
    return {"content": json.dumps(body), "headers": {"content-type": "application/json"}}


# Every protocol


HTTP = {
    "predict": ("/predict", {"content": b"photo"}, "/predict"),
    "huggingface": ("/", {"content": b"photo"}, "/"),
    "oip": (
        "/v2/models/shapes/versions/3/infer",
        as_json({"inputs": [image_input(b"photo")]}),
        "/v2/models/{model}/versions/{version}/infer",
    ),
    "tfserving": (
        "/v1/models/shapes:predict",
        as_json({"instances": [{"b64": base64_of(b"photo")}]}),
        "/v1/models/{model}:predict",
    ),
}


@pytest.mark.parametrize("protocol", HTTP)
def test_a_request_over_http_has_one_line(protocol: str, lines: list[Line]) -> None:
    path, request, route = HTTP[protocol]
    assert send("POST", path, **request).status_code == 200
    line = only(lines)
    assert (line["protocol"], line["route"], line["status"], line["outcome"]) == (protocol, route, 200, "ok")
    assert (line["model"], line["version"], line["images"], line["bytes_in"]) == ("shapes", 3, 1, 5)
    assert (line["request_id"], line["key"], line["trace_id"]) == ("test-id", None, None)
    assert [line["stages_ms"][stage] for stage in ("preprocess", "queue", "inference")] == [10.0, 2.0, 3.0]


def test_a_request_for_something_else_has_a_line_without_a_model(lines: list[Line]) -> None:
    send("GET", "/v2/health/live")
    line = only(lines)
    assert (line["protocol"], line["route"], line["model"], line["images"]) == ("other", "/v2/health/live", None, 0)


RPCS = {
    "oip_grpc": (
        INFERENCE,
        "ModelInfer",
        pb.ModelInferRequest(
            model_name="shapes",
            inputs=[{"name": "IMAGE", "datatype": "BYTES", "shape": [1]}],
            raw_input_contents=[encoded(b"photo")],
        ),
    ),
    "other": (INFERENCE, "ServerLive", pb.ServerLiveRequest()),
}


@pytest.mark.parametrize("protocol", RPCS)
def test_an_rpc_has_one_line(protocol: str, lines: list[Line]) -> None:
    stub, method, request = RPCS[protocol]

    async def use(channel: grpc.aio.Channel) -> None:
        await getattr(stub(channel), method)(request, timeout=TIMEOUT_S)

    exchange(use)
    line = only(lines)
    assert (line["protocol"], line["route"], line["status"], line["outcome"]) == (protocol, method, 0, "ok")


def test_each_request_of_a_stream_has_a_line_and_the_stream_has_none(lines: list[Line]) -> None:
    _, _, request = RPCS["oip_grpc"]
    bad = pb.ModelInferRequest(model_name="nothing")

    async def use(channel: grpc.aio.Channel) -> None:
        stream = INFERENCE(channel).ModelStreamInfer(iter([request, bad, request]), timeout=TIMEOUT_S)
        assert len([answer async for answer in stream]) == 3

    exchange(use)
    assert sorted((line["outcome"], line["status"], line["route"]) for line in lines) == [
        ("ok", 0, "ModelStreamInfer"),
        ("ok", 0, "ModelStreamInfer"),
        ("unknown_model", grpc.StatusCode.NOT_FOUND.value[0], "ModelStreamInfer"),
    ]


def test_an_rpc_that_is_refused_says_why(lines: list[Line]) -> None:
    request = pb.ModelReadyRequest(name=HOSTILE)

    async def use(channel: grpc.aio.Channel) -> None:
        with pytest.raises(grpc.aio.AioRpcError):
            await INFERENCE(channel).ModelReady(request, timeout=TIMEOUT_S)

    exchange(use)
    line = only(lines)
    assert (line["outcome"], line["status"], line["model"]) == ("unknown_model", 5, None)


@pytest.mark.parametrize("method", ["predict", "predict_many"])
def test_a_call_by_a_handle_has_one_line(method: str, lines: list[Line], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.ingress._request_id", lambda: "test-id")
    replica = SimpleNamespace(plane=BytesPlane())
    replica._classify = functools.partial(Ingress._classify, cast("Any", replica))
    image: Any = b"photo" if method == "predict" else [b"photo", b"bad"]
    asyncio.run(getattr(Ingress, method)(replica, image))
    line = only(lines)
    assert (line["protocol"], line["route"], line["status"], line["outcome"]) == ("handle", method, 200, "ok")
    assert (line["images"], line["failed_images"]) == ((1, 0) if method == "predict" else (2, 1))


def test_a_handle_that_gets_an_error_has_its_code_in_the_line(
    lines: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = SimpleNamespace(plane=BytesPlane())
    replica._classify = functools.partial(Ingress._classify, cast("Any", replica))
    with pytest.raises(ApertureError):
        asyncio.run(Ingress.predict(cast("Any", replica), b"bad"))
    line = only(lines)
    assert (line["outcome"], line["status"]) == ("corrupt_image", 422)


# Every outcome


@pytest.mark.parametrize(
    ("path", "content", "failure", "outcome", "status", "result"),
    [
        ("/predict", b"bad", None, "corrupt_image", 422, "refused"),
        ("/predict", b"", None, "bad_request", 400, "refused"),
        ("/predict?model=nothing", b"photo", None, "unknown_model", 404, "refused"),
        ("/predict", b"x" * 1_000_001, None, "body_too_large", 413, "refused"),
        ("/predict", b"photo", Overloaded("full", 1.0), "overloaded", 503, "failed"),
        ("/predict", b"photo", QuotaExceeded("too many"), "quota_exceeded", 429, "refused"),
        ("/predict", b"photo", DeadlineExceeded("late"), "deadline_exceeded", 408, "failed"),
        ("/predict", b"photo", RuntimeError("secret"), "internal", 500, "failed"),
        ("/nowhere", b"photo", None, "not_found", 404, "refused"),
        ("/v2/health/live", b"", None, "method_not_allowed", 405, "refused"),
    ],
)
def test_what_fails_has_one_line_that_says_why(
    path: str, content: bytes, failure: Exception | None, outcome: str, status: int, result: str, lines: list[Line]
) -> None:
    before = counted("REQUESTS", outcome=outcome)
    assert send("POST", path, BytesPlane(failure), content=content).status_code == status
    line = only(lines)
    assert (line["outcome"], line["status"]) == (outcome, status)
    assert counted("REQUESTS", outcome=outcome) == before + 1
    assert "secret" not in str(line)


def test_the_answers_of_some_images_are_an_answer(lines: list[Line]) -> None:
    files = [("file", (name, name.encode())) for name in ("one", "bad", "three")]
    before = sum(sample.value for sample in metrics.REFUSALS.samples())
    assert send("POST", "/predict", files=files).status_code == 200
    assert sum(sample.value for sample in metrics.REFUSALS.samples()) == before + 1
    line = only(lines)
    assert (line["outcome"], line["images"], line["failed_images"]) == ("ok", 3, 1)


def test_a_stream_of_lines_is_one_request(lines: list[Line]) -> None:
    files = [("file", (name, name.encode())) for name in ("one", "two", "three")]
    send("POST", "/predict", files=files, headers={"accept": "application/x-ndjson"})
    line = only(lines)
    assert (line["outcome"], line["images"], line["stages_ms"]["preprocess"]) == ("ok", 3, 30.0)


def test_a_client_that_leaves_has_one_line(lines: list[Line]) -> None:
    plane = WaitingPlane()
    app = asgi_app(routes(plane), plane.limits, request_id=lambda: "test-id")

    async def leave() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            asking = asyncio.create_task(client.post("/predict", content=b"photo"))
            await plane.until(lambda: plane.waiting == 1)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(leave())
    line = only(lines)
    assert (line["outcome"], line["status"], line["model"]) == ("client_left", None, "shapes")


def test_an_rpc_that_is_cancelled_has_one_line(lines: list[Line]) -> None:
    plane = WaitingPlane()

    async def leave() -> None:
        async with serving(plane) as channel:
            call = INFERENCE(channel).ModelInfer(RPCS["oip_grpc"][2])
            await plane.until(lambda: plane.waiting == 1)
            call.cancel()
            await plane.until(lambda: plane.cancelled == 1)

    asyncio.run(leave())
    assert only(lines)["outcome"] == "client_left"


def test_who_leaves_after_the_answer_has_got_it(lines: list[Line]) -> None:
    async def request() -> None:
        with opened("predict", "/predict", "test-id") as record:
            record.status = 200
            record.is_answered = True
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(request())
    assert (only(lines)["outcome"], lines[0]["status"]) == ("ok", 200)


def test_a_record_is_closed_once(lines: list[Line]) -> None:
    before = counted("REQUESTS", protocol="handle")
    with opened("handle", "predict", "test-id") as record:
        record.close()
    assert len(lines) == 1
    assert counted("REQUESTS", protocol="handle") == before + 1


def test_outside_of_a_request_nothing_is_told(lines: list[Line]) -> None:
    current().chose(info("shapes", 3))
    current().fail(ApertureError("nobody"))
    assert current().outcome == "ok"
    assert lines == []


# Nothing of a client's


def test_nothing_that_a_client_sends_is_in_the_line(lines: list[Line]) -> None:
    hostile = {"x-routing-key": "SECRET-key", "user-agent": "SECRET-agent", "x-api-key": "SECRET-api"}
    files = [("file", ("SECRET-name.jpg", b"SECRET-content"))]
    send("POST", "/predict?model=SECRET-model&version=SECRET", files=files, headers=hostile)
    send("POST", "/predict?top_k=3&x=SECRET-query", files=files, headers=hostile)
    send("POST", "/v2/models/SECRET/infer", content=b"SECRET")
    send("GET", "/SECRET-path")
    assert len(lines) == 4
    assert "SECRET" not in str(lines)


def test_a_line_is_one_line_whatever_the_client_calls_things(lines: list[Line]) -> None:
    for path in (f"/predict?model={HOSTILE}", f"/v1/models/{HOSTILE}:predict", f"/{HOSTILE}"):
        send("POST", httpx.URL("http://service").copy_with(raw_path=quoted(path)).raw_path.decode(), content=b"photo")
    assert len(lines) == 3
    assert all(line["model"] is None for line in lines)


def quoted(path: str) -> bytes:
    return "".join(c if c.isalnum() or c in "/?=:" else f"%{ord(c):02x}" for c in path).encode()


def test_a_request_that_is_refused_is_one_refusal(lines: list[Line]) -> None:
    before = counted("REFUSALS", code="unknown_model")
    send("POST", "/predict?model=nobody", content=b"photo")
    assert counted("REFUSALS", code="unknown_model") == before + 1


def test_a_request_that_ends_in_another_context_has_its_line(lines: list[Line]) -> None:
    def handle() -> Generator[None, None, None]:
        with opened("predict", "/predict", "test-id"):
            yield

    handled = handle()
    next(handled)
    contextvars.Context().run(handled.close)
    assert only(lines)["outcome"] == "client_left"


def test_hostile_names_make_no_series() -> None:
    before = len(list(metrics.REQUESTS.samples()))
    for number in range(MAX_SERIES + 10):
        with opened("other", None, f"id-{number}") as record:
            record.end("not_found", 404)
    for number in range(20):
        send("POST", f"/predict?model=model-{number}&version={number}", content=b"photo")
        send("POST", f"/v2/models/model-{number}/versions/{number}/infer", content=b"{}")
        send("GET", f"/nowhere-{number}")
    assert len(list(metrics.REQUESTS.samples())) <= before + 6


def test_the_name_of_the_key_is_told_and_not_the_key(lines: list[Line]) -> None:
    with opened("predict", "/predict", "test-id"):
        current().key = "night-shift"
    assert only(lines)["key"] == "night-shift"


@pytest.mark.parametrize(
    ("method", "path", "protocol"),
    [
        ("POST", "/v2/models/{model}/labels/{label}/infer", "oip"),
        ("POST", "/V1/models/x:predict", "other"),
        ("POST", "/v1/models/x:Predict", "tfserving"),
        ("GET", "/", "other"),
        ("POST", "/v2/repository/index", "other"),
        ("POST", "/explain", "explain"),
    ],
)
def test_protocols_are_told_by_method_and_path(method: str, path: str, protocol: str) -> None:
    assert protocol_of_http(method, path) == protocol
