"""TensorFlow Serving's routes, described: those of tfserving/rest.py."""

from typing import Any, Final, get_args

from deployments.messages import State
from deployments.protocols.openapi.parts import (
    INFERENCE,
    NUMBER,
    OF_A_MODEL,
    PICTURE_BASE64,
    ROUTING,
    TEXT,
    TIMEOUT,
    VERSIONS,
    Models,
    Paths,
    Schema,
    Schemas,
    a_list,
    an_object,
    content,
    operation,
    reference,
)
from deployments.protocols.tensors import OUTPUTS

TAG: Final = "TensorFlow Serving"
PREDICT: Final = """Images as instances, each answered by itself, or as inputs, answered by tensors. An image is
{"b64": base64}, or nested lists: (H, W, 3) of integers from 0 to 255, or (3, crop, crop) of floats that the client has
normalised if its name is INPUT."""
STATE: Final[Schema] = {"type": "string", "enum": list(get_args(State))}
NO_REGRESSION: Final = "Always refused: the models classify."


def paths(models: Models) -> Paths:
    routes: Paths = {}
    for suffix, name in zip(VERSIONS, ("", "Version", "Label"), strict=True):
        named, path = models.named(suffix), f"/v1/models/{{model}}{suffix}"
        routes |= {
            f"{path}:predict": {"post": _post(f"tensorflow{name}Predict", "PredictRequest", models, named)},
            f"{path}:classify": {"post": _post(f"tensorflow{name}Classify", "ClassifyRequest", models, named)},
            f"{path}:regress": {"post": _regress(f"tensorflow{name}Regress", named)},
            path: {"get": _get(f"tensorflow{name}Status", "The states of versions", "VersionStatus", named)},
            f"{path}/metadata": {
                "get": _get(f"tensorflow{name}Metadata", "Its signature", "Metadata", named, names_version=True)
            },
        }
    return routes


def _get(name: str, summary: str, schema: str, named: list[Schema], *, names_version: bool = False) -> Schema:
    return operation(
        name,
        TAG,
        summary,
        content(reference(schema)),
        (400, *OF_A_MODEL),
        parameters=named,
        names_version=names_version,
    )


def _post(name: str, schema: str, models: Models, named: list[Schema]) -> Schema:
    is_predict = schema == "PredictRequest"
    return operation(
        name,
        TAG,
        "Probabilities and logits" if is_predict else "Labels with their probabilities",
        content(reference("PredictResponse" if is_predict else "ClassifyResponse")),
        INFERENCE,
        parameters=[*named, ROUTING, TIMEOUT],
        names_version=True,
        body=content(reference(schema), **(_examples(is_predict) if models.example else {})),
        description=PREDICT if is_predict else "",
    )


def _examples(is_predict: bool) -> dict[str, Any]:
    image = {"b64": PICTURE_BASE64}
    if not is_predict:
        return {"image": {"examples": [{"image/encoded": image}]}}
    return {
        "instances": {"instances": [image]},
        "inputs": {"inputs": {"IMAGE": [image, image]}},
        "pixels": {"instances": [[[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]]]},
    }


def _regress(name: str, named: list[Schema]) -> Schema:
    refused = operation(name, TAG, "Refused", {}, (400, *OF_A_MODEL), parameters=named, description=NO_REGRESSION)
    del refused["responses"]["200"]
    return refused


def schemas() -> Schemas:
    numbers = a_list(NUMBER)
    many = {"type": "array", "minItems": 1}
    signature = {"signature_name": TEXT}
    status = an_object(
        {"version": TEXT, "state": STATE, "status": an_object({"error_code": TEXT, "error_message": TEXT})}
    )
    each: Schemas = {name: numbers for name in OUTPUTS}
    together: Schemas = {name: a_list(numbers) for name in OUTPUTS}
    # prefixItems would say which is which, but tools still stumble over it.
    label_and_probability = a_list({"type": ["string", "number"]}, minItems=2, maxItems=2)
    return {
        "PredictRequest": {
            "oneOf": [
                an_object({"instances": many}, signature),
                an_object({"inputs": {"anyOf": [many, {"type": "object", "additionalProperties": many}]}}, signature),
            ]
        },
        "PredictResponse": {
            "anyOf": [
                an_object({"predictions": a_list(an_object(each))}),
                an_object({"outputs": an_object(together)}),
            ]
        },
        "ClassifyRequest": an_object(
            {"examples": a_list({"type": "object"}, minItems=1)}, {"context": {"type": "object"}, **signature}
        ),
        "ClassifyResponse": an_object({"results": a_list(a_list(label_and_probability))}),
        "VersionStatus": an_object({"model_version_status": a_list(status)}),
        "Metadata": an_object({"model_spec": {"type": "object"}, "metadata": {"type": "object"}}),
    }
