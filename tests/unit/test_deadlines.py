"""How long a client waits: what it says in each protocol, what the settings make of it, and what comes of it.

BytesPlane notes the seconds that it is given. The bounds are wide, so that a busy machine is none of our business.
"""

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import httpx
import pytest

from deployments.deadlines import within
from deployments.errors import ApertureError
from deployments.messages import Answer, ImageInput, ModelInfo
from deployments.protocols.generated import inference_pb2 as oip
from deployments.protocols.generated import tensorflow_serving_pb2 as tfs
from deployments.protocols.http import asgi_app
from deployments.protocols.patience import INNER_TIMEOUT_HEADER, TIMEOUT_HEADER, arrived_at
from deployments.protocols.predict import routes
from deployments.settings import Limits
from tests.unit.bytes_plane import BytesPlane, base64_of, predict, refusal, send
from tests.unit.rpc_server import INFERENCE, PREDICTION, TIMEOUT_S, Stub, exchange
from tests.unit.test_oip_grpc import images_request as oip_images
from tests.unit.test_tfserving_grpc import images_request as tfs_images

PHOTO = base64_of(b"photo")
INPUTS = [{"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [PHOTO]}]
# One request of each protocol over HTTP.
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "raw": ("/predict", {"content": b"photo"}),
    "form": ("/predict", {"files": [("file", ("a", b"photo"))]}),
    "JSON": ("/predict", {"json": {"images": [PHOTO]}}),
    "lines": ("/predict", {"content": b"photo", "headers": {"accept": "application/x-ndjson"}}),
    "OIP": ("/v2/models/shapes/infer", {"json": {"inputs": INPUTS}}),
    "TensorFlow predict": ("/v1/models/shapes:predict", {"json": {"instances": [{"b64": PHOTO}]}}),
    "TensorFlow classify": ("/v1/models/shapes:classify", {"json": {"examples": [{"image/encoded": {"b64": PHOTO}}]}}),
    "Hugging Face": ("/", {"json": {"inputs": PHOTO}}),
}
# The same over gRPC.
CALLS: dict[str, tuple[Stub, str, Callable[[], Any]]] = {
    "ModelInfer": (INFERENCE, "ModelInfer", oip_images),
    "Predict": (PREDICTION, "Predict", tfs_images),
    "Classify": (PREDICTION, "Classify", lambda: classification()),
}


def classification() -> tfs.ClassificationRequest:
    request = tfs.ClassificationRequest(model_spec={"name": "shapes"})
    example = request.input.example_list.examples.add()
    example.features.feature["image/encoded"].bytes_list.value.append(b"photo")
    return request


class StuckPlane(BytesPlane):
    """Answers nothing, as long as it may."""

    async def classify(
        self, images: Sequence[ImageInput | ApertureError], info: ModelInfo, timeout_s: float | None = None
    ) -> list[Answer | ApertureError]:
        assert timeout_s is not None
        async with within(timeout_s):
            await asyncio.Event().wait()
        return []


def ask(protocol: str, timeout: str | None, plane: BytesPlane | None = None, **limits: float) -> httpx.Response:
    path, request = REQUESTS[protocol]
    headers = {**request.get("headers", {}), **({TIMEOUT_HEADER: timeout} if timeout is not None else {})}
    return send("POST", path, plane, limits=Limits(**limits), **{**request, "headers": headers})  # type: ignore[arg-type]


def seconds_given(protocol: str, timeout: str | None, **limits: float) -> float:
    """What the data plane was given."""
    plane = BytesPlane()
    response = ask(protocol, timeout, plane, **limits)
    assert response.status_code == 200, response.text
    (timeout_s,) = plane.timeouts_s
    assert timeout_s is not None
    return timeout_s


# What is asked for


@pytest.mark.parametrize("protocol", REQUESTS)
def test_the_header_reaches_the_data_plane_as_what_is_left_of_it(protocol: str) -> None:
    assert 10 < seconds_given(protocol, "20") < 20


@pytest.mark.parametrize("protocol", REQUESTS)
def test_a_client_that_says_nothing_gets_the_default(protocol: str) -> None:
    assert 5 < seconds_given(protocol, None, default_timeout_s=15) < 15
    assert 20 < seconds_given(protocol, None) < 30


@pytest.mark.parametrize("protocol", REQUESTS)
@pytest.mark.parametrize("timeout", ["31", "1e9", "999999999999999999999999999999"])
def test_no_client_lifts_the_most_that_the_settings_allow(protocol: str, timeout: str) -> None:
    assert 20 < seconds_given(protocol, timeout) < 30


def test_a_client_may_ask_for_more_than_the_default() -> None:
    assert 15 < seconds_given("raw", "25", default_timeout_s=1) < 25


@pytest.mark.parametrize("timeout", ["20", "20.0", " 20 ", "2e1", "+20", "20."])
def test_any_notation_of_a_number_will_do(timeout: str) -> None:
    assert 10 < seconds_given("raw", timeout) < 20


@pytest.mark.parametrize(
    "timeout",
    ["0", "-1", "-0.0", "nan", "inf", "-inf", "1e999", "soon", "", "1_0", "0x10", "1 2", "1,5", "9" * 400, "\u0663"],
    ids=lambda timeout: timeout[:8],
)
def test_what_is_no_positive_number_is_refused_and_switches_nothing_off(timeout: str) -> None:
    plane = BytesPlane()
    headers = {TIMEOUT_HEADER: timeout.encode()}
    error = refusal(predict(plane, content=b"photo", headers=headers), 400, "bad_request")
    assert error.startswith("x-request-timeout-seconds must be a positive number of seconds, not ")
    assert len(error) < 250
    assert plane.images == []


@pytest.mark.parametrize("second", [TIMEOUT_HEADER, INNER_TIMEOUT_HEADER])
def test_two_timeouts_are_refused(second: str) -> None:
    headers = [(TIMEOUT_HEADER, "5"), (second, "10")]
    error = refusal(predict(content=b"photo", headers=headers), 400, "bad_request")
    assert error == "x-request-timeout-seconds may be there once, not 2 times."


def test_the_time_since_the_request_arrived_counts() -> None:
    context = contextvars.copy_context()
    context.run(arrived_at.set, time.monotonic() - 15)
    assert context.run(seconds_given, "raw", "20") < 5
    assert context.run(seconds_given, "raw", None) < 15


@pytest.mark.parametrize(
    ("header", "timeout_us", "most_s"),
    [("20", 10_000_000, 10), ("10", 20_000_000, 10), (None, 25_000_000, 25), ("10", 0, 10)],
)
def test_of_the_header_and_the_requests_own_timeout_the_shorter_holds(
    header: str | None, timeout_us: int, most_s: float
) -> None:
    plane, headers = BytesPlane(), {} if header is None else {TIMEOUT_HEADER: header}
    body = {"inputs": INPUTS, "parameters": {"timeout": timeout_us}}
    limits = Limits(default_timeout_s=2)
    assert send("POST", "/v2/models/shapes/infer", plane, json=body, headers=headers, limits=limits).is_success
    assert [most_s - 8 < (timeout_s or 0) < most_s for timeout_s in plane.timeouts_s] == [True]


# When it is over


@pytest.mark.parametrize("protocol", [name for name in REQUESTS if name != "lines"])
def test_a_request_without_an_answer_is_408_with_the_clients_own_figure(protocol: str) -> None:
    error = refusal(ask(protocol, "0.05", StuckPlane()), 408, "deadline_exceeded")
    assert error == "No answer within 0.05 s."


def test_a_request_that_asks_for_nothing_ends_at_the_default() -> None:
    refusal(ask("raw", None, StuckPlane(), default_timeout_s=0.05), 408, "deadline_exceeded")


def test_a_body_that_trickles_in_is_ended_by_the_clients_own_timeout() -> None:
    async def trickle() -> AsyncIterator[bytes]:
        yield b"photo"
        await asyncio.Event().wait()

    async def post() -> httpx.Response:
        app = asgi_app(routes(BytesPlane()), Limits(), request_id=lambda: "test-id")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return await client.post("/predict", content=trickle(), headers={TIMEOUT_HEADER: "0.05"})

    assert refusal(asyncio.run(post()), 408, "deadline_exceeded") == "No answer within 0.05 s."


# gRPC


def call(name: str, plane: BytesPlane, timeout: str | None) -> Any:
    stub, method, request = CALLS[name]
    metadata = () if timeout is None else ((TIMEOUT_HEADER, timeout),)

    async def use(channel: grpc.aio.Channel) -> Any:
        return await getattr(stub(channel), method)(request(), timeout=TIMEOUT_S, metadata=metadata)

    return exchange(use, plane)


def refused(name: str, plane: BytesPlane, timeout: str) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        call(name, plane, timeout)
    return caught.value.code().name, caught.value.details() or ""


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("timeout", "most_s"), [("15", 15), (None, 30), ("1e9", 30)])
def test_the_metadata_of_a_call_says_the_same_as_the_header(name: str, timeout: str | None, most_s: float) -> None:
    plane = BytesPlane()
    call(name, plane, timeout)
    assert [most_s - 10 < (timeout_s or 0) < most_s for timeout_s in plane.timeouts_s] == [True]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_without_an_answer_is_deadline_exceeded(name: str) -> None:
    code, details = refused(name, StuckPlane(), "0.05")
    assert code == "DEADLINE_EXCEEDED"
    assert details.startswith("No answer within 0.0")
    assert len(details) <= len("No answer within 0.049 s.")


