"""Graphs of others in OpenVINO: ONNX files and TensorFlow's SavedModels, the latter without TensorFlow."""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deployments.engines.binding import SMALLEST_PROBABILITY, Binding, Graph, Port, Shape, needs_another_input
from deployments.engines.openvino_library import ov
from deployments.errors import ConfigError
from deployments.settings import PreprocessingSpec
from deployments.weight_files import SAVED_MODEL

# What the graph ends in says whether its answers are probabilities; these pass them on as they are.
PASS_ON: Final = ("Result", "Convert")


def read_graph(path: Path) -> Any:
    """An ov.Model of the ONNX file, or of the SavedModel whose saved_model.pb is at `path`. Raises ConfigError."""
    source = path.parent if path.name == SAVED_MODEL else path
    try:
        return ov.Core().read_model(source)
    except Exception as err:  # It raises RuntimeErrors and others, whose texts are traces of C++.
        raise ConfigError(
            f"OpenVINO cannot read {str(path)!r}: it is cut off, broken, or has operators that OpenVINO does not know."
        ) from err


def graph_of(model: Any) -> Graph:
    inputs = [Port(_names(port), _shape(port), _type(port)) for port in model.inputs]
    outputs = [Port(_names(port), _shape(port), _type(port), _made_by(port)) for port in model.outputs]
    return Graph(tuple(inputs), tuple(outputs))


def with_pixels_in_front(model: Any, binding: Binding, spec: PreprocessingSpec) -> Any:
    """A model of uint8 (N, crop_size, crop_size, 3) to float32 logits (N, classes), made of `model`, which is used up.

    Raises ConfigError if the output needs another input, too.
    """
    ops = ov.opset13
    side, batch = spec.crop_size, -1 if binding.batch is None else binding.batch
    pixels = ops.parameter([batch, side, side, 3], ov.Type.u8, name="images")
    images = pixels.output(0) if binding.dtype == "uint8" else _normalized(pixels, spec)
    if binding.layout == "nchw":
        images = ops.transpose(images, ops.constant(np.array([0, 3, 1, 2], dtype=np.int64))).output(0)
    for target in model.input(binding.input).get_target_inputs():
        target.replace_source_output(images)
    answers = _source(model.output(binding.output))
    if answers.get_element_type() != ov.Type.f32:
        answers = ops.convert(answers, "f32").output(0)
    if binding.kind == "probabilities":
        answers = ops.log(ops.maximum(answers, ops.constant(np.float32(SMALLEST_PROBABILITY)))).output(0)
    _check_needs_only(answers, pixels, binding)
    result = ov.Model([ops.result(answers)], [pixels], "classifier")
    result.validate_nodes_and_infer_types()
    return result


def run_as_it_is(path: Path, binding: Binding, images: NDArray[Any], batch_size: int) -> NDArray[np.float32]:
    """What the graph itself answers to `images`, which are what it takes, in float32."""
    model = read_graph(path)
    config = {"INFERENCE_PRECISION_HINT": ov.Type.f32, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
    if len(model.inputs) > 1 or len(model.outputs) > 1:
        # Other ends are left out with what leads there.
        images_in, answers = model.input(binding.input).get_node(), _source(model.output(binding.output))
        _check_needs_only(answers, images_in, binding)
        model = ov.Model([ov.opset13.result(answers)], [images_in], "one")
    request = ov.Core().compile_model(model, "CPU", config).create_infer_request()
    starts = range(0, len(images), batch_size)
    parts = [np.array(request.infer([images[start : start + batch_size]])[0]) for start in starts]
    return np.concatenate(parts).astype(np.float32)


def _normalized(pixels: Any, spec: PreprocessingSpec) -> Any:
    """As torchvision's ToTensor and Normalize, in their order. float32 (N, H, W, 3)."""
    ops = ov.opset13
    scaled = ops.divide(ops.convert(pixels, "f32"), ops.constant(np.float32(255)))
    centred = ops.subtract(scaled, ops.constant(np.array(spec.mean, dtype=np.float32).reshape(1, 1, 1, 3)))
    return ops.divide(centred, ops.constant(np.array(spec.std, dtype=np.float32).reshape(1, 1, 1, 3))).output(0)


def _check_needs_only(answers: Any, parameter: Any, binding: Binding) -> None:
    """Raises ConfigError if `answers` depend on another input of the graph than `parameter`."""
    ahead, seen = [answers.get_node()], set()
    while ahead:
        node = ahead.pop()
        if node.get_name() in seen:
            continue
        seen.add(node.get_name())
        if node.get_type_name() == "Parameter" and node.get_name() != parameter.get_name():
            raise needs_another_input(binding, node.get_friendly_name())
        ahead += [source.get_node() for source in node.input_values()]


def _source(output: Any) -> Any:
    """Where the values of an output of the model come from."""
    return output.get_node().input_value(0)


def _names(port: Any) -> tuple[str, ...]:
    return tuple(sorted(port.get_names())) or (port.get_node().get_friendly_name(),)


def _shape(port: Any) -> Shape | None:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return None
    return tuple(size.get_length() if size.is_static else None for size in shape)


def _type(port: Any) -> str:
    return str(port.get_element_type().to_dtype())


def _made_by(port: Any) -> str:
    node = port.get_node()
    while node.get_type_name() in PASS_ON:
        node = node.input_value(0).get_node()
    return str(node.get_type_name())
