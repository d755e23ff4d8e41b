"""Compressed bodies of requests, bounded, and of answers, over the Open Inference Protocol."""

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from deployments.errors import BodyTooLarge
from deployments.protocols.encoding import decompressed
from tests.unit.bytes_plane import MAX_BODY_BYTES, MAX_IMAGES, BytesPlane, logits_of, refusal, send
from tests.unit.oip_requests import HEADER, IMAGE, INFER, encoded, image_input, outputs_of, post, sized

Compress = Callable[[bytes], bytes]
BODY = json.dumps({"inputs": [IMAGE]}).encode()
MANY = json.dumps({"inputs": [image_input(*[bytes([number]) for number in range(MAX_IMAGES)])]}).encode()


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(body) + stream.flush()


ENCODINGS = [("gzip", gzip.compress), ("GZip", gzip.compress), ("deflate", zlib.compress), ("deflate", raw_deflate)]


def post_encoded(content: bytes, coding: str, plane: BytesPlane | None = None) -> httpx.Response:
    return post(content, plane, headers={"Content-Encoding": coding})


def answer_to(accept: str, body: bytes = MANY) -> httpx.Response:
    return send("POST", INFER, content=body, headers={"Accept-Encoding": accept})


# Requests


@pytest.mark.parametrize(("coding", "compress"), ENCODINGS)
def test_a_compressed_request_is_read(coding: str, compress: Compress) -> None:
    outputs = outputs_of(post_encoded(compress(BODY), coding))
    np.testing.assert_array_equal(outputs["LOGITS"], [logits_of(b"photo")])


@pytest.mark.parametrize(("coding", "compress"), ENCODINGS)
def test_the_length_of_the_json_is_that_before_compression(coding: str, compress: Compress) -> None:
    text, blob = json.dumps({"inputs": [sized(IMAGE, 9)]}).encode(), encoded(b"photo")
    headers = {"Content-Encoding": coding, HEADER: str(len(text))}
    np.testing.assert_array_equal(
        outputs_of(post(compress(text + blob), headers=headers))["LOGITS"], [logits_of(b"photo")]
    )


def test_identity_is_no_compression() -> None:
    outputs_of(post_encoded(BODY, "identity"))


@pytest.mark.parametrize(("coding", "compress"), ENCODINGS)
@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 50 * MAX_BODY_BYTES])
def test_a_bomb_is_refused_as_too_large(coding: str, compress: Compress, size: int) -> None:
    content = compress(bytes(size))
    assert len(content) < MAX_BODY_BYTES
    assert "unpacked" in refusal(post_encoded(content, coding), 413, "body_too_large")


@pytest.mark.parametrize(("coding", "compress"), ENCODINGS[1:])
def test_a_bomb_is_given_up_before_it_takes_memory(coding: str, compress: Compress) -> None:
    content = compress(bytes(50 * MAX_BODY_BYTES))
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            decompressed(content, coding.lower(), MAX_BODY_BYTES)
        assert tracemalloc.get_traced_memory()[1] < 5 * MAX_BODY_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("coding", "compress"), ENCODINGS)
def test_a_body_of_just_the_limit_is_not_too_large(coding: str, compress: Compress) -> None:
    content = compress(BODY + b" " * (MAX_BODY_BYTES - len(BODY)))
    outputs_of(post_encoded(content, coding))


@pytest.mark.parametrize(("coding", "compress"), ENCODINGS)
def test_a_corrupt_or_truncated_stream_is_refused(coding: str, compress: Compress) -> None:
    content = compress(BODY)
    for wrong in (b"", b"x", BODY, content[:1], content[: len(content) // 2], content[:-1], content + b"x"):
        response = post_encoded(wrong, coding)
        assert response.status_code == 400, wrong
        refusal(response, 400, "bad_request")


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_stream_whose_checksum_is_wrong_is_refused(coding: str, compress: Compress) -> None:
    content = bytearray(compress(BODY))
    content[-5 if coding == "gzip" else -1] ^= 1
    refusal(post_encoded(bytes(content), coding), 400, "bad_request")


def test_more_than_one_gzip_member_is_refused() -> None:
    assert "goes on" in refusal(post_encoded(gzip.compress(BODY) + gzip.compress(b" "), "gzip"), 400, "bad_request")


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, deflate", "gzip, gzip", "compress", "x" * 9999])
def test_another_encoding_is_refused(coding: str) -> None:
    assert "gzip or deflate" in refusal(post_encoded(BODY, coding), 415, "unsupported_encoding")


# Answers


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        *(("gzip", "gzip"), ("deflate", "deflate"), ("GZIP", "gzip"), ("gzip;q=0.5", "gzip")),
        *(("br, deflate", "deflate"), ("gzip, deflate, br, zstd", "gzip"), ("gzip; q=0, deflate", "deflate")),
        *(("gzip;q=0.0", None), ("br", None), ("identity", None), ("", None), ("*", None), (",;,=", None)),
    ],
)
def test_an_answer_has_the_encoding_that_the_client_accepts(accept: str, coding: str | None) -> None:
    response = answer_to(accept)
    assert response.headers.get("content-encoding") == coding
    np.testing.assert_array_equal(outputs_of(response)["LOGITS"], outputs_of(answer_to("identity"))["LOGITS"])


def test_an_encoded_answer_is_smaller_and_says_its_size() -> None:
    plain, compressed = answer_to("identity"), answer_to("gzip")
    assert int(compressed.headers["content-length"]) < int(plain.headers["content-length"])


def test_a_compressed_binary_answer_has_the_length_of_the_json_before_compression() -> None:
    body = json.dumps({**json.loads(MANY), "parameters": {"binary_data_output": True}}).encode()
    response = answer_to("gzip", body)
    outputs = outputs_of(response)
    assert response.headers[HEADER] == answer_to("identity", body).headers[HEADER]
    assert outputs["LOGITS"].shape == (MAX_IMAGES, 7)


def test_a_small_answer_is_not_compressed() -> None:
    assert "content-encoding" not in answer_to("gzip", BODY).headers
