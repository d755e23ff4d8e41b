"""TensorRT: what it is given, and when it says no. That it computes right can be seen only where there is a GPU."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from safetensors.torch import save_file

from deployments.engines import create_engine
from deployments.engines.artefacts import Artefacts
from deployments.engines.onnx_export import onnx_path
from deployments.engines.registry import KINDS, Build
from deployments.repository import write_manifest
from deployments.settings import ModelSettings, Precision
from tests.unit.checkpoints import LABELS, SPEC
from tests.unit.sentences import sentence_of

# Exported in a fraction of the time that ShuffleNet takes.
ARCHITECTURE = "squeezenet1_1"
IS_INSTALLED = KINDS["tensorrt"].is_installed()
CAN_RUN = IS_INSTALLED and torch.cuda.is_available()
# Of logits around 1: rounding to 11 bits of mantissa, through 26 layers.
HALF_TOLERANCE = 0.02


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    network = torchvision.models.get_model(ARCHITECTURE, weights=None, num_classes=len(LABELS))
    model = tmp_path_factory.mktemp("shapes")
    (model / "1").mkdir()
    save_file(network.state_dict(), model / "1" / "model.safetensors")
    write_manifest(
        model / "1", architecture=ARCHITECTURE, weights="model.safetensors", labels=LABELS, preprocessing=SPEC
    )
    return model


@pytest.fixture(scope="module")
def artefacts(model_path: Path) -> Artefacts:
    return Artefacts(ModelSettings(name="shapes", path=str(model_path)))


@pytest.fixture(scope="module")
def expected(artefacts: Artefacts, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits: NDArray[np.float32] = artefacts.network(torch.from_numpy(pixels)).numpy()
    return logits


# The network that it is given


def test_the_half_network_has_half_weights_and_agrees_with_eager_torch(
    artefacts: Artefacts, pixels: NDArray[np.uint8], expected: NDArray[np.float32]
) -> None:
    exported = onnx.load(onnx_path(artefacts, "fp16"))
    (logits,) = map(np.asarray, ReferenceEvaluator(exported).run(None, {"images": pixels}))
    assert logits.dtype == np.dtype("float32")
    np.testing.assert_allclose(logits, expected, rtol=0, atol=HALF_TOLERANCE)
    kernels = {node.input[1] for node in exported.graph.node if node.op_type == "Conv"}
    types = {tensor.data_type for tensor in exported.graph.initializer if tensor.name in kernels}
    assert types == {onnx.TensorProto.FLOAT16}


def test_the_first_thing_done_to_the_pixels_is_their_conversion(artefacts: Artefacts) -> None:
    # TensorRT takes uint8 for an input, but converts it and does nothing else to it.
    graph = onnx.load(onnx_path(artefacts, "fp16")).graph
    first = [node.op_type for node in graph.node if "images" in node.input and node.op_type != "Shape"]
    assert first == ["Cast"]


# When it cannot run


@pytest.mark.skipif(IS_INSTALLED, reason="TensorRT is installed")
def test_without_tensorrt_the_extra_is_named(model_path: Path) -> None:
    settings = ModelSettings(name="shapes", path=str(model_path), engine="tensorrt")
    sentence = sentence_of(lambda: create_engine(settings))
    for words in ("'tensorrt'", "'shapes'", "not installed", "install the extra"):
        assert words in sentence


@pytest.mark.skipif(not IS_INSTALLED or CAN_RUN, reason="TensorRT is not installed, or there is a GPU")
def test_without_a_gpu_it_is_refused(artefacts: Artefacts) -> None:
    sentence = sentence_of(lambda: KINDS["tensorrt"].create(Build(artefacts, "fp32", "cuda", 1)))
    assert sentence == "Model 'shapes' cannot run on TensorRT, because torch finds no CUDA device."


# On a GPU


@pytest.mark.skipif(not CAN_RUN, reason="needs TensorRT and a GPU")
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-4), ("fp16", HALF_TOLERANCE), ("bf16", 8 * HALF_TOLERANCE)]
)
def test_logits_are_those_of_eager_torch(
    artefacts: Artefacts,
    pixels: NDArray[np.uint8],
    expected: NDArray[np.float32],
    precision: Precision,
    tolerance: float,
) -> None:
    engine = KINDS["tensorrt"].create(Build(artefacts, precision, "cuda", 1))
    for count in (1, 3, 8, 2):
        np.testing.assert_allclose(engine.infer(pixels[:count]), expected[:count], rtol=0, atol=tolerance)
