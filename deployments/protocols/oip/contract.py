"""What the service says of itself and of its models, in the JSON of Triton's protocol and its extensions.

The field names are those of Triton's protobuf messages, so that gRPC parses the same dicts. Sources: the files
protocol/extension_{model_configuration,statistics,model_repository}.md of triton-inference-server/server and
protobuf/{grpc_service,model_config}.proto of triton-inference-server/common.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from deployments.errors import ModelNotReady, UnknownModel
from deployments.messages import DataPlane, ModelInfo, State, VersionStatus
from deployments.protocols.oip.inference import DATATYPES
from deployments.protocols.tensors import input_shape
from deployments.settings import InputName, Limits
from deployments.statistics import BatchStatistics, ModelStatistics, RequestStatistics, Total

# Of which all is there. Of the model repository there is the index, and the rest if the operator says so.
EXTENSIONS: Final = ("binary_tensor_data", "classification", "model_configuration", "statistics")
# BYTES has a name of its own in a model's configuration.
CONFIG_TYPES: Final[dict[InputName, str]] = {"IMAGE": "TYPE_STRING", "PIXELS": "TYPE_UINT8", "INPUT": "TYPE_FP32"}
CONFIG_FORMATS: Final[dict[InputName, str]] = {"IMAGE": "FORMAT_NONE", "PIXELS": "FORMAT_NHWC", "INPUT": "FORMAT_NCHW"}
# Of Triton's ModelReadyState (core/src/model_lifecycle.h).
READY_STATES: Final[Mapping[State, str]] = {
    "START": "LOADING",
    "LOADING": "LOADING",
    "AVAILABLE": "READY",
    "UNLOADING": "UNLOADING",
    "END": "UNAVAILABLE",
}


def server_metadata() -> dict[str, Any]:
    """ServerMetadataResponse."""
    return {"name": "aperture", "version": _version(), "extensions": list(EXTENSIONS)}


def model_metadata(info: ModelInfo, statuses: Sequence[VersionStatus]) -> dict[str, Any]:
    """ModelMetadataResponse. The first dimension of each shape is the number of images, -1 for any.

    `statuses`: of all versions of the model, of which those that answer are listed.
    """
    inputs = [{"name": name, "datatype": DATATYPES[name], "shape": input_shape(name, info)} for name in info.inputs]
    outputs = [{"name": name, "datatype": "FP32", "shape": [-1, len(info.labels)]} for name in info.outputs]
    return {
        "name": info.name,
        "versions": [str(version) for version in _available(statuses)],
        "platform": f"{info.engine}_{info.architecture}",
        "inputs": inputs,
        "outputs": outputs,
    }


def model_config(info: ModelInfo, limits: Limits) -> dict[str, Any]:
    """ModelConfig. `dims` are without the number of images, which max_batch_size bounds.

    An image is one element; Triton writes that as [1], and both (N,) and (N, 1) are taken.
    """
    # A client that fills in every input must know that it may leave some out.
    optional = {"optional": True} if len(info.inputs) > 1 else {}
    inputs = [
        {
            "name": name,
            "data_type": CONFIG_TYPES[name],
            "format": CONFIG_FORMATS[name],
            "dims": input_shape(name, info)[1:] or [1],
            **optional,
        }
        for name in info.inputs
    ]
    outputs = [{"name": name, "data_type": "TYPE_FP32", "dims": [len(info.labels)]} for name in info.outputs]
    return {
        "name": info.name,
        "platform": f"{info.engine}_{info.architecture}",
        "backend": info.engine,
        "max_batch_size": limits.max_images,
        "input": inputs,
        "output": outputs,
    }


def is_ready(plane: DataPlane, model: str, version: str | None = None, label: str | None = None) -> bool:
    """Whether what is asked for answers. Raises UnknownModel for what has never been there, or BadRequest."""
    try:
        plane.info_of(model, version, label)
    except ModelNotReady:
        return False
    except UnknownModel:
        known = plane.versions_of(model)
        # One that is unloaded is there no less.
        if known and label is None and version in (None, *(str(status.version) for status in known)):
            return False
        raise
    return True


async def statistics_of(plane: DataPlane, model: str, version: int | None = None) -> list[dict[str, Any]]:
    """`model_stats`: of that version, or of each that answers, ascending."""
    counted = await plane.statistics(model)
    versions = _available(plane.versions_of(model)) if version is None else [version]
    nothing = ModelStatistics(RequestStatistics(), BatchStatistics())
    return [_of_version(model, each, counted.get(each, nothing)) for each in versions]


def _of_version(model: str, version: int, statistics: ModelStatistics) -> dict[str, Any]:
    """ModelStatistics. The inferences are images, the executions batches."""
    durations = statistics.requests.durations()
    return {
        "name": model,
        "version": str(version),
        "last_inference": statistics.requests.last_ms,
        "inference_count": statistics.inference_count,
        "execution_count": statistics.execution_count,
        "inference_stats": {name: _duration(total) for name, total in durations.items()},
        "batch_stats": [_of_batches(size, total) for size, total in sorted(statistics.batches.by_size.items())],
    }


def repository_index(plane: DataPlane, *, ready_only: bool = False) -> list[dict[str, Any]]:
    """The `models` of RepositoryIndexResponse, which over HTTP are the whole body: one for each version."""
    found = [entry for model in plane.ready_models() for entry in _index_of(model, plane.versions_of(model))]
    return [entry for entry in found if entry["state"] == "READY" or not ready_only]


def _index_of(model: str, statuses: Sequence[VersionStatus]) -> list[dict[str, Any]]:
    if not statuses:
        return [{"name": model, "version": "", "state": "LOADING", "reason": "The model is not warm yet."}]
    return [
        {
            "name": model,
            "version": str(each.version),
            "state": READY_STATES[each.state],
            "reason": each.reason or ("unloaded" if each.state == "END" else ""),
        }
        for each in statuses
    ]


def _available(statuses: Sequence[VersionStatus]) -> list[int]:
    return [status.version for status in statuses if status.state == "AVAILABLE"]


def _of_batches(size: int, total: Total) -> dict[str, Any]:
    # Engines take pixels and return logits in one call.
    nothing = Total(total.count)
    return {
        "batch_size": size,
        "compute_input": _duration(nothing),
        "compute_infer": _duration(total),
        "compute_output": _duration(nothing),
    }


def _duration(total: Total) -> dict[str, int]:
    return {"count": total.count, "ns": total.ns}


def _version() -> str:
    try:
        return version("aperture")
    except PackageNotFoundError:  # Run from its source, as in a Ray runtime environment.
        return "unknown"
