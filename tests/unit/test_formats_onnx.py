"""ONNX files of others, from the directory to logits, on each engine that reads them."""

import json
import logging
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from deployments.engines import create_engine
from deployments.engines.artefacts import Artefacts
from deployments.engines.base import Engine
from deployments.engines.golden import made_up_pixels
from deployments.repository import GraphInput, GraphOutput
from deployments.settings import PreprocessingSpec
from deployments.weight_files import ONNX_FIELDS, digest_of
from tests.unit.foreign_graphs import SIDE, answers_of, classifier, write_version
from tests.unit.kinds import TINY_SPEC, settings
from tests.unit.sentences import sentence_of

ENGINES: Final = ("onnxruntime", "openvino")
# Of logits around 1.
TOLERANCE: Final = 1e-5
SIZES: Final = (1, 3, 6)


@pytest.fixture(scope="module", autouse=True)
def _one_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APERTURE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    return made_up_pixels(TINY_SPEC)[:6]


def engine_of(path: Path, engine: str = "onnxruntime", **more: Any) -> Engine:
    return create_engine(settings(path, engine=engine, max_batch_size=6, on_refusal="fail", **more))


GRAPHS: Final[dict[str, dict[str, Any]]] = {
    "channels first": {},
    "channels last": {"layout": "nhwc"},
    "one batch size": {"batch": 4},
    "one image at a time": {"batch": 1, "layout": "nhwc"},
    "any size of images": {"side": "side"},
    "old operators": {"opset": 8},
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_logits_are_those_of_the_graph_behind_the_normalisation(
    tmp_path: Path, pixels: NDArray[np.uint8], engine: str, graph: dict[str, Any]
) -> None:
    loaded = engine_of(write_version(tmp_path, classifier(**graph)), engine)
    for count in SIZES:
        logits = loaded.infer(list(pixels[:count]))
        np.testing.assert_allclose(logits, answers_of(pixels[:count]), rtol=0, atol=TOLERANCE)
    assert (loaded.info().engine, loaded.batch_sizes()[-1]) == (engine, 6)


@pytest.mark.parametrize("engine", ENGINES)
def test_bytes_go_in_as_they_are(tmp_path: Path, pixels: NDArray[np.uint8], engine: str) -> None:
    loaded = engine_of(write_version(tmp_path, classifier(dtype=TensorProto.UINT8, layout="nhwc")), engine)
    np.testing.assert_allclose(loaded.infer(pixels), answers_of(pixels, normalized=False), rtol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_of_probabilities_the_softmax_of_the_logits_gives_back_the_graphs_own(
    tmp_path: Path, pixels: NDArray[np.uint8], engine: str
) -> None:
    logits = engine_of(write_version(tmp_path, classifier(softmax=True)), engine).infer(pixels)
    shown, own = (np.exp(each.astype(np.float64)) for each in (logits, answers_of(pixels)))
    expected = own / own.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shown / shown.sum(axis=1, keepdims=True), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(shown.sum(axis=1), 1, atol=1e-5)  # They are their logarithms.


@pytest.mark.parametrize("engine", ENGINES)
def test_a_probability_of_zero_has_a_finite_logit(tmp_path: Path, engine: str) -> None:
    graph = classifier(softmax=True, dtype=TensorProto.UINT8, layout="nhwc")
    black_and_white = np.stack([np.full((SIDE, SIDE, 3), value, dtype=np.uint8) for value in (0, 255)])
    logits = engine_of(write_version(tmp_path, graph), engine).infer(black_and_white)
    assert np.isfinite(logits).all()
    assert logits[1].min() < -80  # e^-87 is the smallest normal float32.


@pytest.mark.parametrize("engine", ENGINES)
def test_ends_that_nobody_chose_are_left_out(tmp_path: Path, pixels: NDArray[np.uint8], engine: str) -> None:
    chosen = GraphInput(name="images"), GraphOutput(name="scores")
    path = write_version(tmp_path, classifier(extra_input=True), graph_input=chosen[0], graph_output=chosen[1])
    np.testing.assert_allclose(engine_of(path, engine).infer(pixels), answers_of(pixels), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_beside_the_file_are_read_and_verified(tmp_path: Path, pixels: NDArray[np.uint8], engine: str) -> None:
    apart: dict[str, Any] = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 0}
    path = write_version(tmp_path, classifier(), **apart)
    np.testing.assert_allclose(engine_of(path, engine).infer(pixels), answers_of(pixels), rtol=0, atol=TOLERANCE)
    data = path / "1" / "model.onnx.data"
    data.write_bytes(data.read_bytes()[::-1])
    assert "but its model.yaml says" in sentence_of(lambda: engine_of(path, engine))
    data.unlink()
    assert "tensors in 'model.onnx.data', which is missing" in sentence_of(lambda: engine_of(path, engine))


def test_the_hash_of_several_files_is_what_sha256sum_makes_of_them(tmp_path: Path) -> None:
    apart: dict[str, Any] = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 0}
    directory = write_version(tmp_path, classifier(), **apart) / "1"
    script = "sha256sum model.onnx model.onnx.data | sha256sum"
    printed = subprocess.run(script, shell=True, cwd=directory, check=True, capture_output=True, text=True).stdout
    assert printed.split()[0] == digest_of(directory, "model.onnx", "onnx")


@pytest.mark.parametrize("location", ["../weights", "/etc/hostname", "link", "a\\b", "a\nb", ""])
def test_weights_outside_of_the_version_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "weights").write_bytes(bytes(1000))
    graph = classifier()
    tensor = graph.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    path = write_version(tmp_path / "model", graph.SerializeToString(), described=False)
    (path / "1" / "link").symlink_to(tmp_path / "weights")
    sentence = sentence_of(lambda: engine_of(path))
    assert "all that belongs to a version must lie inside its directory" in sentence


