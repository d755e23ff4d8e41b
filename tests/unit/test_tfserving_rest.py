"""TensorFlow Serving's REST API: images that are answered, in front of a data plane that answers from its bytes."""

import dataclasses
import gzip
import json
from typing import Any

import numpy as np
import pytest

from deployments.messages import Prepared
from tests.unit.bytes_plane import (
    LABELS,
    BytesPlane,
    info,
    logits_of,
    probabilities_of,
    refusal,
    send,
)
from tests.unit.tfserving_requests import (
    CLASSIFY,
    PREDICT,
    SIDE,
    assert_outputs,
    b64,
    normalised,
    picture,
    post,
    with_inputs,
)

# Predict, row by row


def test_instances_are_answered_by_predictions_in_their_order() -> None:
    body = post({"instances": [b64(b"first"), b64(b"second")]}).json()
    assert body.keys() == {"predictions"}
    for prediction, image in zip(body["predictions"], (b"first", b"second"), strict=True):
        assert_outputs(prediction, image)


@pytest.mark.parametrize(
    "instance",
    [b64(b"photo"), {"IMAGE": b64(b"photo")}, {"image_bytes": b64(b"photo")}, [b64(b"photo")], {"x": [b64(b"photo")]}],
    ids=["bare", "by its name", "by a name of the client's", "of shape (1,)", "named, of shape (1,)"],
)
def test_an_encoded_image_may_have_any_name(instance: object) -> None:
    plane = BytesPlane()
    (prediction,) = post({"instances": [instance]}, plane=plane).json()["predictions"]
    assert plane.images == [b"photo"]
    assert_outputs(prediction, b"photo")


@pytest.mark.parametrize("name", [None, "PIXELS", "pixels", "conv2d_input"])
def test_pixels_of_different_sizes_go_into_one_request(name: str | None) -> None:
    plane, pictures = BytesPlane(), [picture(4, 6), picture(5, 3)]
    instances = [each.tolist() if name is None else {name: each.tolist()} for each in pictures]
    predictions = post({"instances": instances}, plane=plane).json()["predictions"]
    for received, sent, prediction in zip(plane.images, pictures, predictions, strict=True):
        assert isinstance(received, np.ndarray)
        assert received.dtype == np.uint8
        assert received.flags.c_contiguous
        assert received.flags.writeable
        np.testing.assert_array_equal(received, sent)
        assert_outputs(prediction, sent)


def test_what_a_client_has_normalised_arrives_as_the_pixels_that_it_was() -> None:
    plane, pixels = BytesPlane(), picture(SIDE, SIDE)
    post({"instances": [{"INPUT": normalised(pixels).tolist()}]}, plane=plane)
    (received,) = plane.images
    assert isinstance(received, Prepared)
    np.testing.assert_array_equal(received.pixels, pixels)


def test_lists_without_a_name_are_what_the_model_takes() -> None:
    plane, pixels = with_inputs("IMAGE", "INPUT"), picture(SIDE, SIDE)
    post({"instances": [normalised(pixels).tolist()]}, plane=plane)
    assert isinstance(plane.images[0], Prepared)


@pytest.mark.parametrize("form", ["instances", "inputs"])
def test_of_a_single_output_the_name_is_left_out(form: str) -> None:
    plane = BytesPlane(models={"shapes": dataclasses.replace(info("shapes", 3), outputs=("LOGITS",))})
    answer = post({form: [b64(b"photo")]}, plane=plane).json()
    (key,) = answer
    assert key == {"instances": "predictions", "inputs": "outputs"}[form]
    np.testing.assert_array_equal(np.array(answer[key], np.float32), [logits_of(b"photo")])


def test_the_content_type_does_not_matter_and_other_keys_are_ignored() -> None:
    content = json.dumps({"instances": [b64(b"photo")], "signature_name": "serving_default", "more": 1}).encode()
    for content_type in ("text/plain", "application/json", "image/png"):
        response = send("POST", PREDICT, content=content, headers={"content-type": content_type})
        assert_outputs(response.json()["predictions"][0], b"photo")


def test_a_body_may_be_compressed() -> None:
    content = gzip.compress(json.dumps({"instances": [b64(b"photo")]}).encode())
    response = send("POST", PREDICT, content=content, headers={"content-encoding": "gzip"})
    assert_outputs(response.json()["predictions"][0], b"photo")


