"""TensorRT plans: where they are refused. That one computes right can be seen only where there is a GPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deployments.engines import choice as choice_module
from deployments.engines import create_engine
from deployments.engines.golden import made_up_pixels
from deployments.engines.registry import KINDS, automatic
from deployments.repository import find_version, write_manifest
from tests.unit.checkpoints import LABELS
from tests.unit.foreign_graphs import answers_of, classifier
from tests.unit.foreign_graphs import write_version as write_onnx
from tests.unit.kinds import TINY_SPEC, Registry, running, settings
from tests.unit.sentences import sentence_of

IS_INSTALLED = KINDS["tensorrt"].is_installed()
CAN_RUN = IS_INSTALLED and torch.cuda.is_available()

pytestmark = pytest.mark.usefixtures("own_cache")


def write_plan(model: Path, plan: bytes = b"plan") -> Path:
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.plan").write_bytes(plan)
    write_manifest(model / "1", architecture="mine", weights="model.plan", labels=LABELS, preprocessing=TINY_SPEC)
    return model


@pytest.mark.parametrize("more", [{}, {"engine": "tensorrt", "precision": "fp32"}, {"precision": "auto"}], ids=str)
def test_without_a_gpu_a_plan_is_refused_in_one_sentence(tmp_path: Path, more: dict[str, Any]) -> None:
    path = write_plan(tmp_path)
    assert find_version(str(path)).manifest.format == "tensorrt"
    assert sentence_of(lambda: create_engine(settings(path, **more))) == (
        "Model 'shapes' has weights of the format 'tensorrt', which run only on a CUDA GPU with tensorrt installed."
    )


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "torch", "torch-compile"])
def test_no_other_engine_reads_a_plan(tmp_path: Path, engine: str) -> None:
    sentence = sentence_of(lambda: create_engine(settings(write_plan(tmp_path), engine=engine)))
    assert f"Engine {engine!r} of model 'shapes' does not read weights of the format 'tensorrt'" in sentence


def test_graphs_of_others_run_as_they_are_on_a_gpu_and_at_no_other_precision() -> None:
    for kind in ("onnx", "tensorrt"):
        assert list(KINDS["tensorrt"].offered("cuda", kind)) == ["fp32"]
        assert list(KINDS["tensorrt"].offered("cpu", kind)) == []
    assert [str(choice) for choice in automatic("cpu", None, None, "saved_model")] == [
        "openvino fp32",
        "openvino bf16",
        "openvino int8",
    ]


def test_what_nothing_runs_on_the_gpu_runs_on_the_cpu_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if IS_INSTALLED:
        pytest.skip("TensorRT is installed")
    monkeypatch.setattr(choice_module, "choose_device", lambda settings: "cuda")
    path = write_onnx(tmp_path, classifier())
    assert running(settings(path, device="auto", engine="onnxruntime")) == "onnxruntime fp32"
    assert "on cuda" in sentence_of(lambda: create_engine(settings(path, device="cuda", engine="onnxruntime")))


def test_engines_that_do_not_read_the_format_are_not_tried(tmp_path: Path, registry: Registry) -> None:
    registry.add("torch")
    sentence = sentence_of(lambda: create_engine(settings(write_onnx(tmp_path, classifier()))))
    assert "'onnx'" in sentence
    assert registry.built() == []


@pytest.mark.skipif(not CAN_RUN, reason="needs TensorRT and a GPU")
@pytest.mark.parametrize("graph", [{}, {"batch": 4}, {"layout": "nhwc"}, {"softmax": True}], ids=str)
def test_logits_are_those_of_the_graph_that_the_plan_was_built_of(tmp_path: Path, graph: dict[str, Any]) -> None:
    import tensorrt

    builder = tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
    network = builder.create_network()
    model = classifier(**graph)
    assert tensorrt.OnnxParser(network, tensorrt.Logger()).parse(model.SerializeToString())
    config = builder.create_builder_config()
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    if "batch" not in graph:
        profile, shape = builder.create_optimization_profile(), tuple(network.get_input(0).shape)[1:]
        profile.set_shape("images", min=(1, *shape), opt=(4, *shape), max=(4, *shape))
        config.add_optimization_profile(profile)
    path = write_plan(tmp_path, bytes(builder.build_serialized_network(network, config)))
    pixels = made_up_pixels(TINY_SPEC)[:6]
    engine = create_engine(settings(path, device="cuda", max_batch_size=6))
    expected = answers_of(pixels)
    if graph.get("softmax"):  # A plan does not tell what it ends in.
        expected = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(engine.infer(pixels), expected, rtol=0, atol=1e-4)
