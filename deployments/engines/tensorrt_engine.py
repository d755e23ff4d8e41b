"""The TensorRT engine: a plan for one kind of NVIDIA GPU, any batch size up to `max_batch_size`.

TensorRT 11 types networks strongly: it computes in the precision that the ONNX file states, and in no other.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import tensorrt
import torch
from numpy.typing import NDArray

from deployments.engines.base import Images
from deployments.engines.onnx_export import IMAGES, LOGITS, onnx_path
from deployments.engines.parts import run_in_parts
from deployments.engines.registry import Build
from deployments.engines.tensorrt_library import LOGGER, check_can_run
from deployments.messages import ModelInfo

PLAN: Final = "engine.plan"


class TensorRtEngine:
    """Every batch goes through the same pinned and device memory on a stream of its own."""

    def __init__(self, build: Build) -> None:
        check_can_run(build)
        info = build.artefacts.describe("tensorrt", build.precision, build.device)
        self._info, self._max_batch_size = info, build.artefacts.settings.max_batch_size
        engine = build.artefacts.read(_name(build), partial(_write, build), _read)
        # An ONNX file of others may have been exported for one batch size.
        only_size = engine.get_tensor_shape(IMAGES)[0]
        self._only_size = only_size if only_size > 0 else None
        largest = self._only_size or self._max_batch_size
        images, logits = _input_shape(build, largest), (largest, len(info.labels))
        self._pinned_images = torch.empty(images, dtype=torch.uint8, pin_memory=True)
        self._images = torch.empty(images, dtype=torch.uint8, device="cuda")
        self._logits = torch.empty(logits, dtype=torch.float32, device="cuda")
        self._pinned_logits = torch.empty(logits, dtype=torch.float32, pin_memory=True)
        self._context = engine.create_execution_context()
        self._context.set_tensor_address(IMAGES, self._images.data_ptr())
        self._context.set_tensor_address(LOGITS, self._logits.data_ptr())
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def info(self) -> ModelInfo:
        return self._info

    def batch_sizes(self) -> Sequence[int]:
        return range(1, self._max_batch_size + 1)

    def runners(self) -> int:
        return 1

    def infer(self, images: Images) -> NDArray[np.float32]:
        if self._only_size is not None:
            return run_in_parts(self._run, images, self._only_size)
        return self._run(images)

    def _run(self, images: Images) -> NDArray[np.float32]:
        count = len(images)
        np.stack(list(images), out=self._pinned_images.numpy()[:count])
        with torch.cuda.stream(self._stream):
            self._images[:count].copy_(self._pinned_images[:count], non_blocking=True)
            self._enqueue(count)
            self._pinned_logits[:count].copy_(self._logits[:count], non_blocking=True)
        self._stream.synchronize()
        logits: NDArray[np.float32] = self._pinned_logits[:count].numpy().copy()  # (N, classes)
        return logits

    def _enqueue(self, count: int) -> None:
        shape = (count, *self._images.shape[1:])
        if not (
            self._context.set_input_shape(IMAGES, shape) and self._context.execute_async_v3(self._stream.cuda_stream)
        ):
            raise RuntimeError(f"TensorRT refused a batch of {count}")


def _name(build: Build) -> str:
    """A plan fits one version of TensorRT and one kind of GPU."""
    major, minor = torch.cuda.get_device_capability()
    gpu = re.sub(r"[^A-Za-z0-9]+", "-", torch.cuda.get_device_name())
    return (
        f"tensorrt-{tensorrt.__version__}-torch-{torch.__version__}-{build.precision}-"
        f"batch-{build.artefacts.settings.max_batch_size}-{gpu}-sm{major}{minor}"
    )


def _read(directory: Path) -> tensorrt.ICudaEngine:
    engine = tensorrt.Runtime(LOGGER).deserialize_cuda_engine((directory / PLAN).read_bytes())
    if engine is None:
        raise RuntimeError("TensorRT cannot read its plan")
    return engine


def _write(build: Build, directory: Path) -> None:
    builder = tensorrt.Builder(LOGGER)
    network = _parse(builder, build)
    config = builder.create_builder_config()
    # Products of float32 are rounded to 10 bits of mantissa otherwise.
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    if network.get_input(0).shape[0] < 0:  # Of any batch size.
        profile = builder.create_optimization_profile()
        largest = _input_shape(build, build.artefacts.settings.max_batch_size)
        profile.set_shape(IMAGES, min=_input_shape(build, 1), opt=largest, max=largest)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError("TensorRT cannot build an engine of this network")
    (directory / PLAN).write_bytes(plan)


def _parse(builder: tensorrt.Builder, build: Build) -> tensorrt.INetworkDefinition:
    network = builder.create_network()
    parser = tensorrt.OnnxParser(network, LOGGER)
    if not parser.parse_from_file(str(onnx_path(build.artefacts, build.precision))):
        raise RuntimeError(f"TensorRT cannot read the network: {parser.get_error(0).desc()}")
    return network


def _input_shape(build: Build, batch_size: int) -> tuple[int, int, int, int]:
    side = build.artefacts.facts.preprocessing.crop_size
    return (batch_size, side, side, 3)
