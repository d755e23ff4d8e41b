"""What the service refuses, over real sockets: the right status, a JSON body, and healthy afterwards."""

import select
import socket
import struct
import zlib

import httpx
import pytest

from tests.local_graph import Graph
from tests.reference import picture


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 100) + b"IDAT" + bytes(104)


def assert_refused(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status
    body = response.json()
    assert set(body) == {"error", "code", "request_id"}
    assert body["code"] == code
    assert body["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        pytest.param(b"", 400, "bad_request", id="nothing"),
        pytest.param(b"%PDF-1.7 not an image", 415, "unsupported_format", id="a PDF"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_format", id="an SVG"),
        pytest.param(picture("star")[:500], 422, "corrupt_image", id="a truncated PNG"),
        pytest.param(png_header(20_000, 20_000), 422, "too_many_pixels", id="a bomb by its header"),
        pytest.param(bytes(11 * 2**20), 413, "body_too_large", id="a body over the limit"),
    ],
)
def test_a_bad_body_is_refused(client: httpx.Client, content: bytes, status: int, code: str) -> None:
    assert_refused(client.post("/predict", content=content), status, code)
    assert client.post("/predict", content=picture("star")).status_code == 200


def test_a_body_without_length_is_refused_while_it_is_still_being_sent(graph: Graph, client: httpx.Client) -> None:
    address = httpx.URL(graph.url)
    chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
    sent_bytes = 0
    with socket.create_connection((address.host, address.port or 80), timeout=30) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not select.select([connection], [], [], 0)[0] and sent_bytes < 400 * 2**20:
            connection.sendall(chunk)
            sent_bytes += 2**16
        status_line = connection.recv(4096).split(b"\r\n")[0]
    assert status_line.startswith(b"HTTP/1.1 413 ")  # Python 3.13 has another phrase for it than 3.11.
    assert sent_bytes < 200 * 2**20
    assert client.get("/v2/health/ready").status_code == 200


@pytest.mark.parametrize("top_k", ["0", "-1", "many", "1.5", ""])
def test_a_bad_top_k_is_a_bad_request(client: httpx.Client, top_k: str) -> None:
    assert_refused(client.post(f"/predict?top_k={top_k}", content=picture("star")), 400, "bad_request")


def test_an_unknown_model_is_named_with_those_that_exist(client: httpx.Client) -> None:
    for response in (client.post("/predict?model=cats", content=picture("star")), client.get("/v2/models/cats")):
        assert_refused(response, 404, "unknown_model")
        assert "shapes, colours" in response.json()["error"]


def test_an_unknown_route_and_a_wrong_method_answer_in_json(client: httpx.Client) -> None:
    assert_refused(client.get("/nothing"), 404, "not_found")
    assert_refused(client.get("/predict"), 405, "method_not_allowed")


def test_too_many_images_in_one_request_are_refused(client: httpx.Client) -> None:
    files = [("file", (f"{number}.png", picture("star"))) for number in range(65)]
    assert_refused(client.post("/predict", files=files), 413, "too_many_images")
