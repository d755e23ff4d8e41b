"""What a model computes, as one digest: by which everything that is derived from it is found again."""

import hashlib
import json
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Final

from deployments.repository import ModelVersion, read_labels
from deployments.settings import ModelSettings
from deployments.weight_files import FORMATS, sha256_of

# Raised when what is derived changes its meaning, so that no older file is taken for it.
LAYOUT: Final = 1


def content_digest(settings: ModelSettings, found: ModelVersion | None) -> str:
    """Of everything that decides what the model computes. torchvision's names stand for the files that it published."""
    content: dict[str, object] = {"layout": LAYOUT, "torchvision": version_of("torchvision")}
    if found is not None:
        content |= {"version": found.version}
        content |= found.manifest.model_dump(mode="json", exclude={"preprocessing": {"fidelity"}})
    else:
        content |= settings.model_dump(
            mode="json", include={"architecture", "weights", "preprocessing"}, exclude={"preprocessing": {"fidelity"}}
        )
        content["labels"] = read_labels(settings.labels) if settings.labels else None
        weights = Path(settings.weights or "")
        if FORMATS.get(weights.suffix) == "state_dict" and weights.is_file():
            content["weights"] = sha256_of(weights)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
