"""POST /predict with images that are named by their URLs."""

import pytest

from deployments.errors import ApertureError
from tests.unit.bytes_plane import (
    MAX_BODY_BYTES,
    MAX_IMAGES,
    BytesPlane,
    expected_predictions,
    predict,
    predict_json,
    refusal,
)


def test_an_image_that_is_named_by_its_url_is_answered_like_a_raw_one() -> None:
    plane = BytesPlane()
    response = predict_json({"image_url": "https://pictures/a.jpg"}, plane)
    assert plane.images == [b"fetched from https://pictures/a.jpg"]
    assert response.json() == predict(content=b"fetched from https://pictures/a.jpg").json()


def test_images_that_are_named_by_their_urls_are_answered_in_their_order_and_a_refused_one_fails_alone() -> None:
    urls = ["https://a/1.jpg", "file:///etc/passwd", 3, "https://a/2.jpg"]
    results = predict_json({"image_urls": urls}).json()["results"]
    assert [results[0], results[3]] == [
        {"predictions": expected_predictions(b"fetched from https://a/1.jpg")},
        {"predictions": expected_predictions(b"fetched from https://a/2.jpg")},
    ]
    assert results[1] == {"error": "not https", "code": "bad_request"}
    assert results[2] == {"error": "The URL of an image must be a string, not 3.", "code": "bad_request"}


def test_a_url_that_is_not_fetched_is_the_answer_when_it_is_alone() -> None:
    assert refusal(predict_json({"image_url": "file:///etc/passwd"}), 400, "bad_request") == "not https"


@pytest.mark.parametrize("value", [None, "https://a/", [], {"0": "https://a/"}], ids=repr)
def test_image_urls_that_are_no_list_with_a_url_are_refused(value: object) -> None:
    assert "image_urls must be a list" in refusal(predict_json({"image_urls": value}), 400, "bad_request")


def test_too_many_urls_are_refused_before_one_is_fetched() -> None:
    plane = UrlPlane({})
    refusal(predict_json({"image_urls": ["https://a/"] * (MAX_IMAGES + 1)}, plane), 413, "too_many_images")
    assert plane.fetched == []


def test_fetched_images_are_together_no_larger_than_a_body_may_be() -> None:
    half = MAX_BODY_BYTES // 2
    plane = UrlPlane({"https://a/": b"a" * half, "https://b/": b"b" * half, "https://c/": b"c"})
    results = predict_json({"image_urls": ["https://a/", "https://b/", "https://c/"]}, plane).json()["results"]
    assert results[:2] == [{"predictions": expected_predictions(image * half)} for image in (b"a", b"b")]
    assert results[2]["code"] == "body_too_large"
    assert f"{MAX_BODY_BYTES} bytes" in results[2]["error"]


class UrlPlane(BytesPlane):
    """The Internet is this dict."""

    def __init__(self, pages: dict[str, bytes]) -> None:
        super().__init__()
        self.pages = pages
        self.fetched: list[str] = []

    async def fetch(self, url: str) -> bytes | ApertureError:
        self.fetched.append(url)
        return self.pages[url]
