"""Bytes that no client should send, over real sockets: refused or cut off, and everybody else is served meanwhile.

What HAProxy answers by itself is not ours to word: there, only the status counts.
"""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from benchmarks.hostile_files import SMALL
from deployments.protocols.generated import inference_pb2 as oip
from deployments.protocols.generated import inference_pb2_grpc
from tests.local_graph import Graph
from tests.reference import picture
from tests.unit.hostile import SLOW

STAR = picture("star")
# A normal request is answered in milliseconds; on a busy machine, all of the tests' processes are on two cores.
PROMPT_S = 20.0
SOCKET_TIMEOUT_S = 30.0
# A ClientHello of TLS 1.2, cut after its first fields.
TLS_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(500)
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture(autouse=True)
def healthy_afterwards(client: httpx.Client) -> Iterator[None]:
    """After each test, a normal request has its normal answer."""
    yield
    assert_healthy(client)


@pytest.fixture(scope="module", autouse=True)
def memory_stays(graph: Graph) -> Iterator[None]:
    """After all of them, no process of the graph's has grown by much more than the largest request."""
    httpx.post(f"{graph.url}/predict", content=STAR, timeout=SOCKET_TIMEOUT_S)
    before = memory_mb()
    assert {"Ingress", "Preprocessor", "haproxy"} <= set(before)
    yield
    after = memory_mb()
    grown = {name: after[name] - before[name] for name in before if after.get(name, 0) - before[name] > 150}
    assert not grown


