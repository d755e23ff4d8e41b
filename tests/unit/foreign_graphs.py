"""Small graphs as others export them, by hand: one layer behind the mean of each channel."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deployments.repository import GraphInput, GraphOutput, write_manifest
from tests.unit.checkpoints import LABELS
from tests.unit.kinds import TINY_SPEC

SIDE: Final = TINY_SPEC.crop_size
KERNEL: Final = np.random.default_rng(3).normal(size=(3, len(LABELS))).astype(np.float32)
Dimension = int | str


def classifier(
    *,
    batch: Dimension = "batch",
    layout: str = "nchw",
    dtype: int = TensorProto.FLOAT,
    softmax: bool = False,
    opset: int = 17,
    side: Dimension = SIDE,
    extra_input: bool = False,
) -> onnx.ModelProto:
    """Channel means times KERNEL; with `extra_input`, a second output that needs a second image."""
    shape = [batch, 3, side, side] if layout == "nchw" else [batch, side, side, 3]
    axes = [2, 3] if layout == "nchw" else [1, 2]
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=axes, keepdims=0),
        helper.make_node("MatMul", ["means", "kernel"], ["scores"]),
    ]
    inputs = [helper.make_tensor_value_info("images", dtype, shape)]
    answer = "scores"
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1))
        answer = "probabilities"
    outputs = [helper.make_tensor_value_info(answer, TensorProto.FLOAT, [batch, len(LABELS)])]
    if extra_input:
        inputs.append(helper.make_tensor_value_info("other", dtype, shape))
        nodes.append(helper.make_node("Sub", ["images", "other"], ["difference"]))
        outputs.append(helper.make_tensor_value_info("difference", dtype, shape))
    kernel = numpy_helper.from_array(KERNEL, "kernel")
    graph = helper.make_graph(nodes, "small", inputs, outputs, [kernel])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def answers_of(pixels: NDArray[np.uint8], *, normalized: bool = True) -> NDArray[np.float64]:
    """What `classifier` answers to uint8 (N, H, W, 3), without softmax, in double precision."""
    images = pixels.astype(np.float64)
    if normalized:
        images = (images / 255 - np.array(TINY_SPEC.mean)) / np.array(TINY_SPEC.std)
    logits: NDArray[np.float64] = images.mean(axis=(1, 2)) @ KERNEL.astype(np.float64)
    return logits


def write_version(
    model: Path,
    graph: onnx.ModelProto | bytes,
    *,
    described: bool = True,
    graph_input: GraphInput | None = None,
    graph_output: GraphOutput | None = None,
    **save: Any,
) -> Path:
    """A model directory with version 1 of the graph; `save` are options of onnx.save."""
    directory = model / "1"
    directory.mkdir(parents=True)
    if isinstance(graph, bytes):
        (directory / "model.onnx").write_bytes(graph)
    else:
        onnx.save(graph, directory / "model.onnx", **save)
    if described:
        write_manifest(
            directory,
            architecture="small",
            weights="model.onnx",
            labels=LABELS,
            preprocessing=TINY_SPEC,
            graph_input=graph_input,
            graph_output=graph_output,
        )
    return model
