"""Hugging Face's convention for image classification: POST /."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.errors import InferenceFailed
from tests.unit.bytes_plane import (
    LABELS,
    MAX_IMAGES,
    BytesPlane,
    base64_of,
    expected_predictions,
    logits_of,
    probabilities_of,
    refusal,
    send,
)


def post(body: object, plane: BytesPlane | None = None, query: dict[str, str] | None = None) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return send("POST", "/", plane, content=content, headers={"content-type": "application/json"}, params=query)


def softmax_of(image: bytes, top_k: int = 5) -> list[dict[str, Any]]:
    return [{"label": each["label"], "score": each["probability"]} for each in expected_predictions(image, top_k)]


@pytest.mark.parametrize("content_type", [None, "image/jpeg", "application/octet-stream", "text/plain"])
def test_a_raw_image_is_answered_by_the_five_best_labels(content_type: str | None) -> None:
    headers = {"content-type": content_type, "authorization": "Bearer token"} if content_type else {}
    assert send("POST", "/", content=b"photo", headers=headers).json() == softmax_of(b"photo")


def test_an_image_in_base64_is_answered_like_a_raw_one() -> None:
    assert post({"inputs": base64_of(b"photo"), "options": {"wait_for_model": True}}).json() == softmax_of(b"photo")


@pytest.mark.parametrize("head", ["data:image/jpeg;base64,", "data:;base64,", "DATA:image/png;charset=x;BASE64,"])
def test_an_image_may_be_a_data_url(head: str) -> None:
    assert post({"inputs": head + base64_of(b"photo")}).json() == softmax_of(b"photo")


def test_an_image_may_be_a_url_that_the_data_plane_fetches() -> None:
    assert post({"inputs": "https://a/b.jpg"}).json() == softmax_of(b"fetched from https://a/b.jpg")
    assert refusal(post({"inputs": "http://a/b.jpg"}), 400, "bad_request") == "not https"


def test_several_images_are_answered_by_as_many_lists_in_their_order() -> None:
    inputs = ["https://a/", base64_of(b"second"), "data:image/png;base64," + base64_of(b"third"), "https://b/"]
    expected = (b"fetched from https://a/", b"second", b"third", b"fetched from https://b/")
    assert post({"inputs": inputs}).json() == [softmax_of(image) for image in expected]


def test_a_list_of_one_image_is_answered_by_a_list_of_one() -> None:
    assert post({"inputs": [base64_of(b"photo")]}).json() == [softmax_of(b"photo")]


# Parameters


@pytest.mark.parametrize("top_k", [1, 7, 100, 10**18])
def test_top_k_labels_are_answered_or_all_there_are(top_k: int) -> None:
    answer = post({"inputs": base64_of(b"photo"), "parameters": {"top_k": top_k}}).json()
    assert answer == softmax_of(b"photo", min(top_k, len(LABELS)))


@pytest.mark.parametrize("parameters", [None, {}, {"top_k": None, "function_to_apply": None}, {"unknown": 1}])
def test_parameters_that_are_left_out_have_their_defaults(parameters: object) -> None:
    assert post({"inputs": base64_of(b"photo"), "parameters": parameters}).json() == softmax_of(b"photo")


def sigmoid_of(image: bytes) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-logits_of(image).astype(np.float64)))


@pytest.mark.parametrize(
    ("function", "scores_of"), [("none", logits_of), ("sigmoid", sigmoid_of), ("softmax", probabilities_of)]
)
def test_scores_are_what_the_function_makes_of_the_logits(
    function: str, scores_of: Callable[[bytes], NDArray[Any]]
) -> None:
    scores = scores_of(b"photo")
    order = np.argsort(-scores)
    parameters = {"function_to_apply": function, "top_k": len(LABELS)}
    answer = post({"inputs": base64_of(b"photo"), "parameters": parameters}).json()
    assert [each["label"] for each in answer] == [LABELS[index] for index in order]
    np.testing.assert_allclose([each["score"] for each in answer], scores[order], rtol=1e-6)


@pytest.mark.parametrize(
    ("query", "status"), [({"model": "others", "version": "4"}, 200), ({"model": "x"}, 404), ({"version": "1"}, 404)]
)
def test_the_model_and_its_version_are_chosen_in_the_query(query: dict[str, str], status: int) -> None:
    assert post({"inputs": base64_of(b"photo")}, query=query).status_code == status
    assert send("POST", "/", content=b"photo", params=query).status_code == status


# Refusals


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"{'inputs': 1}", "not valid JSON"),
        ([base64_of(b"photo")], "must be an object with inputs"),
        ({}, "An image in inputs must be a base64 string"),
        ({"inputs": None}, "An image in inputs must be a base64 string"),
        ({"inputs": {"image": "YQ=="}}, "An image in inputs must be a base64 string"),
        ({"inputs": ""}, "An image in inputs must be a base64 string"),
        ({"inputs": "####"}, "other characters or padding"),
        ({"inputs": []}, "or a list with at least one"),
        ({"inputs": ["YQ==", 3]}, "An image in inputs must be a base64 string"),
        ({"inputs": "data:image/jpeg,YQ=="}, "A data URL begins with data:image/TYPE;base64, and not with"),
        ({"inputs": "data:" + "x" * 1000}, "A data URL begins with"),
        ({"inputs": "data:image/jpeg;base64,##"}, "The image in a data URL must be a base64 string"),
        ({"inputs": "data:image/jpeg;base64,"}, "The image in a data URL must be a base64 string"),
        ({"inputs": "YQ==", "parameters": [1]}, "parameters must be an object, not a list"),
        ({"inputs": "YQ==", "parameters": {"top_k": 0}}, "top_k must be an integer of at least 1, not 0"),
        ({"inputs": "YQ==", "parameters": {"top_k": True}}, "top_k must be an integer of at least 1, not True"),
        ({"inputs": "YQ==", "parameters": {"top_k": "5"}}, "top_k must be an integer of at least 1, not '5'"),
        ({"inputs": "YQ==", "parameters": {"top_k": 1.5}}, "top_k must be an integer of at least 1, not 1.5"),
        (
            {"inputs": "YQ==", "parameters": {"top_k": ["x" * 1000]}},
            "top_k must be an integer of at least 1, not a list",
        ),
        (
            {"inputs": "YQ==", "parameters": {"function_to_apply": "tanh"}},
            "function_to_apply must be softmax, sigmoid, none, not 'tanh'",
        ),
        ({"inputs": "YQ==", "parameters": {"function_to_apply": {}}}, "function_to_apply must be softmax"),
    ],
)
def test_what_is_no_request_is_refused_with_what_it_must_be(body: object, words: str) -> None:
    plane = BytesPlane()
    error = refusal(post(body, plane), 400, "bad_request")
    assert words in error
    assert len(error) < 250
    assert plane.images == []


def test_an_empty_body_is_refused() -> None:
    assert "empty" in refusal(send("POST", "/", content=b""), 400, "bad_request")


def test_too_many_images_are_refused_before_one_is_decoded() -> None:
    refusal(post({"inputs": ["####"] * (MAX_IMAGES + 1)}), 413, "too_many_images")


def test_one_bad_image_fails_its_request() -> None:
    assert "is corrupt" in refusal(send("POST", "/", content=b"bad"), 422, "corrupt_image")
    response = post({"inputs": [base64_of(b"fine"), base64_of(b"bad")]})
    assert refusal(response, 422, "corrupt_image") == "Image 2 of 2: The image is corrupt."


def test_a_failure_of_the_model_is_the_answer() -> None:
    response = post({"inputs": base64_of(b"photo")}, BytesPlane(failure=InferenceFailed("It failed.")))
    assert refusal(response, 500, "inference_failed") == "It failed."