# Predict, by columns


@pytest.mark.parametrize("name", [None, "IMAGE", "image_bytes"])
@pytest.mark.parametrize("nest", [lambda each: each, lambda each: [each]], ids=["(N,)", "(N, 1)"])
def test_inputs_are_answered_by_outputs(name: str | None, nest: Any) -> None:
    values = [nest(b64(b"first")), nest(b64(b"second"))]
    body = post({"inputs": values if name is None else {name: values}}).json()
    assert body.keys() == {"outputs"}
    for row, image in enumerate((b"first", b"second")):
        assert_outputs({key: rows[row] for key, rows in body["outputs"].items()}, image)


@pytest.mark.parametrize("name", [None, "PIXELS", "x"])
def test_inputs_may_be_pixels(name: str | None) -> None:
    plane, batch = BytesPlane(), [picture(4, 6), picture(4, 6)[::-1]]
    values = [each.tolist() for each in batch]
    post({"inputs": values if name is None else {name: values}}, plane=plane)
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in plane.images]), batch)


def test_inputs_may_be_normalised() -> None:
    plane, pixels = BytesPlane(), picture(SIDE, SIDE)
    post({"inputs": {"INPUT": [normalised(pixels).tolist()]}}, plane=plane)
    assert isinstance(plane.images[0], Prepared)
    np.testing.assert_array_equal(plane.images[0].pixels, pixels)


# Classify and regress


def ranking(image: bytes) -> list[list[Any]]:
    probabilities = probabilities_of(image)
    order = sorted(range(len(LABELS)), key=lambda index: -probabilities[index])
    return [[LABELS[index], float(probabilities[index])] for index in order]


def test_examples_are_answered_by_all_labels_with_the_best_first() -> None:
    examples = [{"image/encoded": b64(b"first")}, {"anything": [b64(b"second")], "height": 3, "format": "jpeg"}]
    body = post({"examples": examples, "signature_name": "serving_default"}, CLASSIFY).json()
    assert body == {"results": [ranking(b"first"), ranking(b"second")]}


def test_the_context_holds_features_that_all_examples_have() -> None:
    body = post(
        {"context": {"image/encoded": b64(b"shared")}, "examples": [{}, {"image/encoded": b64(b"own")}]}, CLASSIFY
    )
    assert body.json() == {"results": [ranking(b"shared"), ranking(b"own")]}


def test_the_customary_feature_is_taken_among_others_of_bytes() -> None:
    example = {"thumbnail": b64(b"small"), "image/encoded": b64(b"photo")}
    assert post({"examples": [example]}, CLASSIFY).json() == {"results": [ranking(b"photo")]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "must be an object with examples"),
        ({}, "examples must be a list"),
        ({"examples": []}, "examples must be a list"),
        ({"examples": {}}, "examples must be a list"),
        ({"examples": [3]}, "examples[0] must be an object with features, not 3"),
        ({"examples": [{}]}, "examples[0] must have one image"),
        ({"examples": [{"a": b64(b"a"), "b": b64(b"b")}]}, "examples[0] must have one image"),
        ({"examples": [{"a": [b64(b"a"), b64(b"b")]}]}, "examples[0] must have one image"),
        ({"examples": [{"image/encoded": "YQ=="}]}, "examples[0] must have one image"),
        ({"examples": [{"a": {"b64": "#"}}]}, 'examples[0]["b64"] must be a base64 string'),
        ({"examples": [{"a": {"c": 1}}]}, 'examples[0] must be an object with the key "b64" alone'),
        ({"examples": [{"a": b64(b"a")}], "context": []}, "context must be an object"),
        ({"examples": [{"a": b64(b"a")}], "signature_name": "other"}, "there is no 'other'"),
    ],
)
def test_what_is_no_classify_request_is_refused_with_what_it_must_be(body: object, words: str) -> None:
    assert words in refusal(post(body, CLASSIFY), 400, "bad_request")


def test_a_model_without_encoded_images_has_no_classify() -> None:
    body = {"examples": [{"image/encoded": b64(b"a")}]}
    assert "INPUT" in refusal(post(body, CLASSIFY, with_inputs("INPUT")), 400, "bad_request")


def test_there_is_no_regression() -> None:
    assert "classifies" in refusal(post({"examples": [{}]}, "/v1/models/shapes:regress"), 400, "bad_request")
