"""POST /, Hugging Face's convention, described."""

from typing import Any, Final

from deployments.protocols.openapi.parts import (
    BYTES,
    IMAGE,
    INFERENCE,
    NUMBER,
    PICTURE_BASE64,
    ROUTING,
    TEXT,
    TIMEOUT,
    Models,
    Paths,
    Schemas,
    a_list,
    an_object,
    content,
    operation,
    reference,
)

TAG: Final = "Hugging Face"
DESCRIPTION: Final = """An image as the whole body, or JSON with inputs: base64, a data URL, the URL of an image on a
host that the operator allows, or a list of these. If an image fails, so does the request."""


def paths(models: Models) -> Paths:
    parameters = {"top_k": 3, "function_to_apply": "sigmoid"}
    examples: dict[str, Any] = {
        "image": {"inputs": PICTURE_BASE64},
        "images": {"inputs": [PICTURE_BASE64, f"data:image/jpeg;base64,{PICTURE_BASE64}"], "parameters": parameters},
    }
    classify = operation(
        "imageClassification",
        TAG,
        "Labels and scores for images",
        content({"anyOf": [reference("Scores"), a_list(reference("Scores"))]}),
        (*INFERENCE, 424),
        parameters=[*models.in_query(), ROUTING, TIMEOUT],
        names_version=True,
        body=content(reference("Inputs"), **examples) | content(IMAGE, BYTES),
        description=DESCRIPTION,
    )
    return {"/": {"post": classify}}


def schemas() -> Schemas:
    image = {"type": "string", "minLength": 1}
    parameters: Schemas = {
        "top_k": {"type": ["integer", "null"], "minimum": 1},
        "function_to_apply": {"enum": ["softmax", "sigmoid", "none", None]},
    }
    return {
        "Inputs": an_object(
            {"inputs": {"anyOf": [image, a_list(image, minItems=1)]}}, {"parameters": an_object({}, parameters)}
        ),
        "Scores": a_list(an_object({"label": TEXT, "score": NUMBER})),
    }