def memory_mb() -> dict[str, int]:
    """Of each kind of process: the resident memory of all of them."""
    kinds = ("Ingress", "Preprocessor", "haproxy", "ProxyActor", "HAProxyManager")
    found: dict[str, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            pages = int(process.joinpath("statm").read_text().split()[1])
            for kind in kinds:
                if f":{kind}" in command or command.split(" ")[0].endswith(kind):
                    found[kind] = found.get(kind, 0) + pages * os.sysconf("SC_PAGESIZE") // 2**20
    return found


def assert_healthy(client: httpx.Client) -> None:
    started = time.monotonic()
    response = client.post("/predict?top_k=1", content=STAR, timeout=PROMPT_S)
    assert response.json()["predictions"][0]["label"] == "star"
    assert time.monotonic() - started < PROMPT_S


def connected(address: str) -> socket.socket:
    host, _, port = address.partition(":")
    return socket.create_connection((host, int(port)), timeout=SOCKET_TIMEOUT_S)


def answer_to(address: str, sent: bytes, patience_s: float = 3.0) -> bytes:
    """All that comes back until the other side closes, or is silent for so long."""
    answer = b""
    with connected(address) as connection, contextlib.suppress(OSError):
        connection.sendall(sent)
        connection.settimeout(patience_s)
        while part := connection.recv(2**16):
            answer += part
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def request(*headers: bytes, line: bytes = b"POST /predict HTTP/1.1", body: bytes = b"") -> bytes:
    return b"\r\n".join((line, b"Host: here", b"Connection: close", *headers, b"", body))


# Requests that are none, or two


MALFORMED = {
    "a request line of 1 MB": request(line=b"GET /" + b"a" * 2**20 + b" HTTP/1.1"),
    "a method of 100 KB": request(line=b"A" * 100_000 + b" / HTTP/1.1"),
    "no version": request(line=b"GET /predict"),
    "a null byte in the path": request(line=b"GET /v2/models/sha\0pes HTTP/1.1"),
    "a null byte in a header": request(b"x-a: a\0b", line=b"GET /v2 HTTP/1.1"),
    "a null byte in a header's name": request(b"x\0: a", line=b"GET /v2 HTTP/1.1"),
    "two lengths": request(b"Content-Length: 5", b"Content-Length: 6", body=b"aaaaaa"),
    "a list of lengths": request(b"Content-Length: 5, 6", body=b"aaaaaa"),
    "a negative length": request(b"Content-Length: -1"),
    "a length that is none": request(b"Content-Length: five", body=b"aaaaa"),
    "a length beyond 64 bits": request(b"Content-Length: " + b"9" * 30, body=b"a"),
    "a chunk whose size is none": request(b"Transfer-Encoding: chunked", body=b"zz\r\naa\r\n0\r\n\r\n"),
    "a chunk beyond 64 bits": request(b"Transfer-Encoding: chunked", body=b"f" * 17 + b"\r\naa"),
    "a chunk that is longer than it says": request(b"Transfer-Encoding: chunked", body=b"1\r\naaaa\r\n0\r\n\r\n"),
    "another coding of the transfer": request(b"Transfer-Encoding: xchunked", body=b"5\r\naaaaa\r\n0\r\n\r\n"),
    "TLS": TLS_HELLO,
    "gRPC over HTTP/1": request(
        b"Content-Type: application/grpc", line=b"POST /inference.GRPCInferenceService/X HTTP/2"
    ),
    "binary rubbish": bytes(range(256)) * 100,
    "SMTP": b"EHLO here\r\nMAIL FROM:<a@b>\r\n",
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_no_request_is_refused_or_cut_off(graph: Graph, what: str) -> None:
    assert all(400 <= status < 500 for status in statuses(answer_to(graph.address, MALFORMED[what])))


SMUGGLED = b"GET /v2/models/smuggled HTTP/1.1\r\nHost: here\r\n\r\n"
SMUGGLING = {
    "a length and chunks": request(
        b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED
    ).replace(b"Connection: close\r\n", b""),
    "a length that ends before the body": request(b"Content-Length: 1", body=b"a" + SMUGGLED),
    "a coding with a blank": request(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "a coding after a tab": request(b"Content-Length: 5", b"Transfer-Encoding:\tchunked", body=b"0\r\n\r\n" + SMUGGLED),
    "a coding twice": request(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n" + SMUGGLED
    ),
}


@pytest.mark.parametrize("what", SMUGGLING)
def test_no_request_is_smuggled_in_behind_another(graph: Graph, what: str) -> None:
    answer = answer_to(graph.address, SMUGGLING[what])
    assert len(statuses(answer)) <= 1
    assert b"smuggled" not in answer


def test_rubbish_behind_a_request_costs_it_nothing(graph: Graph) -> None:
    good = request(line=b"GET /v2/health/ready HTTP/1.1").replace(b"Connection: close\r\n", b"")
    answered = statuses(answer_to(graph.address, good + b"\0\1\2\3 rubbish\r\n\r\n" * 1000))
    assert answered[0] == 200
    assert all(status == 400 for status in answered[1:])


def test_http2_without_being_asked_for_is_served_or_closed(graph: Graph) -> None:
    garbage = HTTP2_PREFACE + struct.pack(">I", 2**24 - 1)[1:] + b"\x07\xff\0\0\0\0" + bytes(1000)
    answer_to(graph.address, garbage, patience_s=1.0)


# Names and texts


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/../../../../etc/passwd",
        "/v2/models/..%2f..%2f..%2fetc%2fpasswd",
        "/v2/models/%2e%2e/%2e%2e/etc/passwd/infer",
        "/v1/models/..\\..\\windows:predict",
        "/v2/models/shapes%00/infer",
        "/v2/models/shapes%0d%0aSet-Cookie:%20a=b",
        "/v2/models/%ff%fe",
        "/v2/models/\u0455hapes",
        "/v2/models/shapes/versions/..",
        "/v2/models/" + "%2e" * 2000,
        "/predict?model=../shapes",
        "/predict?model=shapes%00",
        "/predict?model=%ff",
        "/predict?top_k=\u0665",
        "/predict?top_k=%00",
        "/predict?" + "a=b&" * 5000,
    ],
)
def test_names_that_are_none_find_nothing(graph: Graph, path: str) -> None:
    head = b"POST " + path.encode() + b" HTTP/1.1"
    answer = answer_to(graph.address, request(b"Content-Length: %d" % len(STAR), line=head, body=STAR))
    # Of parameters that nobody knows, nothing is asked.
    expected = (200,) if "?a=b" in path else (400, 404, 405, 414)
    assert [status in expected for status in statuses(answer)] == [True]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"root:" not in body
    assert b"set-cookie" not in head.lower()


@pytest.mark.parametrize(
    "body",
    [
        b'{"image": "\0"}',
        b'{"image": "\xff\xfe"}',
        b'{"image": "\\u0000\\ud800"}',
        b'{"\\u0000": 1}',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'{"image": ' + b"[" * 9000 + b"]" * 9000 + b"}",
        b"[" + b"[]," * (3 * 2**20) + b"0]",
    ],
    ids=["null", "no UTF-8", "escapes", "null in a key", "BOM", "UTF-16", "deep", "9 MB of empty lists"],
)
def test_json_that_is_none_is_a_bad_request(client: httpx.Client, body: bytes) -> None:
    response = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (400, "bad_request")


# Slowly, or in pieces


def test_a_picture_in_fifty_thousand_chunks_is_a_picture(graph: Graph) -> None:
    # What follows the end of a PNG is no part of it.
    padded = STAR.ljust(50_000, b"\0")
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in padded)
    sent = request(b"Transfer-Encoding: chunked", body=chunks + b"0\r\n\r\n")
    assert statuses(answer_to(graph.address, sent, SOCKET_TIMEOUT_S)) == [200]


