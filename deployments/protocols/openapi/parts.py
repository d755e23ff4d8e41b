"""What the descriptions of all route families are made of."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deployments.messages import ModelInfo
from deployments.protocols.patience import TIMEOUT_HEADER

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
    404: "There is no such model, or no such version of it.",
    408: "There was no answer in time.",
    413: "The body is too large, or has too many images.",
    415: "The image has a format, or the body a coding, that is not accepted.",
    422: "The image is corrupt, too large in pixels, or otherwise refused.",
    424: "What an image URL names has not come.",
    500: "An internal error; the log has more under the request's id.",
    503: "The service has more requests than it can answer in time, or the model is still loading; try again.",
}
ANY_ROUTE: Final = (408, 413, 500, 503)
OF_A_MODEL: Final = (404, *ANY_ROUTE)
INFERENCE: Final = (400, 415, 422, *OF_A_MODEL)


@dataclass(frozen=True, slots=True)
class Models:
    """`example` is what the examples are for: the first warm model that takes encoded images, if there is one."""

    names: tuple[str, ...]
    example: ModelInfo | None

    @classmethod
    def of(cls, models: Mapping[str, ModelInfo | None]) -> "Models":
        warm = [info for info in models.values() if info is not None and "IMAGE" in info.inputs]
        return cls(tuple(models), warm[0] if warm else None)

    def parameter(self, where: str = "path") -> Schema:
        description = "By default the first." if where == "query" else ""
        schema = {"type": "string", "enum": list(self.names)}
        # A query without a model must stay an example, too.
        example = {"example": self.example.name} if self.example and where == "path" else {}
        return parameter("model", where, schema, description) | example

    def version(self, where: str = "path") -> Schema:
        schema = {"type": "string", "pattern": "^[0-9]{1,18}$"}
        example = {"example": str(self.example.version)} if self.example and where == "path" else {}
        return parameter("version", where, schema, "The one that is served.") | example


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
) -> Schema:
    """`answer`: the content of 200 by media type. `body`: of the request, by media type."""
    responses = {"200": {"description": "Success.", "headers": HEADER_REFERENCES, "content": answer}}
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
    "Server-Timing": {"description": "admission, preprocess, queue, inference and total, in milliseconds."},
}
HEADER_REFERENCES: Final = {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS}


def components(schemas: Schemas) -> Schema:
    error = an_object({"error": TEXT, "code": TEXT, "request_id": TEXT})
    headers = {name: {**header, "schema": TEXT} for name, header in HEADERS.items()}
    return {"schemas": {"Error": error, **schemas}, "responses": responses(ERRORS), "headers": headers}


def responses(errors: Mapping[int, str]) -> Schema:
    return {
        str(status): {"description": text, "headers": HEADER_REFERENCES, "content": content(reference("Error"))}
        for status, text in errors.items()
    }
