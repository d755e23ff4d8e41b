"""A TensorRT plan that others have built: run as it is, on the kind of GPU and the version of TensorRT that it is for.

A plan is native code: TensorRT warns of plans of unknown origin, so a version with one needs a model.yaml with its
sha256. It computes at the precision that it was built with, and nothing else computes the same: the guard compares it
with itself, which leaves the golden outputs that were recorded of it as its only check.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt
import torch
from numpy.typing import NDArray

from deployments.engines.artefacts import Artefacts
from deployments.engines.base import Images
from deployments.engines.binding import SMALLEST_PROBABILITY, Binding, Graph, Port, bind
from deployments.engines.registry import Build
from deployments.engines.tensorrt_library import LOGGER, check_can_run
from deployments.errors import ConfigError
from deployments.messages import ModelInfo
from deployments.repository import ModelVersion

DTYPES = {"float32": torch.float32, "uint8": torch.uint8, "float16": torch.float16, "bfloat16": torch.bfloat16}


class PlanEngine:
    """Every batch goes through the same device memory on a stream of its own; torch normalises in front of the plan."""

    def __init__(self, build: Build, found: ModelVersion) -> None:
        """Raises ConfigError if there is no GPU, the plan is not for it, or its ends do not fit the manifest."""
        check_can_run(build)
        self._info = build.artefacts.describe("tensorrt", build.precision, build.device)
        self._max_batch_size = build.artefacts.settings.max_batch_size
        engine = _read(found.weights_path)
        where = repr(str(found.weights_path))
        binding = bind(_graph_of(engine), found.manifest.input, found.manifest.output, where)
        side, classes = self._info.preprocessing.crop_size, len(self._info.labels)
        _check_fits(binding, side, classes, where)
        self._binding = binding
        self._least, self._most = _batch_sizes(engine, binding)
        spec = self._info.preprocessing
        self._mean = torch.tensor(spec.mean, device="cuda")
        self._std = torch.tensor(spec.std, device="cuda")
        shape = (self._most, side, side, 3) if binding.layout == "nhwc" else (self._most, 3, side, side)
        self._images = torch.empty(shape, dtype=DTYPES[binding.dtype], device="cuda")
        answers = DTYPES[_dtype(engine, binding.output)]
        self._answers = torch.empty((self._most, classes), dtype=answers, device="cuda")
        self._context = engine.create_execution_context()
        self._context.set_tensor_address(binding.input, self._images.data_ptr())
        self._context.set_tensor_address(binding.output, self._answers.data_ptr())
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def info(self) -> ModelInfo:
        return self._info

    def batch_sizes(self) -> Sequence[int]:
        return range(1, self._max_batch_size + 1)

    def runners(self) -> int:
        return 1

    @torch.inference_mode()
    def infer(self, images: Images) -> NDArray[np.float32]:
        starts = range(0, len(images), self._most)
        return np.concatenate([self._run(images[start : start + self._most]) for start in starts])

    def _run(self, images: Images) -> NDArray[np.float32]:
        count = len(images)
        padded = max(count, self._least)
        with torch.cuda.stream(self._stream):
            self._images[:count].copy_(self._normalized(torch.from_numpy(np.stack(list(images))).cuda()))
            self._enqueue(padded)
            answers = self._answers[:count].float()
            if self._binding.kind == "probabilities":
                answers = answers.clamp(min=SMALLEST_PROBABILITY).log()
            logits: NDArray[np.float32] = answers.cpu().numpy()  # (N, classes); waits for the stream
        return logits

    def _normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        if self._binding.dtype == "float32":
            pixels = (pixels.float() / 255 - self._mean) / self._std
        return pixels.permute(0, 3, 1, 2) if self._binding.layout == "nchw" else pixels

    def _enqueue(self, count: int) -> None:
        shape = (count, *self._images.shape[1:])
        accepted = self._context.set_input_shape(self._binding.input, shape)
        if not (accepted and self._context.execute_async_v3(self._stream.cuda_stream)):
            raise RuntimeError(f"TensorRT refused a batch of {count}")


def plan_logits(artefacts: Artefacts, found: ModelVersion, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the plan answers, float32 (N, classes). Raises ConfigError as PlanEngine."""
    return PlanEngine(Build(artefacts, "fp32", "cuda", 1), found).infer(pixels)


def _read(path: Path) -> Any:
    engine = tensorrt.Runtime(LOGGER).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise ConfigError(
            f"TensorRT {tensorrt.__version__} cannot read the plan {str(path)!r} on this GPU: it is broken, or was "
            f"built for another GPU or version."
        )
    return engine


def _graph_of(engine: Any) -> Graph:
    ports: dict[bool, list[Port]] = {True: [], False: []}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape = tuple(size if size > 0 else None for size in engine.get_tensor_shape(name))
        is_input = engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT
        ports[is_input].append(Port((name,), shape, _dtype(engine, name)))
    if len(ports[True]) != 1 or len(ports[False]) != 1:
        # All of a plan runs, and memory for what nobody asked for would have to be made up.
        raise ConfigError(
            f"The plan has the inputs {', '.join(map(str, ports[True]))} and the outputs "
            f"{', '.join(map(str, ports[False]))}, where one of each is served."
        )
    return Graph(tuple(ports[True]), tuple(ports[False]))


def _dtype(engine: Any, name: str) -> str:
    """As numpy calls it, and bfloat16."""
    kinds = {tensorrt.float32: "float32", tensorrt.float16: "float16", tensorrt.bfloat16: "bfloat16"}
    dtype = engine.get_tensor_dtype(name)
    return "uint8" if dtype == tensorrt.uint8 else kinds.get(dtype, str(dtype))


def _batch_sizes(engine: Any, binding: Binding) -> tuple[int, int]:
    """The smallest and the largest, of the first optimisation profile where the plan leaves them open."""
    if binding.batch is not None:
        return binding.batch, binding.batch
    least, _, most = engine.get_tensor_profile_shape(binding.input, 0)
    return least[0], most[0]


def _check_fits(binding: Binding, side: int, classes: int, where: str) -> None:
    if binding.side not in (None, side):
        raise ConfigError(f"{where} takes images of {binding.side} pixels, but its preprocessing has crop_size {side}.")
    if binding.classes not in (None, classes):
        raise ConfigError(f"{where} has {binding.classes} classes, but there are {classes} labels.")
