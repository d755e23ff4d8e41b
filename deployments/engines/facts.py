"""What there is to say of a model without loading it, and how it is kept."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deployments.repository import DESCRIBE_THEMSELVES, ModelVersion
from deployments.settings import PreprocessingSpec

if TYPE_CHECKING:
    from deployments.engines.sources import ModelSource

FILE: Final = "facts.json"


@dataclass(frozen=True)
class Facts:
    """What there is to say of a model without loading it."""

    version: int
    architecture: str
    labels: tuple[str, ...]
    preprocessing: PreprocessingSpec


def stated_facts(found: ModelVersion) -> Facts | None:
    """Of a version whose model.yaml says it all; None where the graph has to be asked, or to agree."""
    manifest = found.manifest
    if manifest.format in DESCRIBE_THEMSELVES:
        return None
    return Facts(found.version, _architecture(found), manifest.labels, manifest.preprocessing)


def facts_of_graph(found: ModelVersion) -> Facts:
    """Reads the graph, at the price of a load. Raises ConfigError if it does not fit what model.yaml says."""
    from deployments.engines.foreign import labels_and_spec

    return Facts(found.version, _architecture(found), *labels_and_spec(found))


def facts_of_source(source: "ModelSource") -> Facts:
    return Facts(source.version, source.architecture, source.labels, source.preprocessing)


def write_facts(facts: Facts, directory: Path) -> None:
    content = {
        "version": facts.version,
        "architecture": facts.architecture,
        "labels": facts.labels,
        "preprocessing": facts.preprocessing.model_dump(mode="json"),
    }
    (directory / FILE).write_text(json.dumps(content))


def read_facts(directory: Path, found: ModelVersion | None = None) -> Facts:
    """What `write_facts` wrote; where model.yaml states the preprocessing, in its words."""
    content = json.loads((directory / FILE).read_text())
    spec = PreprocessingSpec.model_validate(content["preprocessing"])
    facts = Facts(content["version"], content["architecture"], tuple(content["labels"]), spec)
    if found is None:
        return facts
    if "preprocessing" in found.manifest.model_fields_set:
        # Facts are kept for a content, of which how quickly pixels are decoded is no part.
        return replace(facts, preprocessing=found.manifest.preprocessing)
    return facts


def _architecture(found: ModelVersion) -> str:
    return found.manifest.architecture or found.manifest.format