def test_others_are_served_while_many_send_slowly(graph: Graph, client: httpx.Client) -> None:
    heads = [b"POST /predict HTTP/1.1\r\nHost: he", request(b"Content-Length: 5000") + b"aaa"]
    heads += [request(b"Transfer-Encoding: chunked", body=b"fff\r\naa"), b"", b"P"]
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(graph.address)) for _ in range(200)]
        for number, connection in enumerate(slow):
            connection.sendall(heads[number % len(heads)])
        for _ in range(3):
            assert_healthy(client)
            for connection in slow:
                with contextlib.suppress(OSError):
                    connection.sendall(b"a")


def test_clients_that_never_read_their_answers_hold_up_nobody(graph: Graph, client: httpx.Client) -> None:
    many = request(line=b"GET /openapi.json HTTP/1.1").replace(b"Connection: close\r\n", b"") * 200
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(connected(graph.address))
            connection.settimeout(0.05)
            with contextlib.suppress(OSError):
                connection.sendall(many)
        assert_healthy(client)


# Files


@pytest.mark.parametrize("what", [*SMALL][::6])
def test_a_hostile_file_is_answered_as_its_decoder_says(client: httpx.Client, what: str) -> None:
    response = client.post("/predict", content=SMALL[what].data)
    assert response.status_code in (200, 415, 422)
    assert response.json().get("code", "picture") in SMALL[what].ends


def test_a_file_that_takes_too_long_is_refused_and_photographs_do_not_wait_for_it(graph: Graph) -> None:
    with httpx.Client(base_url=graph.url, timeout=60) as client, connected(graph.address) as connection:
        body = SLOW["JPEG of filling"][: 10 * 2**20 - 2000]
        connection.settimeout(60)
        connection.sendall(request(b"Content-Length: %d" % len(body), body=body))
        connection.setblocking(False)
        answered = 0
        while True:
            try:
                answer = connection.recv(2**16)
                break
            except BlockingIOError:
                assert_healthy(client)
                answered += 1
    assert statuses(answer) == [422]
    assert b"decode_timed_out" in answer
    assert answered >= 5


# gRPC


@pytest.mark.parametrize(
    "sent",
    [
        TLS_HELLO,
        request(),
        bytes(5000),
        HTTP2_PREFACE + bytes(9) + b"\xff" * 5000,
        HTTP2_PREFACE + struct.pack(">I", 2**24 - 1)[1:] + b"\0\0\0\0\0\1" + bytes(5000),
        HTTP2_PREFACE
        + bytes(3)
        + b"\4\0\0\0\0\0"
        + b"\0\0\x04\x08\0\0\0\0\0"
        + bytes(4)
        + (b"\0\0\x08\6\0\0\0\0\0" + bytes(8)) * 2000,
        HTTP2_PREFACE + b"".join(b"\0\0\x04\3\0" + struct.pack(">I", 2 * n + 1) + bytes(4) for n in range(2000)),
    ],
    ids=["TLS", "HTTP/1", "zeros", "frames of rubbish", "a frame of 16 MB", "a flood of pings", "a flood of resets"],
)
def test_what_is_no_grpc_is_cut_off(graph: Graph, sent: bytes) -> None:
    answer_to(graph.grpc_address, sent, patience_s=1.0)
    with grpc.insecure_channel(graph.grpc_address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(oip.ServerReadyRequest(), timeout=PROMPT_S).ready


@pytest.mark.parametrize("size_mb", [20, 40])
def test_a_huge_message_is_refused(graph: Graph, size_mb: int) -> None:
    """The first is more than a body may have, the second more than gRPC reads."""
    tensor = oip.ModelInferRequest.InferInputTensor(name="IMAGE", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(bytes(size_mb * 2**20))
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(graph.grpc_address, options) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(oip.ModelInferRequest(model_name="shapes", inputs=[tensor]), timeout=SOCKET_TIMEOUT_S)
    assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_bytes_that_are_no_message_are_refused(graph: Graph) -> None:
    with grpc.insecure_channel(graph.grpc_address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for message in (b"\xff" * 1000, b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 100_000):
            with pytest.raises(grpc.RpcError) as refused:
                call(message, timeout=SOCKET_TIMEOUT_S)
            # Serve parses before we do, and says so in its own words.
            assert refused.value.code() != grpc.StatusCode.DEADLINE_EXCEEDED
