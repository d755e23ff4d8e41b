"""The states of a model's versions as TensorFlow Serving tells them, in the JSON form of GetModelStatusResponse.

Source: tensorflow_serving/apis/get_model_status.proto. The states have the same names here (messages.State).
"""

from collections.abc import Sequence
from typing import Any

from deployments.errors import ModelNotReady
from deployments.messages import DataPlane, VersionStatus


def model_status(plane: DataPlane, model: str, version: str | None = None, label: str | None = None) -> dict[str, Any]:
    """Of all versions, or of the one that is asked for; a model that says nothing yet is loading.

    Raises UnknownModel, BadRequest, or ModelNotReady for a label whose version is not available.
    """
    return {"model_version_status": [_entry(status) for status in _statuses(plane, model, version, label)]}


def _statuses(plane: DataPlane, model: str, version: str | None, label: str | None) -> Sequence[VersionStatus]:
    known = plane.versions_of(model)
    if label is not None:
        version = str(plane.info_of(model, version, label).version)
    if version is None:
        return known or [VersionStatus(0, "LOADING")]
    found = [status for status in known if str(status.version) == version]
    return found or [_unlisted(plane, model, version)]


def _unlisted(plane: DataPlane, model: str, version: str) -> VersionStatus:
    try:
        return VersionStatus(plane.info_of(model, version).version, "AVAILABLE")
    except ModelNotReady:  # Only said of numbers.
        return VersionStatus(int(version), "LOADING")


def _entry(status: VersionStatus) -> dict[str, Any]:
    # What is wrong with a version has a sentence here, and no code of its own.
    error = {"error_code": "UNKNOWN" if status.reason else "OK", "error_message": status.reason}
    return {"version": str(status.version), "state": status.state, "status": error}