@pytest.mark.parametrize("timeout", ["0", "-1", "soon"])
def test_a_timeout_in_the_metadata_that_is_no_positive_number_is_refused(timeout: str) -> None:
    code, details = refused("ModelInfer", BytesPlane(), timeout)
    assert (code, timeout in details) == ("INVALID_ARGUMENT", True)


def test_the_metadata_of_a_stream_is_for_each_of_its_requests() -> None:
    plane = BytesPlane()

    async def use(channel: grpc.aio.Channel) -> list[str]:
        stream = INFERENCE(channel).ModelStreamInfer(
            iter([oip_images(), oip_images()]), timeout=TIMEOUT_S, metadata=((TIMEOUT_HEADER, "15"),)
        )
        return [answer.error_message async for answer in stream]

    assert exchange(use, plane) == ["", ""]
    assert [5 < (timeout_s or 0) < 15 for timeout_s in plane.timeouts_s] == [True, True]


def test_the_timeout_parameter_of_a_call_ends_it() -> None:
    request: oip.ModelInferRequest = oip_images()
    request.parameters["timeout"].int64_param = 50_000

    async def use(channel: grpc.aio.Channel) -> Any:
        return await INFERENCE(channel).ModelInfer(request, timeout=TIMEOUT_S)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        exchange(use, StuckPlane())
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
