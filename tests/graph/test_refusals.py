"""What the service refuses, over real sockets: the right status, a JSON body, and healthy afterwards."""

import contextlib
import struct
import zlib
from collections.abc import Iterator

import httpx
import pytest

from tests.reference import picture


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


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


def test_a_body_without_length_is_refused_before_all_of_it_is_sent(client: httpx.Client) -> None:
    sent_bytes, whole_bytes = 0, 400 * 2**20

    def chunks() -> Iterator[bytes]:
        nonlocal sent_bytes
        while sent_bytes < whole_bytes:
            sent_bytes += 2**16
            yield bytes(2**16)

    # The server may answer and close while the client is still writing.
    with contextlib.suppress(httpx.WriteError):
        assert_refused(client.post("/predict", content=chunks()), 413, "body_too_large")
    assert sent_bytes < whole_bytes / 2
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
