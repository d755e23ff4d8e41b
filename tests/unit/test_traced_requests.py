"""The span of a request, where it enters: over HTTP, over gRPC, and by a handle's record."""

import time
from typing import Any

import grpc
import httpx
import pytest

from deployments import records, tracing
from deployments.errors import ApertureError, InferenceFailed, Overloaded
from deployments.messages import ModelInfo
from deployments.protocols.generated import inference_pb2 as pb
from deployments.settings import PreprocessingSpec
from tests.collector import Collector
from tests.unit.bytes_plane import BytesPlane, predict, send
from tests.unit.rpc_server import INFERENCE, TIMEOUT_S, exchange
from tests.unit.traces import SAMPLED, SPAN, TRACE, UNSAMPLED, collected

INFO = ModelInfo("model", 1, ("red", "green"), PreprocessingSpec(), "dummy", "dummy", "fp32", "cpu")
SECRET = "what-only-the-client-knows"


def texts_of(collector: Collector) -> str:
    """All that is said of any span, in one text."""
    return "\n".join(f"{span.name} {span.attributes} {span.state}" for span in collector.spans)


def test_a_request_is_part_of_its_clients_trace_and_its_answer_says_so() -> None:
    with collected() as collector:
        headers = {"traceparent": SAMPLED, "tracestate": "congo=t61"}
        response = predict(content=b"photo", query={"top_k": "3"}, headers=headers)
    (span,) = collector.spans
    assert response.headers["traceresponse"] == f"00-{TRACE}-{span.span_id}-01"
    assert (span.trace_id, span.parent_id, span.state) == (TRACE, SPAN, "congo=t61")
    assert (span.name, span.kind, span.is_error) == ("POST /predict", "SERVER", False)
    assert (
        span.attributes
        | {
            "http.request.method": "POST",
            "http.route": "/predict",
            "http.response.status_code": 200,
            "url.scheme": "http",
            "aperture.request_id": "test-id",
        }
        == span.attributes
    )
    assert (
        span.resource
        | {
            "service.name": "aperture",
            "aperture.deployment": "Ingress",
            "service.instance.id": "replica-1",
        }
        == span.resource
    )
    assert 0 < span.end_ns - span.start_ns < 60e9


def test_a_request_that_brings_no_valid_context_begins_a_trace() -> None:
    with collected() as collector:
        without = predict(content=b"photo")
        malformed = predict(content=b"photo", headers={"traceparent": SAMPLED.replace("-01", "-0g")})
        twice = predict(content=b"photo", headers=httpx.Headers([("traceparent", SAMPLED), ("traceparent", UNSAMPLED)]))
    assert [span.parent_id for span in collector.spans] == ["", "", ""]
    answered = {response.headers["traceresponse"].split("-")[1] for response in (without, malformed, twice)}
    assert answered == {span.trace_id for span in collector.spans}
    assert len(answered - {TRACE}) == 3


def test_whether_a_trace_is_sampled_is_the_clients_decision_if_it_has_made_one() -> None:
    with collected(sample_ratio=1.0) as all_of_them:
        assert predict(content=b"photo", headers={"traceparent": UNSAMPLED}).headers["traceresponse"].endswith("-00")
    with collected(sample_ratio=0.0) as none_of_them:
        assert predict(content=b"photo").headers["traceresponse"].endswith("-00")
        assert predict(content=b"photo", headers={"traceparent": SAMPLED}).headers["traceresponse"].endswith("-01")
    assert all_of_them.spans == []
    assert [span.trace_id for span in none_of_them.spans] == [TRACE]


def test_a_refusal_is_named_by_its_code_and_only_the_services_own_faults_are_errors() -> None:
    with collected() as collector:
        predict(content=b"bad")
        predict(content=b"")
        send("GET", "/predict")
        send("GET", f"/{SECRET}")
        send("BREW", "/predict")
        predict(BytesPlane(InferenceFailed("The model failed on this image.")), content=b"photo")
    told = [(span.name, span.attributes.get("error.type"), span.is_error) for span in collector.spans]
    assert told == [
        ("POST /predict", "corrupt_image", False),
        ("POST /predict", "bad_request", False),
        ("GET /predict", "method_not_allowed", False),
        ("GET", "not_found", False),
        ("HTTP /predict", "method_not_allowed", False),
        ("POST /predict", "inference_failed", True),
    ]
    assert collector.spans[-2].attributes["http.request.method"] == "_OTHER"


