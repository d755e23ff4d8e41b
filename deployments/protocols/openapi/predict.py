"""POST /predict, described."""

from typing import Any, Final

from deployments.protocols.openapi.parts import (
    BASE64,
    BYTES,
    COUNT,
    IMAGE,
    INFERENCE,
    INTEGER,
    NUMBER,
    PICTURE_BASE64,
    ROUTING,
    TEXT,
    TIMEOUT,
    TOP_K,
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

DESCRIPTION: Final = """An image as the whole body, whatever its content type; several as the files of a form; or JSON.
JPEG, PNG, WebP, GIF, BMP and TIFF are decoded. A bad image among several has an error in its place, and the others are
answered. With "Accept: application/x-ndjson" there is one line for each image as soon as it is ready, with its index;
a last line with "done": true says that none is missing. Image URLs are fetched from hosts that the operator allows."""

# Two by two pixels, red, green and blue.
FLOATS: Final = [[[1, 0], [0, 1]], [[0, 1], [0, 1]], [[0, 0], [1, 0]]]


def paths(models: Models) -> Paths:
    predict = operation(
        "predict",
        "predict",
        "Labels for images",
        content({"anyOf": [reference("Predictions"), reference("Results"), reference("Logits")]})
        | content(TEXT, "application/x-ndjson"),
        (*INFERENCE, 424),
        parameters=[*models.in_query(), TOP_K, ROUTING, TIMEOUT],
        names_version=True,
        body=_bodies(),
        description=DESCRIPTION,
    )
    return {"/predict": {"post": predict}}


def _bodies() -> Schema:
    files = an_object({"file": a_list(IMAGE, minItems=1)})
    examples: dict[str, Any] = {
        "image": {"image": PICTURE_BASE64},
        "images": {"images": [PICTURE_BASE64, PICTURE_BASE64]},
        "floats": {"input_data": FLOATS},
    }
    return {
        **content(IMAGE, BYTES),
        **content(files, "multipart/form-data"),
        **content(reference("Images"), **examples),
    }


def schemas() -> Schemas:
    prediction = an_object({"label": TEXT, "index": COUNT, "probability": {"type": "number", "minimum": 0}})
    predictions = {"predictions": a_list(reference("Prediction"))}
    name = {"filename": {"type": ["string", "null"]}}
    common = {"model": TEXT, "version": INTEGER, "request_id": TEXT}
    url = {"type": "string", "format": "uri"}
    rows = a_list(a_list(NUMBER))
    forms = {
        "image": BASE64,
        "images": a_list(BASE64, minItems=1),
        "image_url": url,
        "image_urls": a_list(url, minItems=1),
        "input_data": {
            "description": "(3, H, W) or (N, 3, H, W) in [0, 1]",
            "anyOf": [a_list(rows, minItems=3, maxItems=3), a_list(a_list(rows, minItems=3, maxItems=3))],
        },
    }
    return {
        "Images": {"oneOf": [an_object({form: schema}) for form, schema in forms.items()]},
        "Prediction": prediction,
        "Predictions": an_object(common | predictions),
        "Results": an_object({**common, "results": a_list(reference("Result"))}),
        "Result": {"anyOf": [an_object(predictions, name), an_object({"error": TEXT, "code": TEXT}, name)]},
        "Logits": an_object({"output": a_list(a_list(NUMBER))}),
    }
