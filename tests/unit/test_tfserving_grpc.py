"""tensorflow.serving.PredictionService and ModelService on a server and a channel of their own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from deployments.protocols.generated import tensorflow_error_pb2
from deployments.protocols.generated import tensorflow_pb2 as tf
from deployments.protocols.generated import tensorflow_serving_pb2 as pb
from tests.unit.bytes_plane import (
    LABELS,
    MAX_BODY_BYTES,
    MAX_IMAGES,
    BytesPlane,
    expected_predictions,
    logits_of,
    probabilities_of,
)
from tests.unit.rpc_server import MODEL, PREDICTION, call, refusal

IMAGES = [b"first image", b"second"]
PIXELS = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
# The brightest pixel of the preprocessing that the model announces, and what becomes of it.
WHITE = ((1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])).astype("<f4")
WHITE_PIXELS = np.full((224, 224, 3), 255, np.uint8)


def tensor(dtype: int, shape: Sequence[int], **elements: Any) -> tf.TensorProto:
    return tf.TensorProto(dtype=dtype, tensor_shape={"dim": [{"size": size} for size in shape]}, **elements)


def predict_request(proto: tf.TensorProto, key: str = "inputs") -> pb.PredictRequest:
    return pb.PredictRequest(model_spec={"name": "shapes"}, inputs={key: proto})


def images_request() -> pb.PredictRequest:
    return predict_request(tensor(tf.DT_STRING, [2], string_val=IMAGES))


def predict(request: pb.PredictRequest) -> pb.PredictResponse:
    return call(PREDICTION, "Predict", request)


def values_of(proto: tf.TensorProto) -> np.ndarray[Any, Any]:
    """As clients without TensorFlow read it."""
    assert proto.dtype == tf.DT_FLOAT
    return np.array(proto.float_val, np.float32).reshape([dim.size for dim in proto.tensor_shape.dim])


def logits(request: pb.PredictRequest) -> np.ndarray[Any, Any]:
    return values_of(predict(request).outputs["LOGITS"])


# Predict


def test_images_are_answered_with_probabilities_and_logits() -> None:
    response = predict(images_request())
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("shapes", 3, "serving_default")
    assert set(response.outputs) == {"PROBABILITIES", "LOGITS"}
    probabilities = values_of(response.outputs["PROBABILITIES"])
    np.testing.assert_array_equal(probabilities, [probabilities_of(image) for image in IMAGES])
    np.testing.assert_array_equal(values_of(response.outputs["LOGITS"]), [logits_of(image) for image in IMAGES])


@pytest.mark.parametrize("key", ["PIXELS", "pixels", "image_tensor"])
@pytest.mark.parametrize("elements", [{"tensor_content": PIXELS.tobytes()}, {"int_val": PIXELS.ravel().tolist()}])
def test_pixels_are_taken_as_content_or_values_under_any_key(key: str, elements: dict[str, Any]) -> None:
    request = predict_request(tensor(tf.DT_UINT8, PIXELS.shape, **elements), key)
    np.testing.assert_array_equal(logits(request), [logits_of(image) for image in PIXELS])


@pytest.mark.parametrize("field", ["tensor_content", "float_val"])
def test_preprocessed_images_are_taken_as_content_or_values(field: str) -> None:
    values = np.broadcast_to(WHITE[:, None, None], (1, 3, 224, 224))
    elements = values.tobytes() if field == "tensor_content" else values.ravel().tolist()
    request = predict_request(tensor(tf.DT_FLOAT, values.shape, **{field: elements}))
    np.testing.assert_array_equal(logits(request), [logits_of(WHITE_PIXELS)])


def test_a_single_value_fills_the_shape() -> None:
    white = predict_request(tensor(tf.DT_UINT8, [1, 224, 224, 3], int_val=[255]))
    np.testing.assert_array_equal(logits(white), [logits_of(WHITE_PIXELS)])
    images = predict_request(tensor(tf.DT_STRING, [3, 1], string_val=IMAGES[:1]))
    np.testing.assert_array_equal(logits(images), [logits_of(IMAGES[0])] * 3)


def test_output_filter_names_what_is_answered() -> None:
    request = images_request()
    request.output_filter.append("LOGITS")
    assert set(predict(request).outputs) == {"LOGITS"}


def change_tensor(**change: Any) -> Callable[[pb.PredictRequest], Any]:
    def apply(request: pb.PredictRequest) -> None:
        proto = request.inputs["inputs"]
        for field, value in change.items():
            if field == "shape":
                proto.tensor_shape.CopyFrom(tf.TensorShapeProto(dim=[{"size": size} for size in value]))
            elif isinstance(value, list):
                proto.ClearField(field)
                getattr(proto, field).extend(value)
            else:
                setattr(proto, field, value)

    return apply


PIXELS_OF = {"dtype": tf.DT_UINT8, "string_val": [], "shape": [1, 1, 1, 3]}
BAD: dict[str, tuple[Callable[[pb.PredictRequest], Any], str]] = {
    "no input": (lambda request: request.inputs.clear(), "exactly one input"),
    "two inputs": (lambda request: request.inputs["more"].CopyFrom(tf.TensorProto()), "exactly one input"),
    "no datatype": (change_tensor(dtype=0), "DT_INVALID"),
    "an unknown datatype": (change_tensor(dtype=999), "DataType 999"),
    "a datatype of no input": (change_tensor(dtype=tf.DT_DOUBLE), "DT_DOUBLE"),
    "no shape": (change_tensor(shape=[]), "shape"),
    "no image": (change_tensor(shape=[0]), "shape"),
    "a negative dimension": (change_tensor(shape=[-1]), "shape"),
    "many dimensions": (change_tensor(shape=[1] * 100_000), "dimensions"),
    "an unknown rank": (
        lambda request: request.inputs["inputs"].tensor_shape.CopyFrom(tf.TensorShapeProto(unknown_rank=True)),
        "must be known",
    ),
    "too few elements": (change_tensor(shape=[3]), "has 3 elements; its string_val has 2"),
    "no element": (change_tensor(string_val=[]), "string_val has 0"),
    "images as content": (change_tensor(string_val=[], tensor_content=b"x"), "string_val, not in tensor_content"),
    "content and values": (change_tensor(tensor_content=b"x"), "not in both"),
    "content of another size": (change_tensor(**PIXELS_OF, tensor_content=b"xx"), "has 3 bytes"),
    "a negative pixel": (change_tensor(**PIXELS_OF, int_val=[0, -1, 0]), "from 0 to 255"),
    "a pixel that is too bright": (change_tensor(**PIXELS_OF, int_val=[256]), "from 0 to 255"),
    "a value that would fill too much": (
        change_tensor(**{**PIXELS_OF, "shape": [1, 2**40, 2**40, 3]}, int_val=[0]),
        str(MAX_BODY_BYTES),
    ),
    "content that overflows": (
        change_tensor(**{**PIXELS_OF, "shape": [1, 2**62, 2**62, 3]}, tensor_content=b"\0"),
        "tensor_content has 1",
    ),
    "too many images": (change_tensor(shape=[MAX_IMAGES + 1], string_val=[b"x"]), "17 images"),
    "another signature": (lambda request: setattr(request.model_spec, "signature_name", "embed"), "'embed'"),
    "an unknown output": (lambda request: request.output_filter.append("classes"), "'classes'"),
    "an output twice": (lambda request: request.output_filter.extend(["LOGITS"] * 2), "twice"),
    "a request that is too large": (change_tensor(string_val=[bytes(MAX_BODY_BYTES)]), str(MAX_BODY_BYTES)),
    "a bad image": (change_tensor(string_val=[b"good", b"bad"]), "Image 2 of 2: The image is corrupt."),
}


@pytest.mark.parametrize(("change", "expected"), BAD.values(), ids=BAD)
def test_a_request_that_does_not_fit_is_an_invalid_argument(
    change: Callable[[pb.PredictRequest], Any], expected: str
) -> None:
    request = images_request()
    change(request)
    details = refusal(PREDICTION, "Predict", request, "INVALID_ARGUMENT")
    assert expected in details
    assert len(details) <= 500


def test_an_input_by_its_name_must_have_its_datatype() -> None:
    request = predict_request(tensor(tf.DT_UINT8, PIXELS.shape, tensor_content=PIXELS.tobytes()), "IMAGE")
    assert "IMAGE of DT_STRING" in refusal(PREDICTION, "Predict", request, "INVALID_ARGUMENT")


# Which model


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, "''"),
        ({"name": "cats"}, "'cats'"),
        ({"name": "shapes", "version": {"value": 2}}, "'2'"),
        ({"name": "shapes", "version": {"value": -1}}, "'-1'"),
        ({"name": "shapes", "version_label": "stable"}, "'stable'"),
    ],
)
def test_an_unknown_model_version_or_label_is_not_found(spec: dict[str, Any], expected: str) -> None:
    requests = {
        "Predict": pb.PredictRequest(model_spec=spec),
        "Classify": pb.ClassificationRequest(model_spec=spec),
        "GetModelMetadata": pb.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"]),
    }
    for method, request in requests.items():
        assert expected in refusal(PREDICTION, method, request, "NOT_FOUND")
    status = pb.GetModelStatusRequest(model_spec=spec)
    assert expected in refusal(MODEL, "GetModelStatus", status, "NOT_FOUND")


def test_the_version_that_is_served_may_be_named() -> None:
    request = images_request()
    request.model_spec.version.value = 3
    assert predict(request).model_spec.version.value == 3


# Classify


def example(**features: tf.Feature) -> tf.Example:
    return tf.Example(features={"feature": features})


def of_bytes(*values: bytes) -> tf.Feature:
    return tf.Feature(bytes_list={"value": values})


def classify_request(*examples: tf.Example) -> pb.ClassificationRequest:
    return pb.ClassificationRequest(model_spec={"name": "shapes"}, input={"example_list": {"examples": examples}})


ENCODED = "image/encoded"
NUMBER = tf.Feature(int64_list={"value": [7]})


@pytest.mark.parametrize(
    "features",
    [
        {ENCODED: of_bytes(IMAGES[0])},
        {ENCODED: of_bytes(IMAGES[0]), "image/format": of_bytes(b"jpeg"), "image/height": NUMBER},
        {"x": of_bytes(IMAGES[0]), "label": NUMBER},
    ],
)
def test_examples_are_classified_the_most_probable_first(features: dict[str, tf.Feature]) -> None:
    request = classify_request(example(**features), example(**{ENCODED: of_bytes(IMAGES[1])}))
    response = call(PREDICTION, "Classify", request)
    assert response.model_spec.version.value == 3
    for image, classes in zip(IMAGES, response.result.classifications, strict=True):
        expected = [(each["label"], each["probability"]) for each in expected_predictions(image, len(LABELS))]
        assert [(each.label, each.score) for each in classes.classes] == expected


def test_examples_with_a_context_are_classified_alike() -> None:
    examples = [example(**{ENCODED: of_bytes(image)}) for image in IMAGES]
    alone = classify_request(*examples)
    beside = pb.ClassificationRequest(model_spec={"name": "shapes"})
    beside.input.example_list_with_context.examples.extend(examples)
    assert call(PREDICTION, "Classify", beside) == call(PREDICTION, "Classify", alone)


@pytest.mark.parametrize(
    ("examples", "expected"),
    [
        ([], "no examples"),
        ([example()], "Example 1"),
        ([example(a=of_bytes(b"x"), b=of_bytes(b"y"))], "Example 1"),
        ([example(**{ENCODED: of_bytes(b"x")}), example(**{ENCODED: of_bytes()})], "Example 2"),
        ([example(**{ENCODED: of_bytes(b"x", b"y")})], "Example 1"),
        ([example(**{ENCODED: NUMBER})], "Example 1"),
        ([example(**{f"feature {number}": NUMBER for number in range(1000)}, x=of_bytes(b"x"))], "Example 1"),
        ([example(**{ENCODED: of_bytes(b"x")})] * (MAX_IMAGES + 1), "17 images"),
        ([example(**{ENCODED: of_bytes(b"bad")})], "The image is corrupt."),
    ],
)
def test_examples_without_one_image_each_are_an_invalid_argument(examples: list[tf.Example], expected: str) -> None:
    assert expected in refusal(PREDICTION, "Classify", classify_request(*examples), "INVALID_ARGUMENT")


# Metadata and status


def metadata_request(*fields: str) -> pb.GetModelMetadataRequest:
    return pb.GetModelMetadataRequest(model_spec={"name": "shapes"}, metadata_field=fields)


def test_the_metadata_are_the_signature_that_predict_takes() -> None:
    response = call(PREDICTION, "GetModelMetadata", metadata_request("signature_def"))
    signatures = pb.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert list(signatures.signature_def) == ["serving_default"]
    signature = signatures.signature_def["serving_default"]
    assert signature.method_name == "tensorflow/serving/predict"
    assert {name: (each.dtype, shape_of(each)) for name, each in signature.inputs.items()} == {
        "IMAGE": (tf.DT_STRING, [-1]),
        "PIXELS": (tf.DT_UINT8, [-1, -1, -1, 3]),
        "INPUT": (tf.DT_FLOAT, [-1, 3, 224, 224]),
    }
    assert {name: (each.dtype, shape_of(each)) for name, each in signature.outputs.items()} == {
        "PROBABILITIES": (tf.DT_FLOAT, [-1, len(LABELS)]),
        "LOGITS": (tf.DT_FLOAT, [-1, len(LABELS)]),
    }


def shape_of(info: tf.TensorInfo) -> list[int]:
    return [dim.size for dim in info.tensor_shape.dim]


@pytest.mark.parametrize("fields", [[], ["graph"], ["signature_def", "graph"]])
def test_other_metadata_are_an_invalid_argument(fields: list[str]) -> None:
    details = refusal(PREDICTION, "GetModelMetadata", metadata_request(*fields), "INVALID_ARGUMENT")
    assert "'signature_def'" in details


@pytest.mark.parametrize(
    ("plane", "version", "state"),
    [
        (BytesPlane(), 3, pb.ModelVersionStatus.AVAILABLE),
        (BytesPlane(models={"shapes": None}), 0, pb.ModelVersionStatus.LOADING),
    ],
)
def test_the_status_is_of_the_one_version_that_is_served(plane: BytesPlane, version: int, state: int) -> None:
    request = pb.GetModelStatusRequest(model_spec={"name": "shapes"})
    (status,) = call(MODEL, "GetModelStatus", request, plane).model_version_status
    assert (status.version, status.state) == (version, state)
    assert status.status.error_code == tensorflow_error_pb2.OK


def test_a_model_that_is_not_warm_is_unavailable() -> None:
    refusal(PREDICTION, "Predict", images_request(), "UNAVAILABLE", BytesPlane(models={"shapes": None}))


@pytest.mark.parametrize(
    ("stub", "method", "request_type"),
    [
        (PREDICTION, "Regress", pb.RegressionRequest),
        (PREDICTION, "MultiInference", pb.MultiInferenceRequest),
    ],
)
def test_an_rpc_that_is_not_served_says_so(stub: Any, method: str, request_type: Any) -> None:
    assert refusal(stub, method, request_type(), "UNIMPLEMENTED") == f"{method} is not implemented."
