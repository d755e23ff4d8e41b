"""The OpenAPI 3.1 document: every HTTP route of the service but those of the document itself and its page."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import orjson

from deployments.messages import ModelInfo
from deployments.protocols.oip.contract import server_metadata
from deployments.protocols.openapi import administration, comparison, huggingface, oip, playground, predict, tfserving
from deployments.protocols.openapi.parts import Models, Paths, Schemas, components
from deployments.protocols.openapi.security import ask_for_keys

# In the order of the page.
FAMILIES: Final = (predict, playground, oip, administration, comparison, tfserving, huggingface)
DESCRIPTION: Final = """Image classification: encoded images in, labels out. Every response has an x-request-id and
Server-Timing; every error is JSON with error, code and request_id."""


def document(
    models: Mapping[str, ModelInfo | None],
    labels: Mapping[str, Mapping[str, int]],
    root_path: str = "",
    *,
    asks_for_keys: bool = False,
) -> bytes:
    """As JSON. `root_path` is what the service's own paths are below; models that are warm appear in the examples.

    `labels`: those of each model.
    """
    return _document(Models.of(models, labels), root_path, asks_for_keys)


@lru_cache(maxsize=8)
def _document(models: Models, root_path: str, asks_for_keys: bool) -> bytes:
    paths: Paths = {}
    schemas: Schemas = {}
    for family in FAMILIES:
        paths |= family.paths(models)
        schemas |= family.schemas()
    content: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Aperture", "version": server_metadata()["version"], "description": DESCRIPTION},
        "servers": [{"url": root_path or "/"}],
        "paths": paths,
        "components": components(schemas),
    }
    if asks_for_keys:
        ask_for_keys(content)
    return orjson.dumps(content)