def test_a_tensor_with_weights_elsewhere_is_found_wherever_it_hides() -> None:
    """The numbers that the search goes by are those of ONNX itself, and lead to all tensors that there are."""
    reached = {"ModelProto"}
    for name, fields in ONNX_FIELDS.items():
        numbers = {
            field.number: field.message_type.name
            for field in getattr(onnx, name).DESCRIPTOR.fields
            if field.message_type
        }
        assert fields.items() <= numbers.items(), name
        leads_on = {number for number, kind in numbers.items() if kind in ONNX_FIELDS}
        assert leads_on <= set(fields), name
        reached |= set(fields.values())
    assert set(ONNX_FIELDS) <= reached


def test_an_undescribed_onnx_file_is_served_with_defaults_that_are_said(
    tmp_path: Path, pixels: NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    path = write_version(tmp_path, classifier(), described=False)
    for _ in "12":  # Also once they are kept.
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="ray.serve"):
            facts = Artefacts(settings(path)).facts
        for words in ("has no model.yaml", "not verified", "labels '0' to '4'", "'crop_size': 32"):
            assert words in caplog.text
    assert facts.labels == tuple("01234")
    assert facts.preprocessing == PreprocessingSpec(resize_size=37, crop_size=32)
    np.testing.assert_allclose(engine_of(path).infer(pixels), answers_of(pixels), rtol=0, atol=TOLERANCE)


HOSTILE: Final[dict[str, tuple[bytes, str]]] = {
    "empty": (b"", "cut off, or no ONNX file"),
    "no protobuf": (b"\xff" * 100, "cut off, or no ONNX file"),
    "text": (b"this is no model", "cut off, or no ONNX file"),
    "cut off": (classifier().SerializeToString()[:-40], "cut off, or no ONNX file"),
    "half a graph": (onnx.ModelProto(ir_version=9, graph=onnx.GraphProto(name="g")).SerializeToString(), "broken"),
}


