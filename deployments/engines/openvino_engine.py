"""The OpenVINO engine: the network as OpenVINO's own IR, compiled for the CPU that serves.

Torch is needed once, to convert the network, and NNCF once, to quantise the IR to int8. ONNX files and SavedModels need
neither of them nor TensorFlow.
"""

import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deployments.engines.artefacts import Artefacts
from deployments.engines.base import Images, power_of_two_sizes, stack
from deployments.engines.binding import bind
from deployments.engines.openvino_graph import graph_of, read_graph, with_pixels_in_front
from deployments.engines.openvino_library import ov
from deployments.engines.parts import batches_of, run_in_parts
from deployments.engines.registry import Build
from deployments.errors import ConfigError
from deployments.messages import ModelInfo
from deployments.repository import ModelVersion
from deployments.settings import Precision, PreprocessingSpec

FILE: Final = "model.xml"
WEIGHTS: Final = "model.bin"
# What the CPU plugin takes for each precision; left to itself it takes bf16 where the CPU has it. Quantised layers run
# in int8 whatever the hint says, and the others in this.
HINTS: Final[Mapping[Precision, Any]] = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16, "int8": ov.Type.f32}
INT8_TYPES: Final = {"i8", "u8"}  # as the compiled graph names them
# A graph for any batch size is slower than one for each: ShuffleNet x0.5 takes 2.5 instead of 1.9 ms for an image on a
# core of 2021, and 3 ms more when the size changes; ResNet-18 takes 2 % more. But each graph has weights of its own.
MAX_WEIGHT_BYTES_OF_EACH_SIZE: Final = 32 * 2**20
# What the tracer sees; a batch of 1 could be taken for a constant.
EXAMPLE_BATCH: Final = 2
# Statistics are the same as one by one, in half the time.
CALIBRATION_BATCH: Final = 10
# Between the pixels and the first layer; see Normalized.
NORMALISATION: Final = {"Convert", "Transpose", "Divide", "Multiply", "Subtract", "Add"}


class OpenVinoEngine:
    """Batches run in the sizes that are compiled, the largest first: 5 as 4 and 1, which no padding slows down."""

    def __init__(self, build: Build) -> None:
        """Raises ConfigError if this CPU or what is installed lacks the precision."""
        core = ov.Core()
        _check_offered(core, build)
        self._info = build.artefacts.describe("openvino", build.precision, "cpu")
        path = _path(core, build)
        self._requests = _compile(core, build, path)
        self._lone = _lone_request(core, build, path) if build.has_lone_threads and 1 in self._requests else None
        # A graph of others may have been exported for one batch size.
        self._only_size = next(iter(self._requests)) if len(self._requests) == 1 else None
        largest = build.artefacts.settings.max_batch_size
        self._sizes: Sequence[int] = tuple(self._requests) if self._only_size is None else range(1, largest + 1)

    def info(self) -> ModelInfo:
        return self._info

    def batch_sizes(self) -> Sequence[int]:
        return self._sizes

    def runners(self) -> int:
        # Two at once have corrupted the heap inside Ray's workers.
        return 1

    def infer(self, images: Images) -> NDArray[np.float32]:
        if self._lone is not None and len(images) == 1:
            return np.array(_run(self._lone, stack(images, 1)))
        if self._only_size is not None:
            return run_in_parts(self._run, images, self._only_size)
        batch = stack(images, len(images))  # (N, H, W, 3) uint8
        parts: list[NDArray[np.float32]] = []
        start = 0
        while start < len(batch):
            size = max(size for size in self._requests if size <= len(batch) - start)
            parts.append(self._run(batch[start : start + size]))
            start += size
        # A copy even of a single part. Each size runs at most once, so that no part has been overwritten.
        return np.concatenate(parts)

    def _run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return _run(self._requests[len(batch)], batch)


def _run(request: Any, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    # OpenVINO shares no memory that it may not write, and arrays out of Ray's object store are such.
    request.set_input_tensor(ov.Tensor(batch, shared_memory=batch.flags.writeable))
    request.infer()
    logits: NDArray[np.float32] = request.get_output_tensor().data  # (N, classes), until the request runs again
    return logits


def _check_offered(core: Any, build: Build) -> None:
    name = build.artefacts.settings.name
    if build.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        # OpenVINO itself would take fp32 and say nothing.
        raise ConfigError(
            f"Model {name!r} has precision 'bf16', which OpenVINO does not offer on this CPU; set it to 'fp32' or "
            f"'int8'."
        )
    if build.precision == "int8" and find_spec("nncf") is None:
        raise ConfigError(
            f"Model {name!r} has precision 'int8', for which NNCF is not installed; install the extra 'int8' of this "
            f"project."
        )


def _compile(core: Any, build: Build, path: Path) -> Mapping[int, Any]:
    """An infer request for each batch size, ascending; of large models, the same one for all.

    A graph that was exported for one batch size has only that.
    """
    settings = build.artefacts.settings
    model = core.read_model(path)
    config = _config(build, build.threads)
    if (only_size := _static_batch(model)) is not None:
        return {only_size: _request(core.compile_model(model, "CPU", config), build)}
    if path.with_name(WEIGHTS).stat().st_size > MAX_WEIGHT_BYTES_OF_EACH_SIZE:
        request = _request(core.compile_model(model, "CPU", config), build)
        return dict.fromkeys(range(1, settings.max_batch_size + 1), request)
    requests = {}
    for size in power_of_two_sizes(settings.max_batch_size):
        model.reshape([size, *list(model.input(0).partial_shape)[1:]])
        requests[size] = _request(core.compile_model(model, "CPU", config), build)
    return requests


def _lone_request(core: Any, build: Build, path: Path) -> Any:
    """An infer request for one image, with the threads of such."""
    model = core.read_model(path)
    model.reshape([1, *list(model.input(0).partial_shape)[1:]])
    return _request(core.compile_model(model, "CPU", _config(build, build.lone_threads)), build)


def _config(build: Build, threads: int | None) -> dict[str, Any]:
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Two replicas would pin their threads to the same core.
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": HINTS[build.precision],
    }


