"""What the document says of API keys, where the service asks for them (authentication.py)."""

from typing import Any, Final

from deployments.protocols.authentication import OPEN_ROUTES
from deployments.protocols.openapi.parts import responses

SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
ERRORS: Final = {
    401: "The request has no API key, or one that the service does not know.",
    403: "The API key is good, but lacks the scope that this needs.",
    429: "The API key is over its rate; Retry-After says when to try again.",
}


def ask_for_keys(content: dict[str, Any]) -> None:
    """Changes the document `content` into that of a service that asks for keys everywhere but at its health."""
    content["security"] = [{name: []} for name in SCHEMES]
    content["components"]["securitySchemes"] = SCHEMES
    content["components"]["responses"] |= responses(ERRORS)
    for path, operations in content["paths"].items():
        for operation in operations.values():
            if path in OPEN_ROUTES:
                operation["security"] = []
            else:
                operation["responses"] |= {str(s): {"$ref": f"#/components/responses/{s}"} for s in ERRORS}
