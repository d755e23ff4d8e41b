"""The ONNX Runtime engine: CPU kernels, any batch size, float32 or 8-bit integers.

What is kept is the graph as ONNX Runtime has optimised it: sessions start in a fraction of the time, without torch.
"""

import contextlib
import hashlib
import io
import os
import platform
import tempfile
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# ONNX Runtime 1.29 and later send usage data from Linux, too, unless this is set before the library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from deployments.engines.artefacts import Artefacts
from deployments.engines.base import Images, stack
from deployments.engines.binding import Binding
from deployments.engines.hardware import describe_hardware
from deployments.engines.parts import batches_of, run_in_parts
from deployments.engines.registry import Build
from deployments.messages import ModelInfo

FILE: Final = "optimized.onnx"
WEIGHTS: Final = "optimized.weights"
# Of onnxruntime's severities: it warns that an optimised graph fits this kind of CPU only, as its name says anyway.
LOG_ERRORS: Final = 3
# Calibration keeps all activations of one batch in memory.
CALIBRATION_BATCH: Final = 4
# Operators that ONNX Runtime's optimiser makes of quantised layers with weights.
INTEGER_LAYERS: Final = {"QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat"}


class OnnxRuntimeEngine:
    def __init__(self, build: Build) -> None:
        self._info = build.artefacts.describe("onnxruntime", build.precision, build.device)
        self._max_batch_size = build.artefacts.settings.max_batch_size
        write = _write_int8 if build.precision == "int8" else _write_fp32
        self._session = build.artefacts.read(
            _name(build), partial(write, build.artefacts), partial(_read, threads=build.threads)
        )
        self._lone_session = self._session
        if build.has_lone_threads:
            read_lone = partial(_read, threads=build.lone_threads or build.threads)
            self._lone_session = build.artefacts.read(_name(build), partial(write, build.artefacts), read_lone)
        source = self._session.get_inputs()[0]
        self._input = source.name
        # A graph of others may have been exported for one batch size.
        self._only_size = source.shape[0] if isinstance(source.shape[0], int) else None

    def info(self) -> ModelInfo:
        return self._info

    def batch_sizes(self) -> Sequence[int]:
        return range(1, self._max_batch_size + 1)

    def runners(self) -> int:
        return 1

    def infer(self, images: Images) -> NDArray[np.float32]:
        run = partial(self._run, self._lone_session if len(images) == 1 else self._session)
        if self._only_size is not None:
            return run_in_parts(run, images, self._only_size)
        return run(stack(images, len(images)))

    def _run(self, session: onnxruntime.InferenceSession, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        (logits,) = session.run(None, {self._input: batch})
        result: NDArray[np.float32] = logits  # (N, classes)
        return result


def run_as_it_is(path: Path, binding: Binding, images: NDArray[Any], batch_size: int) -> NDArray[np.float32]:
    """What the ONNX file itself answers to `images`, which are what it takes, without optimisations."""
    from deployments.engines import onnx_graph

    with tempfile.TemporaryDirectory() as scratch:
        alone = onnx_graph.write_alone(path, binding, Path(scratch))
        session = _plain_session(alone, threads=1)
    parts = [
        session.run(None, {binding.input: images[start : start + batch_size]})[0]
        for start in range(0, len(images), batch_size)
    ]
    return np.concatenate(parts).astype(np.float32)


def _name(build: Build) -> str:
    """The layout of the optimised weights follows the vector instructions, the range of 8-bit ones does, too."""
    hardware = hashlib.sha256(describe_hardware("cpu").encode()).hexdigest()[:8]
    calibration = f"-{build.artefacts.calibration_identity}" if build.precision == "int8" else ""
    versions = f"{version_of('onnxruntime')}-torch-{version_of('torch')}"
    return f"onnxruntime-{versions}-{build.precision}-{hardware}{calibration}"


def _read(directory: Path, threads: int) -> onnxruntime.InferenceSession:
    return _plain_session(directory / FILE, threads)  # It is optimised already.


def _plain_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = _options(threads)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _write_fp32(artefacts: Artefacts, directory: Path) -> None:
    from deployments.engines.onnx_export import onnx_path

    _optimize(onnx_path(artefacts), directory / FILE)


def _write_int8(artefacts: Artefacts, directory: Path) -> None:
    pixels = artefacts.calibration_pixels()
    from deployments.engines.onnx_export import check_installed, onnx_path

    check_installed(artefacts)
    with tempfile.TemporaryDirectory() as scratch:
        quantized = Path(scratch) / "quantized.onnx"
        _quantize(onnx_path(artefacts), pixels, quantized)
        _optimize(quantized, directory / FILE)
    _check_is_integer(directory / FILE)


def _optimize(source: Path, target: Path) -> None:
    options = _options(threads=1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(target)
    # Outside the file, whose format ends at 2 GiB.
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads would spin for a while after each batch, on cores that have pictures to decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = LOG_ERRORS
    return options


def _quantize(source: Path, pixels: NDArray[np.uint8], target: Path) -> None:
    """Quantises weights by channel and activations by tensor, both known beforehand (onnxruntime.quantization)."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_name("prepared.onnx")
    quant_pre_process(source, prepared)
    graph = onnx.load(prepared).graph
    # Eight bits of logits would be the coarsest step of all.
    last = [node.name for node in graph.node if graph.output[0].name in node.output]
    with contextlib.redirect_stdout(io.StringIO()):  # It prints how far it is.
        quantize_static(
            prepared,
            target,
            _Calibration(graph.input[0].name, pixels, graph.input[0].type.tensor_type.shape.dim[0].dim_value or None),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=_products_saturate(),
            nodes_to_exclude=last,
            # Ranges by extremes alone cost the bundled model four times the difference in probabilities.
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibStridedMinMax": 1},  # One batch after the other, to bound memory.
        )


class _Calibration:
    """A CalibrationDataReader of onnxruntime.quantization, counted in batches."""

    def __init__(self, name: str, pixels: NDArray[np.uint8], only_size: int | None) -> None:
        self._batches = batches_of(pixels, CALIBRATION_BATCH, only_size)
        self._name = name
        self._next = iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._next = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._next, None)
        return None if batch is None else {self._name: batch}


def _products_saturate() -> bool:
    """Whether sums of two 8-bit products can overflow: on x86 without VNNI (onnxruntime's guide to quantization)."""
    return platform.machine() in ("x86_64", "AMD64") and "vnni" not in describe_hardware("cpu")


def _check_is_integer(path: Path) -> None:
    import onnx

    operators = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    if not operators & INTEGER_LAYERS:
        raise RuntimeError("ONNX Runtime has quantised none of its layers")