def _static_batch(model: Any) -> int | None:
    size = model.input(0).partial_shape[0]
    return size.get_length() if size.is_static else None


def _request(compiled: Any, build: Build) -> Any:
    """Raises ConfigError if the model would run at another precision than the one asked for."""
    name, hint = build.artefacts.settings.name, compiled.get_property("INFERENCE_PRECISION_HINT")
    if hint != HINTS[build.precision]:
        raise ConfigError(f"OpenVINO would run model {name!r} in {hint.to_string()} instead of {build.precision}.")
    types = {_runtime_type(layer) for layer in compiled.get_runtime_model().get_ops()}
    if build.precision == "int8" and not types & INT8_TYPES:
        raise ConfigError(f"OpenVINO would run no layer of model {name!r} in int8.")
    return compiled.create_infer_request()


def _runtime_type(layer: Any) -> str:
    """In which the compiled graph computes `layer`, if that is one of those that take the time."""
    info = layer.get_rt_info()
    heavy = info["layerType"].astype(str) in ("Convolution", "FullyConnected", "MatMul")
    return str(info["runtimePrecision"].astype(str)) if heavy else ""


def _path(core: Any, build: Build) -> Path:
    """The IR at the precision of `build`, found or made. One that cannot be read is made again."""
    artefacts = build.artefacts
    converted = f"openvino-{version_of('openvino')}-torch-{version_of('torch')}"

    def read(directory: Path) -> Path:
        core.read_model(directory / FILE)
        return directory / FILE

    def fp32() -> Path:
        return artefacts.read(converted, lambda directory: _convert(artefacts, directory / FILE), read)

    if build.precision != "int8":
        return fp32()
    quantised = f"{converted}-nncf-{version_of('nncf')}-int8-{artefacts.calibration_identity}"
    return artefacts.read(quantised, lambda directory: _quantise(core, artefacts, fp32(), directory / FILE), read)


def _convert(artefacts: Artefacts, path: Path) -> None:
    if artefacts.found is not None and artefacts.format != "state_dict":
        model = _with_pixels_in_front(artefacts.found, artefacts.facts.preprocessing)
        ov.save_model(model, path, compress_to_fp16=False)
        return
    import torch

    side = artefacts.facts.preprocessing.crop_size
    example = torch.zeros(EXAMPLE_BATCH, side, side, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        # The converter uses the tracer, which torch has deprecated and which warns of every shape that it meets.
        warnings.simplefilter("ignore")
        model = ov.convert_model(artefacts.network, example_input=example, input=[-1, side, side, 3])
    # By default, the weights would be rounded to fp16.
    ov.save_model(model, path, compress_to_fp16=False)


def _with_pixels_in_front(found: ModelVersion, spec: PreprocessingSpec) -> Any:
    model = read_graph(found.weights_path)
    binding = bind(graph_of(model), found.manifest.input, found.manifest.output, repr(str(found.weights_path)))
    return with_pixels_in_front(model, binding, spec)


def _quantise(core: Any, artefacts: Artefacts, converted: Path, path: Path) -> None:
    pixels = artefacts.calibration_pixels()  # (N, H, W, 3) uint8
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    model = core.read_model(converted)
    batches = batches_of(pixels, CALIBRATION_BATCH, _static_batch(model))
    with redirect_stdout(io.StringIO()):  # Progress bars.
        quantised = nncf.quantize(
            model,
            nncf.Dataset(batches),
            # Activations that are not symmetric about zero keep their range, as those of hard-swish and SiLU need.
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(batches),
            # Pixels are exact in 8 bits; ranges for them would clip what no calibration image has.
            ignored_scope=nncf.IgnoredScope(names=_normalisation(model)),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # Weights of 7 bits: CPUs without VNNI add two products in 16 bits, which overflow with 8. On the
                # bundled model, the eighth bit gains nothing where nothing overflows, and loses 0.5 % of top-1 here.
                overflow_fix=nncf.OverflowFix.ENABLE,
                # The default, the mean of the ranges of all images, clips most of them: on the bundled model,
                # probabilities were off by up to 0.84, and are with this by up to 0.26.
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                batchwise_statistics=True,
            ),
        )
    ov.save_model(quantised, path, compress_to_fp16=False)


def _normalisation(model: Any) -> list[str]:
    """The names of the arithmetic in front of the first layer."""
    names, node = [], model.input(0).get_node()
    while len(targets := node.output(0).get_target_inputs()) == 1:
        node = next(iter(targets)).get_node()
        if node.get_type_name() not in NORMALISATION:
            break
        if node.get_type_name() not in ("Convert", "Transpose"):
            names.append(node.get_friendly_name())
    return names
