"""TensorFlow's SavedModels, from the directory to logits, and without TensorFlow.

What TensorFlow answers was recorded once (tests/unit/saved_models/make.py).
"""

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.engines import create_engine
from deployments.engines.artefacts import Artefacts
from deployments.engines.base import Engine
from deployments.repository import GraphInput, GraphOutput, write_manifest
from deployments.settings import PreprocessingSpec
from tests.unit.checkpoints import LABELS
from tests.unit.kinds import TINY_SPEC, settings
from tests.unit.sentences import sentence_of

SAVED_MODELS: Final = Path(__file__).parent / "saved_models"
# The largest difference seen of a probability is 4e-7, and of a logit 2e-6.
TOLERANCE: Final = 1e-5


@pytest.fixture(scope="module", autouse=True)
def _one_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APERTURE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def recorded(name: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    with np.load(SAVED_MODELS / name / "answers.npz") as stored:
        return stored["pixels"], stored["answers"]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True).astype(np.float64))
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def engine_of(path: Path, engine: str = "auto", **more: Any) -> Engine:
    return create_engine(settings(path, engine=engine, max_batch_size=6, **more))


# SavedModel


def test_tensorflows_own_directory_is_served_as_it_is_with_tensorflows_own_numbers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="ray.serve"):
        engine = engine_of(SAVED_MODELS / "plain")
    pixels, expected = recorded("plain")
    np.testing.assert_allclose(softmax(engine.infer(pixels)), expected, rtol=0, atol=TOLERANCE)
    assert expected.std(axis=0).max() > 0.1  # Any constant would pass otherwise.
    info = engine.info()
    assert (info.version, info.labels, info.engine, info.precision) == (1, tuple("01234"), "openvino", "fp32")
    assert (info.preprocessing.resize_size, info.preprocessing.crop_size) == (37, 32)
    for words in ("has no model.yaml", "not verified", "labels '0' to '4'", "'crop_size': 32"):
        assert words in caplog.text


def test_a_saved_model_is_served_without_tensorflow_and_torch() -> None:
    script = f"""
import sys
from deployments.engines import create_engine
from deployments.settings import ModelSettings
engine = create_engine(ModelSettings(name="m", path={str(SAVED_MODELS / "plain")!r}, device="cpu"))
print(engine.info().engine, [name for name in ("tensorflow", "keras", "torch") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout == "openvino []\n"


def test_inputs_and_outputs_that_model_yaml_names_are_taken(tmp_path: Path) -> None:
    named = described_saved_model(tmp_path, "named", GraphInput(name="picture"), GraphOutput(name="probabilities"))
    pixels, expected = recorded("named")
    np.testing.assert_allclose(softmax(engine_of(named).infer(pixels)), expected, rtol=0, atol=TOLERANCE)


def test_a_graph_that_takes_bytes_gets_the_pixels_as_they_are(tmp_path: Path) -> None:
    scored = described_saved_model(tmp_path, "scored", GraphInput(dtype="uint8"), GraphOutput())
    pixels, expected = recorded("scored")
    np.testing.assert_allclose(engine_of(scored).infer(pixels), expected, rtol=0, atol=TOLERANCE)


CHANGES: Final[dict[str, tuple[GraphInput, GraphOutput, list[str]]]] = {
    "two inputs": (
        GraphInput(),
        GraphOutput(name="probabilities"),
        ["other (float32", "picture (float32", "input.name"],
    ),
    "two outputs": (GraphInput(name="picture"), GraphOutput(), ["likeness", "probabilities", "output.name"]),
    "no such input": (GraphInput(name="image"), GraphOutput(), ["'image'", "which has other", "picture"]),
    "an output of both": (
        GraphInput(name="picture"),
        GraphOutput(name="likeness"),
        ["'likeness' needs the input 'other' beside 'picture'", "output.name"],
    ),
    "another type": (
        GraphInput(name="picture", dtype="uint8"),
        GraphOutput(name="probabilities"),
        ["uint8", "float32"],
    ),
    "another layout": (GraphInput(name="picture", layout="nchw"), GraphOutput(), ["3 channels"]),
}


@pytest.mark.parametrize(("graph_input", "graph_output", "words"), CHANGES.values(), ids=CHANGES)
def test_what_cannot_be_told_or_does_not_fit_is_one_sentence(
    tmp_path: Path, graph_input: GraphInput, graph_output: GraphOutput, words: list[str]
) -> None:
    named = described_saved_model(tmp_path, "named", graph_input, graph_output)
    sentence = sentence_of(lambda: engine_of(named))
    assert [word for word in words if word not in sentence] == []


def test_another_number_of_labels_or_another_size_is_one_sentence(tmp_path: Path) -> None:
    few = described_saved_model(tmp_path / "few", "plain", labels=LABELS[:4])
    assert "has 5 classes, but there are 4 labels" in sentence_of(lambda: engine_of(few))
    large = described_saved_model(tmp_path / "large", "plain", spec=PreprocessingSpec())
    assert "takes images of 32 pixels, but its preprocessing has crop_size 224" in sentence_of(lambda: engine_of(large))


def test_a_saved_model_whose_variables_changed_is_not_the_one_that_was_described(tmp_path: Path) -> None:
    model = described_saved_model(tmp_path, "plain")
    (variables,) = (model / "1" / "variables").glob("*.data-*")
    content = bytearray(variables.read_bytes())
    content[1000] ^= 1
    variables.write_bytes(content)
    assert "but its model.yaml says" in sentence_of(lambda: engine_of(model))


def test_labels_beside_an_undescribed_model_are_its_labels(tmp_path: Path) -> None:
    shutil.copytree(SAVED_MODELS / "plain" / "1", tmp_path / "1")
    (tmp_path / "1" / "labels.txt").write_text("\n".join(LABELS))
    assert Artefacts(settings(tmp_path)).facts.labels == LABELS


def described_saved_model(
    model: Path,
    name: str,
    graph_input: GraphInput | None = None,
    graph_output: GraphOutput | None = None,
    labels: tuple[str, ...] = LABELS,
    spec: PreprocessingSpec = TINY_SPEC,
) -> Path:
    shutil.copytree(SAVED_MODELS / name / "1", model / "1")
    write_manifest(
        model / "1",
        architecture=name,
        weights="saved_model.pb",
        labels=labels,
        preprocessing=spec,
        graph_input=graph_input,
        graph_output=graph_output,
    )
    return model
