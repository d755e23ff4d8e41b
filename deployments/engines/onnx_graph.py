"""Graphs of others as ONNX files: what they take, and the same with this service's pixels in front.

Imports onnx: to be imported only while something is built.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from deployments.engines.binding import SMALLEST_PROBABILITY, Binding, Graph, Port, Shape, needs_another_input
from deployments.engines.onnx_export import FILE, IMAGES, LOGITS
from deployments.errors import ConfigError
from deployments.settings import PreprocessingSpec

# Of the graph's own names, so that they cannot meet those that are added.
PREFIX: Final = "model/"
# The first in which all operators that are added take tensors of different shapes (ONNX changelog, Max-8).
MIN_OPSET: Final = 8
PASS_ON: Final = ("Identity", "Cast")
WEIGHTS: Final = "model.weights"


def read_model(path: Path, *, with_weights: bool = True) -> onnx.ModelProto:
    """Raises ConfigError if it is no ONNX model."""
    try:
        model = onnx.load(path, load_external_data=with_weights)
        onnx.checker.check_model(path)  # By its path, so that the weights beside it are seen, too.
    except Exception as err:  # Of protobuf, of the checker in C++, and of files; none is a client's.
        raise ConfigError(f"The ONNX file {str(path)!r} cannot be read: it is cut off or broken.") from err
    return model


def graph_of(model: onnx.ModelProto) -> Graph:
    # Before version 4 of the format, weights were inputs with a value.
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [_port(value) for value in model.graph.input if value.name not in weights]
    made_by = {name: node for node in model.graph.node for name in node.output}
    outputs = [_port(value, _made_by(value.name, made_by)) for value in model.graph.output]
    return Graph(tuple(inputs), tuple(outputs))


def write_with_pixels_in_front(source: Path, binding: Binding, spec: PreprocessingSpec, directory: Path) -> None:
    """Writes FILE, with its weights beside it: uint8 (N, crop_size, crop_size, 3) to float32 logits (N, classes).

    Raises ConfigError if the output needs another input, too, or the file is too old.
    """
    model = _only_what_is_needed(read_model(source), binding)
    _check_opset(model, source)
    compose.add_prefix(model, PREFIX, inplace=True)
    graph, batch, side = model.graph, binding.batch or "batch", spec.crop_size
    before = _nodes_before(binding, spec, graph.initializer.append)
    after = _nodes_after(binding, graph.initializer.append)
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, [batch, side, side, 3]))
    graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [batch, binding.classes or "classes"]))
    onnx.save(model, directory / FILE, save_as_external_data=True, location=WEIGHTS)
    onnx.checker.check_model(directory / FILE)


def write_alone(source: Path, binding: Binding, directory: Path) -> Path:
    """The graph with the chosen ends alone, unchanged otherwise: `source` itself if it has no others."""
    described = read_model(source, with_weights=False)
    if len(graph_of(described).inputs) == 1 and len(described.graph.output) == 1:
        return source
    model = _only_what_is_needed(read_model(source), binding)
    onnx.save(model, directory / FILE, save_as_external_data=True, location=WEIGHTS)
    return directory / FILE


def _only_what_is_needed(model: onnx.ModelProto, binding: Binding) -> onnx.ModelProto:
    """`model` without what the chosen output does not depend on, changed in place."""
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    needed, ahead, kept = {binding.output}, [binding.output], set()
    while ahead:
        node = made_by.get(ahead.pop())
        if node is None or id(node) in kept:
            continue
        kept.add(id(node))
        new = set(_values_used(node)) - needed
        needed |= new
        ahead += new
    weights = {tensor.name for tensor in graph.initializer}
    weights |= {sparse.values.name for sparse in graph.sparse_initializer}
    for value in graph.input:
        if value.name in needed and value.name not in weights and value.name != binding.input:
            raise needs_another_input(binding, value.name)
    _keep(graph.node, lambda node: any(name in needed for name in node.output))
    _keep(graph.input, lambda value: value.name == binding.input)
    _keep(graph.output, lambda value: value.name == binding.output)
    _keep(graph.initializer, lambda tensor: tensor.name in needed)
    _keep(graph.sparse_initializer, lambda sparse: sparse.values.name in needed)
    del graph.value_info[:]  # Of intermediate values, with shapes that the exporter may have fixed.
    return model


def _nodes_before(binding: Binding, spec: PreprocessingSpec, add: Callable[[Any], None]) -> list[onnx.NodeProto]:
    """As torchvision's ToTensor and Normalize, in their order; what comes out is the graph's own input."""
    steps: list[tuple[str, str | None, dict[str, Any]]] = []
    if binding.dtype == "float32":
        # First the conversion, since that is all that TensorRT does to uint8.
        steps.append(("Cast", None, {"to": TensorProto.FLOAT}))
        constants = {"maximum": np.float32(255), "mean": spec.mean, "deviation": spec.std}
        for (name, value), operator in zip(constants.items(), ("Div", "Sub", "Div"), strict=True):
            add(numpy_helper.from_array(np.asarray(value, dtype=np.float32), name))
            steps.append((operator, name, {}))
    if binding.layout == "nchw":
        steps.append(("Transpose", None, {"perm": [0, 3, 1, 2]}))
    return _chain(steps or [("Identity", None, {})], IMAGES, PREFIX + binding.input)


def _nodes_after(binding: Binding, add: Callable[[Any], None]) -> list[onnx.NodeProto]:
    steps: list[tuple[str, str | None, dict[str, Any]]] = [("Cast", None, {"to": TensorProto.FLOAT})]
    if binding.kind == "probabilities":
        add(numpy_helper.from_array(np.asarray(SMALLEST_PROBABILITY, dtype=np.float32), "smallest"))
        steps += [("Max", "smallest", {}), ("Log", None, {})]
    return _chain(steps, PREFIX + binding.output, LOGITS)


def _chain(steps: list[tuple[str, str | None, dict[str, Any]]], first: str, last: str) -> list[onnx.NodeProto]:
    """Nodes from the value `first` to the value `last`; each step is an operator, its second input and attributes."""
    nodes, value = [], first
    for number, (operator, second, attributes) in enumerate(steps, 1):
        result = last if number == len(steps) else f"{last}-{number}"
        inputs = [value] if second is None else [value, second]
        nodes.append(helper.make_node(operator, inputs, [result], **attributes))
        value = result
    return nodes


def _values_used(node: onnx.NodeProto) -> Iterator[str]:
    """By the node, and by the graphs within it, which may use any value outside of them."""
    yield from node.input
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for inner in graph.node:
                yield from _values_used(inner)
            yield from (value.name for value in graph.output)


def _keep(values: Any, is_kept: Callable[[Any], bool]) -> None:
    for index in reversed(range(len(values))):
        if not is_kept(values[index]):
            del values[index]


def _check_opset(model: onnx.ModelProto, source: Path) -> None:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        raise ConfigError(
            f"The ONNX file {str(source)!r} has operators of opset {opset}, where at least {MIN_OPSET} is needed; "
            f"export it anew."
        )


def _port(value: onnx.ValueInfoProto, made_by: str = "") -> Port:
    tensor = value.type.tensor_type
    shape: Shape | None = None
    if tensor.HasField("shape"):
        shape = tuple(size.dim_value if size.dim_value > 0 else None for size in tensor.shape.dim)
    dtype = "no tensor"
    if tensor.elem_type in helper.get_all_tensor_dtypes():
        dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return Port((value.name,), shape, dtype, made_by)


def _made_by(name: str, made_by: dict[str, onnx.NodeProto]) -> str:
    seen: set[str] = set()
    while (node := made_by.get(name)) is not None and name not in seen:
        if node.op_type not in PASS_ON:
            return str(node.op_type)
        seen.add(name)
        name = node.input[0]
    return ""
