"""A client like Triton's own image_client.py, which learns from the metadata what to send, and checks it as strictly.

That is src/python/examples/image_client.py of triton-inference-server/client: one input of three dimensions in the
stated format, one FP32 vector as output, classes asked for by number. This one normalises as our documentation says.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import tritonclient.grpc.model_config_pb2 as mc
from numpy.typing import NDArray
from PIL import Image
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from tests.conformance.images import HEART, MEAN, STD, of_classes
from tests.conformance.triton import Transport, Triton, connected
from tests.local_graph import Graph


@dataclass(frozen=True)
class Announced:
    input: str
    output: str
    channels: int
    height: int
    width: int
    datatype: str


@pytest.fixture(params=["http", "grpc"])
def triton(graph: Graph, request: pytest.FixtureRequest) -> Iterator[Triton]:
    transport: Transport = request.param
    with connected(transport, graph) as connection:
        yield connection


def parse_model(triton: Triton, model: str) -> Announced:
    metadata, config = triton.describe("model_metadata", model), triton.describe("model_config", model)
    config = config.get("config", config)
    assert len(metadata["inputs"]) == 1, f"expecting 1 input, got {len(metadata['inputs'])}"
    assert len(metadata["outputs"]) == 1, f"expecting 1 output, got {len(metadata['outputs'])}"
    assert len(config["input"]) == 1
    (into,), (out,) = metadata["inputs"], metadata["outputs"]
    assert out["datatype"] == "FP32"
    assert config["max_batch_size"] > 0
    assert len([size for size in out["shape"][1:] if int(size) > 1]) == 1, "expecting model output to be a vector"
    assert mc.ModelInput.Format.Value(config["input"][0]["format"]) == mc.ModelInput.FORMAT_NCHW
    _, channels, height, width = map(int, into["shape"])
    return Announced(into["name"], out["name"], channels, height, width, into["datatype"])


def preprocess(announced: Announced) -> NDArray[np.float32]:
    """(1, channels, height, width)"""
    image = Image.open(HEART).convert("RGB").resize((announced.width, announced.height), Image.Resampling.BILINEAR)
    scaled = np.asarray(image).astype(triton_to_np_dtype(announced.datatype)) / 255
    normalised: NDArray[np.float32] = ((scaled - MEAN) / STD).astype(np.float32)
    return normalised.transpose(2, 0, 1)[None]


@pytest.mark.parametrize("batch", [1, 5])
def test_it_learns_what_to_send_and_gets_its_classes(triton: Triton, batch: int) -> None:
    announced = parse_model(triton, "tensors")
    images = np.repeat(preprocess(announced), batch, axis=0)
    result = triton.infer(announced.input, images, "tensors", outputs=[triton.output(announced.output, class_count=3)])
    classes = result.as_numpy(announced.output)
    assert classes.shape == (batch, 3)
    for row in classes:
        assert next(iter(of_classes(row))) == "heart"


@pytest.mark.parametrize("scaling", ["NONE", "VGG"])
def test_scalings_that_the_model_was_not_trained_on_are_refused(triton: Triton, scaling: str) -> None:
    """The options of image_client.py, its default first: levels of 255, and these less a mean."""
    announced = parse_model(triton, "tensors")
    image = Image.open(HEART).convert("RGB").resize((announced.width, announced.height))
    levels = np.asarray(image).astype(np.float32) - ((123, 117, 104) if scaling == "VGG" else 0)
    with pytest.raises(InferenceServerException, match=r"pixels in \[0, 1\] minus \[0.485") as caught:
        triton.infer(announced.input, levels.astype(np.float32).transpose(2, 0, 1)[None], "tensors")
    assert triton.status(caught.value) == "INVALID_ARGUMENT"


def test_a_model_for_such_clients_takes_nothing_else(triton: Triton) -> None:
    with pytest.raises(InferenceServerException, match="INPUT") as caught:
        triton.infer("PIXELS", np.zeros((1, 9, 9, 3), np.uint8), "tensors")
    assert triton.status(caught.value) == "INVALID_ARGUMENT"
