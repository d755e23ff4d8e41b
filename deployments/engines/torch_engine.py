"""The torch engines: eager, or compiled by torch.compile.

On a CPU batches run as they come, one at a time; on a GPU see cuda.py.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.engines.base import Images, power_of_two_sizes, stack
from deployments.engines.cuda import Network, graph_lanes
from deployments.engines.network import Folded, Normalized
from deployments.engines.registry import Build
from deployments.errors import ConfigError
from deployments.messages import ModelInfo


class TorchEngine:
    def __init__(self, build: Build, *, compiled: bool = False) -> None:
        self._info = build.artefacts.describe("torch-compile" if compiled else "torch", build.precision, build.device)
        max_batch_size = build.artefacts.settings.max_batch_size
        network = Folded(cast(Normalized, build.artefacts.network), build.precision).to(build.device)
        runnable = _compiled(network, build) if compiled else network
        self._sizes: Sequence[int]
        if build.device == "cuda":
            self._sizes = power_of_two_sizes(max_batch_size)
            side, classes = self._info.preprocessing.crop_size, len(self._info.labels)
            lanes = graph_lanes(runnable, self._sizes, side, classes)
            self._run, self._runners = lanes.run, lanes.count
        else:
            self._sizes = range(1, max_batch_size + 1)
            self._run, self._runners = _OnCpu(runnable, build).run, 1

    def info(self) -> ModelInfo:
        return self._info

    def batch_sizes(self) -> Sequence[int]:
        return self._sizes

    def runners(self) -> int:
        return self._runners

    def infer(self, images: Images) -> NDArray[np.float32]:
        return self._run(images)


class _OnCpu:
    def __init__(self, network: Network, build: Build) -> None:
        self._network, self._threads = network, build.threads
        self._lone_threads = build.lone_threads or build.threads

    @torch.inference_mode()
    def run(self, images: Images) -> NDArray[np.float32]:
        # OpenMP keeps a number for each thread. Torch hands its own, the last that anyone set, to a new thread only
        # once it is asked for it; until then, convolutions may run on all cores.
        threads = self._lone_threads if len(images) == 1 else self._threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        batch = torch.from_numpy(stack(images, len(images)))  # (N, H, W, 3) uint8
        logits: NDArray[np.float32] = self._network(batch).numpy()  # (N, classes)
        return logits


def _compiled(network: torch.nn.Module, build: Build) -> Network:
    """Compiled when it is first run: once for single images, once for all larger batches."""
    on_cpu = build.device == "cpu"
    if on_cpu:
        _require_compiler(build.artefacts.settings.name)
    # The same for all versions, precisions and machines: torch gives what it keeps there names that tell them apart.
    kept = build.artefacts.directory("torch-compile", _nothing)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(kept)
    # On a CPU, Python between the kernels costs a tenth of the time; on a GPU, CUDA graphs leave nothing of it.
    compiled = torch.compile(network, options={"cpp_wrapper": on_cpu})

    def run(pixels: torch.Tensor) -> torch.Tensor:
        torch._dynamo.maybe_mark_dynamic(pixels, 0)
        logits: torch.Tensor = compiled(pixels)
        return logits

    return run


def _require_compiler(name: str) -> None:
    # The default of torch._inductor.config.cpp.cxx, whose import takes seconds.
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ConfigError(
            f"Engine 'torch-compile' of model {name!r} needs the C++ compiler {compiler!r}, which is not installed; "
            f"install it, or set engine to 'torch'."
        )


def _nothing(directory: Path) -> None:
    pass