@pytest.mark.parametrize(("content", "words"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_onnx_file_is_one_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    path = write_version(tmp_path, content, described=False)
    assert words in sentence_of(lambda: engine_of(path))


def test_no_cut_of_an_onnx_file_is_anything_but_one_sentence(tmp_path: Path) -> None:
    whole = classifier().SerializeToString()
    path = write_version(tmp_path, whole, described=False)
    for end in range(0, len(whole), 7):
        (path / "1" / "model.onnx").write_bytes(whole[:end])
        assert sentence_of(lambda: Artefacts(settings(path)).facts)


def test_what_cannot_be_told_is_one_sentence(tmp_path: Path) -> None:
    both = write_version(tmp_path / "both", classifier(side=3))
    assert "set input.layout in model.yaml" in sentence_of(lambda: engine_of(both))
    half = write_version(tmp_path / "half", classifier(dtype=TensorProto.FLOAT16))
    assert "must be float32 or uint8" in sentence_of(lambda: engine_of(half))
    old = write_version(tmp_path / "old", classifier(opset=7))
    assert "opset 7, where at least 8 is needed" in sentence_of(lambda: engine_of(old))


def test_probabilities_without_a_softmax_are_not_taken_for_logits(tmp_path: Path) -> None:
    graph = classifier()
    graph.graph.node.extend(
        [
            helper.make_node("Exp", ["scores"], ["powers"]),
            helper.make_node("ReduceSum", ["powers"], ["sums"], axes=[1]),
            helper.make_node("Div", ["powers", "sums"], ["shares"]),
        ]
    )
    graph.opset_import[0].version = 12  # In which sums have their axes for an attribute.
    graph.graph.output[0].name = "shares"
    path = write_version(tmp_path / "found", graph)
    assert "set output.kind in model.yaml" in sentence_of(lambda: engine_of(path))
    stated = write_version(tmp_path / "stated", graph, graph_output=GraphOutput(kind="probabilities"))
    assert engine_of(stated).info().engine == "onnxruntime"
    logits = write_version(tmp_path / "logits", classifier(), graph_output=GraphOutput(kind="probabilities"))
    assert "do not add up to 1" in sentence_of(lambda: engine_of(logits))


def test_an_engine_that_does_not_read_the_format_is_refused_with_those_that_do(tmp_path: Path) -> None:
    path = write_version(tmp_path, classifier())
    sentence = sentence_of(lambda: engine_of(path, "torch"))
    for words in ("'torch'", "format 'onnx'", "which onnxruntime, openvino, tensorrt do"):
        assert words in sentence


def test_without_onnx_runtime_openvino_reads_it(tmp_path: Path) -> None:
    path = write_version(tmp_path, classifier(), described=False)
    script = """
import json, sys
sys.modules["onnx"] = sys.modules["onnxruntime"] = None
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in ("onnx", "onnxruntime") else found(name, *more)
from deployments.engines import create_engine
from deployments.settings import ModelSettings
info = create_engine(ModelSettings(name="m", path=sys.argv[1], device="cpu")).info()
print(json.dumps([info.engine, "torch" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", script, path], check=True, capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout) == ["openvino", False]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_computes_something_else_is_refused(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference does not go through what puts the pixels in front."""
    wrong = TINY_SPEC.model_copy(update={"mean": (0.9, 0.1, 0.1)})
    module = import_module(
        "deployments.engines.onnx_graph" if engine == "onnxruntime" else "deployments.engines.openvino_engine"
    )
    name = "write_with_pixels_in_front" if engine == "onnxruntime" else "with_pixels_in_front"
    write = getattr(module, name)
    monkeypatch.setattr(module, name, lambda model, binding, spec, *more: write(model, binding, wrong, *more))
    path = write_version(tmp_path, classifier(softmax=True), described=False)
    assert "is refused: " in sentence_of(lambda: engine_of(path, engine))
