"""A model with several versions, as an Ingress replica knows it from what replicas say: nothing of it is made up."""

from collections.abc import Sequence
from typing import Any

from deployments.catalogue import Catalogue
from deployments.messages import ModelInfo, ReplicaStatus, State, VersionStatus
from deployments.settings import LiveSettings, PreprocessingSpec
from tests.unit.bytes_plane import LABELS, BytesPlane

WHY = "The weights of version 3 are not the ones that its model.yaml names."
# Of the model of `two_versions`.
LIVE: dict[str, Any] = {"labels": {"stable": 1, "canary": 2}, "traffic": {"stable": 90, "canary": 10}}


def version_info(version: int, name: str = "shapes", side: int | None = None) -> ModelInfo:
    """Each version makes its pixels in a way of its own: `side` of them, or a number that grows with the version."""
    spec = PreprocessingSpec(resize_size=256, crop_size=side or 200 + version)
    return ModelInfo(name, version, LABELS, spec, "dummy", "dummy", "fp32", "cpu")


def status(version: int, state: State = "AVAILABLE", reason: str = "") -> VersionStatus:
    return VersionStatus(version, state, reason)


def replica(*versions: VersionStatus | int, **live: Any) -> ReplicaStatus:
    """Numbers are versions that are available. `live`: its LiveSettings."""
    statuses = tuple(status(each) if isinstance(each, int) else each for each in versions)
    return ReplicaStatus(statuses, LiveSettings(**live))


def updated(catalogue: Catalogue, *replicas: ReplicaStatus) -> Catalogue:
    """As an Ingress replica does once a second."""
    catalogue.update(
        replicas, {version: version_info(version, catalogue.name) for version in catalogue.undescribed(replicas)}
    )
    return catalogue


def told(*replicas: ReplicaStatus) -> Catalogue:
    return updated(Catalogue("shapes"), *replicas)


def two_versions() -> Catalogue:
    """1 and 2 answer, 90 to 10; 3 has failed, 4 is loading."""
    return told(replica(1, 2, status(3, "END", WHY), status(4, "LOADING"), **LIVE))


def plane(catalogue: Catalogue | None = None) -> BytesPlane:
    return BytesPlane(models={"shapes": catalogue or two_versions()})


def keys(count: int) -> Sequence[str]:
    return [f"user-{number}" for number in range(count)]
