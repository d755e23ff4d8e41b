"""What the descriptions of all route families are made of."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deployments.messages import ModelInfo
from deployments.protocols.addressing import (
    CACHE,
    MAX_KEY_CHARACTERS,
    MODEL_VERSION,
    PREPROCESSING_SPEC,
    ROUTING_KEY,
)
from deployments.protocols.patience import TIMEOUT_HEADER
from deployments.settings.references import LABEL

Schema = dict[str, Any]
# Paths to methods to operations, and schemas by name.
Paths = dict[str, dict[str, Any]]
Schemas = dict[str, Schema]

STATIC: Final = Path(__file__).parent / "static"
# A heart, 96 x 96, of examples/pictures.
PICTURE: Final = (STATIC / "heart.jpg").read_bytes()
PICTURE_BASE64: Final = base64.b64encode(PICTURE).decode()
JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"

# Of every status but success; errors.py says when.
ERRORS: Final = {
    400: "The request is not what the protocol expects, or names an image URL that is not allowed.",
    403: "The caller may not do this; a page in a browser, for instance, where no API keys are asked for.",
    404: "There is no such model, or no such version or label of it; or the operator has switched this off.",
    408: "There was no answer in time.",
    409: "No heat map can be made of this version.",
    413: "The body is too large, or has too many images.",
    415: "The image has a format, or the body a coding, that is not accepted.",
    422: "The image is corrupt, too large in pixels, or otherwise refused.",
    424: "What an image URL names has not come.",
    500: "An internal error; the log has more under the request's id.",
    503: "The service has more requests than it can answer in time, or the model is still loading; try again.",
}
# What may follow the name of a model in a path.
VERSIONS: Final = ("", "/versions/{version}", "/labels/{label}")
ANY_ROUTE: Final = (408, 413, 500, 503)
OF_A_MODEL: Final = (404, *ANY_ROUTE)
INFERENCE: Final = (400, 415, 422, *OF_A_MODEL)


@dataclass(frozen=True, slots=True)
class Models:
    """`example` is what the examples are for: the first warm model that takes encoded images, if there is one.

    `label`: one of its labels, if it has any.
    """

    names: tuple[str, ...]
    example: ModelInfo | None
    label: str | None

    @classmethod
    def of(cls, models: Mapping[str, ModelInfo | None], labels: Mapping[str, Mapping[str, int]]) -> "Models":
        """`labels`: those of each model."""
        warm = [info for info in models.values() if info is not None and "IMAGE" in info.inputs]
        example = warm[0] if warm else None
        label = None if example is None else min(labels.get(example.name, {}), default=None)
        return cls(tuple(models), example, label)

    def named(self, suffix: str) -> list[Schema]:
        """The parameters of a path that ends with one of VERSIONS."""
        others = {"": [], "/versions/{version}": [self.version()], "/labels/{label}": [self.labelled()]}
        return [self.parameter(), *others[suffix]]

    def in_query(self) -> list[Schema]:
        return [self.parameter("query"), self.version("query"), self.labelled("query")]

    def parameter(self, where: str = "path") -> Schema:
        description = "By default the first." if where == "query" else ""
        schema = {"type": "string", "enum": list(self.names)}
        # A query without a model must stay an example, too.
        example = {"example": self.example.name} if self.example and where == "path" else {}
        return parameter("model", where, schema, description) | example

    def version(self, where: str = "path") -> Schema:
        schema = {"type": "string", "pattern": "^[0-9]{1,18}$"}
        example = {"example": str(self.example.version)} if self.example and where == "path" else {}
        description = "By default that to which traffic or the routing key leads." if where == "query" else ""
        return parameter("version", where, schema, description) | example

    def labelled(self, where: str = "path") -> Schema:
        schema = {"type": "string", "pattern": f"^{LABEL}$"}
        example = {"example": self.label} if self.label and where == "path" else {}
        description = "A name for a version, in place of its number." if where == "query" else ""
        return parameter("label", where, schema, description) | example


def operation(
    name: str,
    tag: str,
    summary: str,
    answer: Schema,
    errors: Sequence[int] = ANY_ROUTE,
    *,
    parameters: Sequence[Schema] = (),
    body: Schema | None = None,
    description: str = "",
    names_version: bool = False,
) -> Schema:
    """`answer`: the content of 200 by media type. `body`: of the request, by media type.

    `names_version`: the answer says in headers which version it is of.
    """
    named = HEADER_REFERENCES | (VERSION_REFERENCES if names_version else {})
    responses = {"200": {"description": "Success.", "headers": named, "content": answer}}
    responses |= {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(errors)}
    built: Schema = {"operationId": name, "tags": [tag], "summary": summary}
    if description:
        built["description"] = description
    if parameters:
        built["parameters"] = list(parameters)
    if body is not None:
        built["requestBody"] = {"required": True, "content": body}
    return built | {"responses": responses}


def parameter(name: str, where: str, schema: Schema, description: str = "") -> Schema:
    described = {"description": description} if description else {}
    return {"name": name, "in": where, "required": where == "path", "schema": schema, **described}


TIMEOUT: Final = parameter(
    TIMEOUT_HEADER,
    "header",
    {"type": "number", "exclusiveMinimum": 0},
    "Seconds from the arrival of the request, at most those of the service; the answer after that is 408.",
)

TOP_K: Final = parameter("top_k", "query", {"type": "integer", "minimum": 1, "maximum": 999_999_999, "default": 5})

ROUTING: Final = parameter(
    ROUTING_KEY,
    "header",
    {"type": "string", "maxLength": MAX_KEY_CHARACTERS},
    "Where traffic is divided between versions, the same key leads to the same one.",
)


def content(schema: Schema, media_type: str = JSON, **examples: Any) -> Schema:
    """One media type with the examples of that name."""
    named = {"examples": {name: {"value": value} for name, value in examples.items()}} if examples else {}
    return {media_type: {"schema": schema, **named}}


def reference(schema: str) -> Schema:
    return {"$ref": f"#/components/schemas/{schema}"}


def an_object(required: Schemas, optional: Schemas | None = None, **keywords: Any) -> Schema:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required), **keywords}


def a_list(items: Schema, **keywords: Any) -> Schema:
    return {"type": "array", "items": items, **keywords}


TEXT: Final[Schema] = {"type": "string"}
NUMBER: Final[Schema] = {"type": "number"}
INTEGER: Final[Schema] = {"type": "integer"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
BASE64: Final[Schema] = {"type": "string", "contentEncoding": "base64", "minLength": 1}
BINARY: Final[Schema] = {"type": "string", "format": "binary"}
# Files have no examples, since a JSON document cannot hold any.
IMAGE: Final[Schema] = {**BINARY, "description": "An encoded image, for instance docs/heart.jpg."}

HEADERS: Final = {
    "x-request-id": {"description": "The id of the request, also in the log; the client's, if it sent one."},
    "Server-Timing": {"description": "admission, preprocess, queue, inference, response, and their total, in ms."},
}
VERSION_HEADERS: Final = {
    MODEL_VERSION: {"description": "The version of the model that this is of."},
    PREPROCESSING_SPEC: {"description": "Digest of the spec by which that version makes its pixels."},
    CACHE: {"description": "hit, joined or miss; only of answers of a model that has a cache."},
}
HEADER_REFERENCES: Final[Schema] = {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS}
VERSION_REFERENCES: Final[Schema] = {name: {"$ref": f"#/components/headers/{name}"} for name in VERSION_HEADERS}


def components(schemas: Schemas) -> Schema:
    error = an_object({"error": TEXT, "code": TEXT, "request_id": TEXT})
    headers = {name: {**header, "schema": TEXT} for name, header in (HEADERS | VERSION_HEADERS).items()}
    return {"schemas": {"Error": error, **schemas}, "responses": responses(ERRORS), "headers": headers}


def responses(errors: Mapping[int, str]) -> Schema:
    return {
        str(status): {"description": text, "headers": HEADER_REFERENCES, "content": content(reference("Error"))}
        for status, text in errors.items()
    }
