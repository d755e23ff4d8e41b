"""The engines that there are: what each needs installed, which formats it reads, and which precisions it has where.

Model libraries are imported inside the creators, so that a replica loads only the one that it runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final, Literal

from deployments.engines.artefacts import Artefacts
from deployments.engines.base import Engine
from deployments.settings import EngineName, Precision
from deployments.weight_files import Format

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
    """How to run a model: `threads` on a CPU, `lone_threads` for one image; nothing to choose on a GPU."""

    artefacts: Artefacts
    precision: Precision
    device: Device
    threads: int
    lone_threads: int | None = None  # None: as many.

    @property
    def has_lone_threads(self) -> bool:
        return self.lone_threads not in (None, self.threads)


@dataclass(frozen=True)
class Kind:
    create: Callable[[Build], Engine]  # Raises ConfigError, or whatever its library raises.
    module: str
    precisions: Mapping[Device, Sequence[Precision]]
    # Where `engine: auto` considers it.
    automatic: Sequence[Device]
    formats: Sequence[Format] = ("state_dict",)
    # Of these it computes as they were exported, which goes by the name of fp32, and in no other way.
    as_they_are: Sequence[Format] = ()

    def offered(self, device: Device, kind: Format) -> Sequence[Precision]:
        """The precisions for weights of that format; none if it does not read it there."""
        if kind not in self.formats:
            return ()
        precisions = self.precisions.get(device, ())
        return [each for each in precisions if each == "fp32"] if kind in self.as_they_are else precisions

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
    if build.artefacts.found is not None and build.artefacts.format == "tensorrt":
        from deployments.engines.tensorrt_plan import PlanEngine

        return PlanEngine(build, build.artefacts.found)
    from deployments.engines.tensorrt_engine import TensorRtEngine

    return TensorRtEngine(build)


# In the order in which they are tried when none was measured.
KINDS: Final[Mapping[EngineName, Kind]] = {
    "tensorrt": Kind(
        _tensorrt,
        "tensorrt",
        {"cuda": ("fp32", "fp16", "bf16")},
        ("cuda",),
        formats=("state_dict", "onnx", "tensorrt"),
        as_they_are=("onnx", "tensorrt"),
    ),
    "openvino": Kind(
        _openvino,
        "openvino",
        {"cpu": ("fp32", "bf16", "int8")},
        ("cpu",),
        formats=("state_dict", "onnx", "saved_model"),
    ),
    "onnxruntime": Kind(
        _onnxruntime, "onnxruntime", {"cpu": ("fp32", "int8")}, ("cpu",), formats=("state_dict", "onnx")
    ),
    # Compiling takes a minute on two cores, which a first start should not; so on CPUs it must be asked for.
    "torch-compile": Kind(
        _torch_compile,
        "torch",
        {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "fp16", "bf16")},
        ("cuda",),
        formats=("state_dict", "torch_export"),
    ),
    "torch": Kind(
        _torch,
        "torch",
        {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "fp16", "bf16")},
        ("cpu", "cuda"),
        formats=("state_dict", "torch_export"),
    ),
}


def reading(kind: Format) -> list[EngineName]:
    """The engines that read weights of that format, installed or not."""
    return sorted(name for name, engine in KINDS.items() if kind in engine.formats)


def automatic(
    device: Device, engine: EngineName | None, precisions: Sequence[Precision] | None, kind: Format = "state_dict"
) -> list[Choice]:
    """What is installed for `device` and weights of that format, of one engine only if it is named, at all precisions
    unless they are.
    """
    engines = {
        name: each
        for name, each in KINDS.items()
        if each.is_installed() and (device in each.automatic if engine is None else name == engine)
    }
    return [
        Choice(name, precision)
        for name, each in engines.items()
        for precision in each.offered(device, kind)
        if precisions is None or precision in precisions
    ]
