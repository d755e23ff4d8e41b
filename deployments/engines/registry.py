"""The engines that there are: what each needs installed, and which precisions it has on which device.

Model libraries are imported inside the creators, so that a replica loads only the one that it runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final, Literal

from deployments.engines.artefacts import Artefacts
from deployments.engines.base import Engine
from deployments.settings import EngineName, Precision

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Choice:
    """What can be built, measured, refused or served."""

    engine: EngineName
    precision: Precision

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


@dataclass(frozen=True)
class Build:
    """How to run a model: `threads` on a CPU, nothing to choose on a GPU."""

    artefacts: Artefacts
    precision: Precision
    device: Device
    threads: int


@dataclass(frozen=True)
class Kind:
    create: Callable[[Build], Engine]  # Raises ConfigError, or whatever its library raises.
    module: str
    precisions: Mapping[Device, Sequence[Precision]]
    # Where `engine: auto` considers it.
    automatic: Sequence[Device]

    def is_installed(self) -> bool:
        return find_spec(self.module) is not None


def _torch(build: Build) -> Engine:
    from deployments.engines.torch_engine import TorchEngine

    return TorchEngine(build)


def _torch_compile(build: Build) -> Engine:
    from deployments.engines.torch_engine import TorchEngine

    return TorchEngine(build, compiled=True)


def _onnxruntime(build: Build) -> Engine:
    from deployments.engines.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(build)


def _openvino(build: Build) -> Engine:
    from deployments.engines.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(build)


def _tensorrt(build: Build) -> Engine:
    from deployments.engines.tensorrt_engine import TensorRtEngine

    return TensorRtEngine(build)


# In the order in which they are tried when none was measured.
KINDS: Final[Mapping[EngineName, Kind]] = {
    "tensorrt": Kind(_tensorrt, "tensorrt", {"cuda": ("fp32", "fp16", "bf16")}, ("cuda",)),
    "openvino": Kind(_openvino, "openvino", {"cpu": ("fp32", "bf16", "int8")}, ("cpu",)),
    "onnxruntime": Kind(_onnxruntime, "onnxruntime", {"cpu": ("fp32", "int8")}, ("cpu",)),
    # Compiling takes a minute on two cores, which a first start should not; so on CPUs it must be asked for.
    "torch-compile": Kind(
        _torch_compile, "torch", {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "fp16", "bf16")}, ("cuda",)
    ),
    "torch": Kind(_torch, "torch", {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "fp16", "bf16")}, ("cpu", "cuda")),
}


def automatic(device: Device, engine: EngineName | None, precisions: Sequence[Precision] | None) -> list[Choice]:
    """What is installed for `device`, of one engine only if it is named, at all precisions unless they are."""
    kinds = {
        name: kind
        for name, kind in KINDS.items()
        if kind.is_installed() and (device in kind.automatic if engine is None else name == engine)
    }
    return [
        Choice(name, precision)
        for name, kind in kinds.items()
        for precision in kind.precisions.get(device, ())
        if precisions is None or precision in precisions
    ]
