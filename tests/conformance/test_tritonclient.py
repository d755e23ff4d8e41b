"""What both of Triton's clients do alike: health, metadata, inference in every form, and refusals."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from tests.another_hand import LABELS
from tests.conformance.images import SIDE, encoded, of_classes, of_row, pixels, prepared
from tests.conformance.triton import Transport, Triton, connected
from tests.local_graph import Graph
from tests.reference import Reference, picture

TYPES = {"IMAGE": "BYTES", "PIXELS": "UINT8", "INPUT": "FP32"}
SHAPES = {"IMAGE": [-1], "PIXELS": [-1, -1, -1, 3], "INPUT": [-1, 3, SIDE, SIDE]}


@pytest.fixture(params=["http", "grpc"])
def triton(graph: Graph, request: pytest.FixtureRequest) -> Iterator[Triton]:
    transport: Transport = request.param
    with connected(transport, graph) as connection:
        yield connection


def test_server_and_models_are_live_and_ready(triton: Triton) -> None:
    assert triton.client.is_server_live()
    assert triton.client.is_server_ready()
    assert triton.client.is_model_ready("shapes")
    assert triton.client.is_model_ready("colours", "1")


@pytest.mark.parametrize(("model", "version"), [("cats", ""), ("shapes", "7")])
def test_an_unknown_model_or_version_is_not_ready(triton: Triton, model: str, version: str) -> None:
    if triton.transport == "http":
        assert not triton.client.is_model_ready(model, version)
        return
    with pytest.raises(InferenceServerException) as caught:
        triton.client.is_model_ready(model, version)
    assert triton.status(caught.value) == "NOT_FOUND"


def test_the_server_names_its_extensions(triton: Triton) -> None:
    metadata = triton.describe("server_metadata")
    assert metadata["name"]
    assert metadata["version"]
    assert {"binary_tensor_data", "classification", "model_configuration", "statistics"} <= set(metadata["extensions"])


def test_the_metadata_announces_what_is_accepted(triton: Triton, reference: Reference) -> None:
    metadata = triton.describe("model_metadata", "shapes")
    assert (metadata["name"], metadata["versions"]) == ("shapes", [str(reference.version)])
    assert metadata["platform"]
    assert {each["name"]: each["datatype"] for each in metadata["inputs"]} == TYPES
    assert {each["name"]: list(map(int, each["shape"])) for each in metadata["inputs"]} == SHAPES
    assert {each["name"]: (each["datatype"], list(map(int, each["shape"]))) for each in metadata["outputs"]} == {
        "PROBABILITIES": ("FP32", [-1, len(LABELS)]),
        "LOGITS": ("FP32", [-1, len(LABELS)]),
    }


def test_the_config_is_the_metadata_without_the_number_of_images(triton: Triton) -> None:
    config = triton.describe("model_config", "shapes", "1")
    config = config.get("config", config)
    assert config["name"] == "shapes"
    assert config["max_batch_size"] == 64
    found = {each["name"]: (each["data_type"], list(map(int, each["dims"]))) for each in config["input"]}
    assert found["INPUT"] == ("TYPE_FP32", [3, SIDE, SIDE])
    assert found["PIXELS"] == ("TYPE_UINT8", [-1, -1, 3])
    assert found["IMAGE"][0] == "TYPE_STRING"
    assert {each["name"]: each.get("format") for each in config["input"]}["INPUT"] == "FORMAT_NCHW"


def test_the_repository_lists_every_model(triton: Triton) -> None:
    index = triton.describe("model_repository_index")
    models = index if triton.transport == "http" else index["models"]
    assert {(each["name"], each["version"], each["state"]) for each in models} == {
        (name, "1", "READY") for name in ("shapes", "colours", "slow", "tensors")
    }


@pytest.mark.parametrize("kind", [encoded, pixels, prepared])
def test_an_image_is_classified_however_it_comes(
    triton: Triton, kind: Any, heart: bytes, expected: dict[str, float]
) -> None:
    name = {encoded: "IMAGE", pixels: "PIXELS", prepared: "INPUT"}[kind]
    result = triton.infer(name, kind(heart))
    probabilities, logits = result.as_numpy("PROBABILITIES"), result.as_numpy("LOGITS")
    assert probabilities.dtype == logits.dtype == np.float32
    assert probabilities.shape == logits.shape == (1, len(LABELS))
    assert of_row(probabilities[0]) == pytest.approx(expected, abs=1e-6)
    exponentials = np.exp(logits[0] - logits[0].max())
    assert probabilities[0] == pytest.approx(exponentials / exponentials.sum(), abs=1e-6)


@pytest.mark.parametrize("shape", [(10,), (10, 1)], ids=["(N,)", "(N, 1)"])
def test_several_images_are_answered_in_their_order(
    triton: Triton, reference: Reference, shape: tuple[int, ...]
) -> None:
    images = [picture(label) for label in LABELS]
    probabilities = triton.infer("IMAGE", encoded(*images).reshape(shape)).as_numpy("PROBABILITIES")
    for row, image in zip(probabilities, images, strict=True):
        assert of_row(row) == pytest.approx(reference.probabilities(image), abs=1e-4)


def test_only_the_outputs_asked_for_are_sent_in_the_order_asked(triton: Triton, heart: bytes) -> None:
    one = triton.infer("IMAGE", encoded(heart), outputs=[triton.output("LOGITS")])
    assert one.as_numpy("PROBABILITIES") is None
    two = triton.infer(
        "IMAGE", encoded(heart), outputs=[triton.output("LOGITS"), triton.output("PROBABILITIES", class_count=2)]
    )
    answered = two.get_response()
    outputs = answered["outputs"] if triton.transport == "http" else answered.outputs
    names = [each["name"] if triton.transport == "http" else each.name for each in outputs]
    assert names == ["LOGITS", "PROBABILITIES"]
    assert two.as_numpy("LOGITS") == pytest.approx(one.as_numpy("LOGITS"), abs=1e-4)


def test_classes_come_as_value_index_and_label_best_first(
    triton: Triton, heart: bytes, expected: dict[str, float]
) -> None:
    images = encoded(heart, picture("star"))
    result = triton.infer("IMAGE", images, outputs=[triton.output("PROBABILITIES", class_count=3)])
    classes = result.as_numpy("PROBABILITIES")
    assert classes.shape == (2, 3)
    first = of_classes(classes[0])
    assert first == pytest.approx({label: expected[label] for label in first}, abs=2e-6)
    assert list(first) == sorted(expected, key=expected.__getitem__, reverse=True)[:3]
    assert classes[0][0].decode().split(":")[1] == str(LABELS.index("heart"))
    assert next(iter(of_classes(classes[1]))) == "star"


def test_more_classes_than_there_are_give_all(triton: Triton, heart: bytes) -> None:
    result = triton.infer("IMAGE", encoded(heart), outputs=[triton.output("LOGITS", class_count=999)])
    assert set(of_classes(result.as_numpy("LOGITS")[0])) == set(LABELS)


def test_the_id_model_and_version_come_back(triton: Triton, heart: bytes) -> None:
    result = triton.infer("IMAGE", encoded(heart), request_id="mine-7", model_version="1", parameters={"mark": "x"})
    answered = result.get_response()
    if triton.transport == "grpc":
        answered = {"id": answered.id, "model_name": answered.model_name, "model_version": answered.model_version}
    assert (answered["id"], answered["model_name"], answered["model_version"]) == ("mine-7", "shapes", "1")


def test_a_model_without_the_images_of_others_is_asked_by_its_name(triton: Triton) -> None:
    red = np.zeros((1, 64, 64, 3), np.uint8)
    red[..., 0] = 250
    classes = triton.infer("PIXELS", red, "colours", outputs=[triton.output("PROBABILITIES", class_count=1)])
    assert list(of_classes(classes.as_numpy("PROBABILITIES")[0])) == ["red"]


REFUSED: list[Any] = [
    pytest.param("PIXELS", np.zeros((1, 9, 9), np.uint8), ["PIXELS", "[-1, -1, -1, 3]", "[1, 9, 9]"], id="rank"),
    pytest.param("PIXELS", np.zeros((1, 9, 9, 4), np.uint8), ["[-1, -1, -1, 3]", "[1, 9, 9, 4]"], id="channels"),
    pytest.param("INPUT", np.zeros((1, 3, 9, 9), np.float32), ["[-1, 3, 128, 128]", "[1, 3, 9, 9]"], id="size"),
    pytest.param("INPUT", np.full((1, 3, SIDE, SIDE), np.nan, np.float32), ["INPUT", "[0, 1]"], id="NaN"),
    pytest.param("INPUT", np.full((1, 3, SIDE, SIDE), np.inf, np.float32), ["INPUT", "[0, 1]"], id="infinity"),
    pytest.param("INPUT", np.full((1, 3, SIDE, SIDE), 255, np.float32), ["INPUT", "[0, 1]"], id="not normalised"),
    pytest.param("PIXELS", np.zeros((1, 9, 9, 3), np.float32), ["PIXELS", "UINT8", "FP32"], id="datatype"),
    pytest.param("PIXELS", np.zeros((0, 9, 9, 3), np.uint8), ["PIXELS", "[0, 9, 9, 3]"], id="no image"),
    pytest.param("data", np.zeros((1, 9, 9, 3), np.uint8), ["IMAGE or PIXELS or INPUT", "data"], id="name"),
    pytest.param("IMAGE", encoded(b"no image at all"), ["JPEG"], id="no picture"),
    pytest.param("IMAGE", encoded(picture("star"), picture("star")[:500]), ["2 of 2"], id="one of two is broken"),
    pytest.param("IMAGE", encoded(*[b"x"] * 65), ["65", "64"], id="too many"),
]


@pytest.mark.parametrize(("name", "values", "said"), REFUSED)
def test_a_tensor_that_does_not_fit_is_refused_with_what_was_expected(
    triton: Triton, name: str, values: NDArray[Any], said: list[str]
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        triton.infer(name, values)
    assert all(part in caught.value.message() for part in said), caught.value.message()
    assert "Traceback" not in caught.value.message()
    if triton.transport == "grpc":
        assert triton.status(caught.value) == "INVALID_ARGUMENT"
    else:
        assert caught.value.status() in ("400", "413", "415", "422")


def test_an_unknown_model_version_or_output_is_named(triton: Triton, heart: bytes) -> None:
    image = encoded(heart)
    asked: list[tuple[dict[str, Any], set[str], str]] = [
        ({"model": "cats"}, {"NOT_FOUND"}, "cats"),
        ({"model_version": "7"}, {"NOT_FOUND"}, "7"),
        # In a path it is no version at all.
        ({"model_version": "newest"}, {"INVALID_ARGUMENT", "NOT_FOUND"}, "newest"),
        ({"outputs": [triton.output("SCORES")]}, {"INVALID_ARGUMENT"}, "SCORES"),
    ]
    for options, statuses, said in asked:
        with pytest.raises(InferenceServerException) as caught:
            triton.infer("IMAGE", image, **options)
        assert triton.status(caught.value) in statuses
        assert said in caught.value.message()


def test_two_inputs_of_one_request_are_refused(triton: Triton, heart: bytes) -> None:
    inputs = [triton.input("IMAGE", encoded(heart)), triton.input("PIXELS", pixels(heart))]
    with pytest.raises(InferenceServerException, match="exactly one input") as caught:
        triton.client.infer("shapes", inputs)
    assert triton.status(caught.value) == "INVALID_ARGUMENT"


def test_a_timeout_that_cannot_be_met_is_said_so(triton: Triton) -> None:
    images = encoded(*[picture(label, seed) for seed in range(5) for label in LABELS])
    with pytest.raises(InferenceServerException) as caught:
        triton.infer("IMAGE", images, timeout=1000)  # Microseconds.
    status = caught.value.status()
    assert status == ("408" if triton.transport == "http" else "StatusCode.DEADLINE_EXCEEDED"), caught.value
    # Whichever notices first: what waits for the answer, or what is about to begin.
    assert "0.001 s" in caught.value.message() or "deadline" in caught.value.message()
