"""Loading and unloading models by request, described: protocols/admin.py."""

from typing import Final

from deployments.protocols.openapi.oip import TAG
from deployments.protocols.openapi.parts import OF_A_MODEL, Models, Paths, Schemas, an_object, content, operation

LOAD: Final = """Looks again at the model's directory, and at versions that have failed; the answer comes once what is
wanted is announced. Only where the operator lets requests change models; elsewhere it is 404."""
UNLOAD: Final = """Gives up all versions of the model until it is loaded again. Only where the operator lets requests
change models; elsewhere it is 404."""
ERRORS: Final = (400, 403, 415, *OF_A_MODEL)


def paths(models: Models) -> Paths:
    return {
        f"/v2/repository/models/{{model}}/{action}": {
            "post": _operation(models, f"{action}Model", summary, description, parameters)
        }
        for action, summary, description, parameters in (
            ("load", "Look again for versions of a model", LOAD, an_object({}, additionalProperties=False)),
            ("unload", "Give up a model", UNLOAD, an_object({}, {"unload_dependents": {}}, additionalProperties=False)),
        )
    }


def _operation(
    models: Models, name: str, summary: str, description: str, parameters: dict[str, object]
) -> dict[str, object]:
    body = content(an_object({}, {"parameters": parameters}), nothing={})
    described = operation(
        name, TAG, summary, {}, ERRORS, parameters=[models.parameter()], body=body, description=description
    )
    described["requestBody"]["required"] = False
    # As Triton has it: an answer without a body.
    del described["responses"]["200"]["content"]
    return described


def schemas() -> Schemas:
    return {}
