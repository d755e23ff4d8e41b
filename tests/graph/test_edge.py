"""What a hostile client's headers do to the running service, which stands behind HAProxy: nothing."""

import base64
import os
import re
import socket

import grpc
import httpx
import pytest

from deployments.protocols.generated import inference_pb2 as pb
from deployments.protocols.generated import inference_pb2_grpc
from tests.local_graph import Graph
from tests.reference import picture

STAR = picture("star")


def exchange(graph: Graph, head: bytes, body: bytes = b"", until: bytes = b"\0") -> bytes:
    """The bytes of the answer to the bytes of a request, up to these or to the end of the connection."""
    address = httpx.URL(graph.url)
    with socket.create_connection((address.host, address.port or 80), timeout=30) as connection:
        connection.sendall(head + b"\r\n" + body)
        answer = b""
        while until not in answer and (part := connection.recv(2**16)):
            answer += part
        return answer


def post(graph: Graph, *headers: bytes) -> tuple[int, bytes]:
    """Status and all of the answer to a picture with those headers."""
    lines = [
        b"POST /predict HTTP/1.1",
        b"Host: here",
        b"Connection: close",
        b"Content-Length: %d" % len(STAR),
        *headers,
    ]
    answer = exchange(graph, b"".join(line + b"\r\n" for line in lines), STAR)
    return int(answer.split(b" ", 2)[1]), answer


@pytest.mark.parametrize("request_id", ["mine", "Root:1-2.3_4", "x" * 128])
def test_a_clients_request_id_comes_back(client: httpx.Client, request_id: str) -> None:
    response = client.post("/predict", content=STAR, headers={"x-request-id": request_id})
    assert response.json()["request_id"] == response.headers["x-request-id"] == request_id


@pytest.mark.parametrize("request_id", [b"two words", b"\xff\xfe", b"x" * 129, b'"},{"a":"'])
def test_an_id_that_no_log_should_hold_is_replaced_everywhere(client: httpx.Client, request_id: bytes) -> None:
    response = client.post("/predict", content=STAR, headers=[(b"x-request-id", request_id)])
    assert response.status_code == 200
    assert re.fullmatch(r"[0-9a-f-]{36}", response.headers["x-request-id"])
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_a_header_with_control_characters_does_not_get_past_haproxy(graph: Graph) -> None:
    assert post(graph, b"x-request-id: \x1b[31m")[0] == 400


@pytest.mark.parametrize(
    "header",
    [
        b"x-request-disconnect-disabled: \xff",
        b"serve_multiplexed_model_id: \xff",
        b"serve-multiplexed-model-id: other",
        b"x-session-id: \xff",
        b"traceparent: \xff",
        b"x-aperture-timeout-seconds: 0",
    ],
)
def test_headers_for_serve_itself_change_nothing(graph: Graph, header: bytes) -> None:
    assert post(graph, header)[0] == 200


@pytest.mark.parametrize("value", [b"\xff", b"0", b"nan"])
def test_a_timeout_that_is_none_is_refused_by_us_and_not_by_serve(graph: Graph, value: bytes) -> None:
    status, answer = post(graph, b"x-request-timeout-seconds: " + value)
    assert (status, b'"code":"bad_request"' in answer) == (400, True)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([b"x-%d: y" % number for number in range(2000)], id="many"),
        pytest.param([b"x-long: " + b"y" * 2**20], id="a long one"),
        pytest.param([b"y" * 2**19 + b": x"], id="a long name"),
    ],
)
def test_a_flood_of_headers_is_refused(graph: Graph, client: httpx.Client, headers: list[bytes]) -> None:
    try:
        status = post(graph, *headers)[0]
    except ConnectionError:  # HAProxy has answered and closed before all of it was sent.
        status = 400
    assert 400 <= status < 500
    assert client.get("/v2/health/ready").status_code == 200


def test_there_are_no_websockets(graph: Graph) -> None:
    key = base64.b64encode(os.urandom(16))
    head = b"GET /predict HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    answer = exchange(graph, head + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n", until=b"\r\n")
    assert answer.startswith(b"HTTP/1.1 403 ")


def test_no_browser_guesses_types_nor_frames_the_page(client: httpx.Client) -> None:
    assert client.post("/predict", content=STAR).headers["x-content-type-options"] == "nosniff"
    page = client.get("/docs").headers
    assert page["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in page["content-security-policy"]
    assert page["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in client.get("/v2", headers={"origin": "https://example.org"}).headers


@pytest.mark.parametrize(("request_id", "is_kept"), [("mine", True), ("two words", False), ("x" * 129, False)])
def test_an_id_in_grpcs_metadata_is_kept_only_if_a_log_can_repeat_it(
    graph: Graph, request_id: str, is_kept: bool
) -> None:
    with grpc.insecure_channel(graph.grpc_address) as channel:
        live = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ServerLive
        _, call = live.with_call(pb.ServerLiveRequest(), metadata=(("request_id", request_id),), timeout=20)
    assert (dict(call.trailing_metadata())["request_id"] == request_id) is is_kept


def test_grpc_reflection_is_off(graph: Graph) -> None:
    with grpc.insecure_channel(graph.grpc_address) as channel:
        reflect = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as caught:
            next(reflect(iter([b"\x3a\x00"]), timeout=20))  # list_services
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