def test_nothing_that_a_client_writes_is_in_a_span() -> None:
    with collected() as collector:
        headers = {name: SECRET for name in ("traceparent", "tracestate", "x-routing-key", "user-agent", "x-own")}
        predict(content=SECRET.encode(), query={"model": SECRET, "own": SECRET}, headers=headers)
        send("POST", f"/v1/models/{SECRET}:predict", content=SECRET.encode())
        send("GET", f"/v2/models/{SECRET}")
    assert len(collector.spans) == 3
    assert SECRET not in texts_of(collector)


def test_who_asks_for_health_has_no_spans() -> None:
    with collected() as collector:
        assert send("GET", "/v2/health/ready", headers={"traceparent": SAMPLED}).status_code == 200
    assert collector.spans == []


def test_an_rpc_is_part_of_its_clients_trace_and_its_end_says_so() -> None:
    async def use(channel: grpc.aio.Channel) -> list[dict[str, Any]]:
        ends = []
        for name in ("shapes", SECRET):
            call = INFERENCE(channel).ModelMetadata(
                pb.ModelMetadataRequest(name=name), metadata=[("traceparent", SAMPLED)], timeout=TIMEOUT_S
            )
            await call.code()
            ends.append(dict(await call.trailing_metadata()))
        await INFERENCE(channel).ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT_S)
        return ends

    with collected() as collector:
        ends = exchange(use)
    method = "inference.GRPCInferenceService/ModelMetadata"
    assert [(span.name, span.kind, span.parent_id) for span in collector.spans] == [(method, "SERVER", SPAN)] * 2
    assert [end["traceresponse"].split("-")[2] for end in ends] == [span.span_id for span in collector.spans]
    known, unknown = (span.attributes for span in collector.spans)
    assert (known["rpc.system.name"], known["rpc.method"], known["rpc.response.status_code"]) == ("grpc", method, "OK")
    assert (unknown["rpc.response.status_code"], unknown["error.type"]) == ("NOT_FOUND", "unknown_model")
    assert SECRET not in texts_of(collector)


@pytest.mark.parametrize(
    ("failure", "is_error"), [(InferenceFailed("Failed."), True), (Overloaded("Too much waits."), False)]
)
def test_of_the_statuses_of_rpcs_those_are_errors_that_the_conventions_name(
    failure: ApertureError, is_error: bool
) -> None:
    async def use(channel: grpc.aio.Channel) -> None:
        request = pb.ModelInferRequest(
            model_name="shapes",
            inputs=[{"name": "IMAGE", "datatype": "BYTES", "shape": [1]}],
            raw_input_contents=[b"\x05\x00\x00\x00photo"],
        )
        await INFERENCE(channel).ModelInfer(request, timeout=TIMEOUT_S).code()

    with collected() as collector:
        exchange(use, BytesPlane(failure))
    (span,) = collector.spans
    assert (span.attributes["error.type"], span.is_error) == (failure.code, is_error)


def test_each_request_of_a_stream_has_a_span_of_its_own() -> None:
    async def use(channel: grpc.aio.Channel) -> int:
        call = INFERENCE(channel).ModelStreamInfer(
            iter([pb.ModelInferRequest(model_name=SECRET)] * 3), metadata=[("traceparent", SAMPLED)], timeout=TIMEOUT_S
        )
        return len([answer async for answer in call])

    with collected() as collector:
        assert exchange(use) == 3
    named = [(span.name, span.parent_id, span.attributes["error.type"]) for span in collector.spans]
    assert named == [("inference.GRPCInferenceService/ModelStreamInfer", SPAN, "unknown_model")] * 3


def test_the_record_of_a_request_has_its_trace_and_tells_its_span_what_came_of_it() -> None:
    with collected() as collector:
        with tracing.request("request", time.monotonic(), [SAMPLED]), records.opened("handle", "/", "an-id") as record:
            record.chose(INFO)
            record.admitted([10, 20], [0.1, 0.2])
            assert record.trace_id == TRACE
        with records.opened("handle", "/", "an-id") as record:
            assert record.trace_id is None
    (span,) = collector.spans
    assert span.attributes == {
        "aperture.request_id": "an-id",
        "aperture.model.name": "model",
        "aperture.model.version": 1,
        "aperture.images": 2,
    }
