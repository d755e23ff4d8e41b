"""TensorFlow Serving's REST messages, specified in its document api_rest.md: requests to images, answers to JSON.

    {"instances": [each, ...]}         {"predictions": [{"PROBABILITIES": [...], "LOGITS": [...]}, ...]}
    {"inputs": {NAME: [each, ...]}}    {"outputs": {"PROBABILITIES": [[...], ...], "LOGITS": [[...], ...]}}
    {"inputs": [each, ...]}            likewise
    {"examples": [{FEATURE: value}]}   {"results": [[[label, probability], ...], ...]}, the most probable first

Each is {"b64": base64} of an encoded image, or nested lists: (H, W, 3) of integers from 0 to 255, or, if its name is
INPUT, (3, crop, crop) of floats that the client has normalised. Among instances its name is {NAME: each}, or left out.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from deployments.errors import BadRequest
from deployments.messages import Answer, DataPlane, ImageInput, ModelInfo
from deployments.protocols.json_bodies import array_of, parse_object, quoted
from deployments.protocols.json_images import image_of
from deployments.protocols.oip.inference import check_names
from deployments.protocols.tensors import best, images_from, output_values
from deployments.protocols.tfserving.grpc import IMAGE_FEATURE
from deployments.protocols.tfserving.signature import check_signature, input_of

# How the images were sent, in the key of the request and in the shape of the answer.
FORMATS: Final = ("instances", "inputs")

Named = tuple[str | None, object]  # an input's name, if it has one, and its value


async def parse_predict(body: bytes, plane: DataPlane, info: ModelInfo) -> tuple[str, list[ImageInput]]:
    """The format and the images. Raises BadRequest or TooManyImages."""
    fields = _fields(body, " or ".join(FORMATS))
    formats = [key for key in FORMATS if key in fields]
    if len(formats) != 1:
        raise BadRequest(
            f"A request has either instances or inputs; this one has {' and '.join(formats) or 'neither'}."
        )
    (form,) = formats
    values = _values(form, fields[form])
    plane.check_count(len(values))
    images = []
    for number, value in enumerate(values):
        name, value = _named(f"instances[{number}]", value) if form == "instances" else value
        images.append(_image(name, value, f"{form}[{number}]", info))
        if isinstance(value, list):
            await asyncio.sleep(0)  # Lists take up to 15 ms each, and others are waiting.
    return form, images


def parse_classify(body: bytes, plane: DataPlane, info: ModelInfo) -> list[ImageInput]:
    """The images of the examples. Raises BadRequest or TooManyImages."""
    check_names(["IMAGE"], info)
    fields = _fields(body, "examples")
    examples, context = fields.get("examples"), fields.get("context", {})
    if not isinstance(examples, list) or not examples:
        raise BadRequest("examples must be a list with at least one example.")
    if not isinstance(context, dict):
        raise BadRequest(f"context must be an object with features, not {quoted(context)}.")
    plane.check_count(len(examples))
    return [_image_of_example(example, context, number) for number, example in enumerate(examples)]


def render_predict(form: str, answers: Sequence[Answer]) -> dict[str, Any]:
    """With float32 arrays in place of lists."""
    values = {name: output_values(name, answers) for name in answers[0].info.outputs}
    if len(values) == 1:  # Its name is left out.
        (only,) = values.values()
        return {"outputs" if form == "inputs" else "predictions": only}
    if form == "inputs":
        return {"outputs": values}
    return {"predictions": [{name: values[name][row] for name in values} for row in range(len(answers))]}


def render_classify(answers: Sequence[Answer]) -> dict[str, Any]:
    return {"results": [_classes(answer) for answer in answers]}


def _fields(body: bytes, content: str) -> dict[str, Any]:
    fields = parse_object(body, content)
    signature = fields.get("signature_name", "")
    if not isinstance(signature, str):
        raise BadRequest(f"signature_name must be a string, not {quoted(signature)}.")
    check_signature(signature)
    return fields


def _values(form: str, content: object) -> list[Any]:
    """Instances as they are; inputs with the name that all of them have."""
    name: str | None = None
    if form == "inputs" and isinstance(content, dict):
        if len(content) != 1:
            raise BadRequest(f"inputs has one name with its values; this one has {len(content)}.")
        ((name, content),) = content.items()
    if not isinstance(content, list) or not content:
        where = form if name is None else f"inputs[{quoted(name)}]"
        raise BadRequest(f"{where} must be a list with at least one image, not {quoted(content)}.")
    return content if form == "instances" else [(name, value) for value in content]


def _named(where: str, instance: object) -> Named:
    if not isinstance(instance, dict) or "b64" in instance:
        return None, instance
    if len(instance) != 1:
        raise BadRequest(f"{where} must have one input by its name; it has {len(instance)}.")
    ((name, value),) = instance.items()
    return name, value


def _image(name: str | None, value: object, where: str, info: ModelInfo) -> ImageInput:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        (value,) = value  # A tensor of shape (N, 1).
    if isinstance(value, dict):
        input_of(name or "IMAGE", "DT_STRING", info)
        return _decoded(value, where)
    if not isinstance(value, list):
        raise BadRequest(f'{where} must be {{"b64": ...}} or nested lists of numbers, not {quoted(value)}.')
    is_prepared = "PIXELS" not in info.inputs if name is None else name.upper() == "INPUT"
    own_name, dtype, element = ("INPUT", "DT_FLOAT", np.float32) if is_prepared else ("PIXELS", "DT_UINT8", np.uint8)
    input_name = input_of(name or own_name, dtype, info)
    (image,) = images_from(input_name, array_of(value, element, where)[None], info)
    return image


def _decoded(value: Mapping[str, object], where: str) -> bytes:
    if value.keys() != {"b64"}:
        raise BadRequest(f'{where} must be an object with the key "b64" alone.')
    return image_of(value["b64"], f'{where}["b64"]')


def _image_of_example(example: object, context: Mapping[str, object], number: int) -> ImageInput:
    where = f"examples[{number}]"
    if not isinstance(example, dict):
        raise BadRequest(f"{where} must be an object with features, not {quoted(example)}.")
    features = {**context, **example}
    if IMAGE_FEATURE in features:
        features = {IMAGE_FEATURE: features[IMAGE_FEATURE]}
    found = [value for feature in features.values() for value in _bytes_in(feature)]
    if len(found) != 1:
        raise BadRequest(
            f'{where} must have one image as {{"b64": ...}} in the feature {IMAGE_FEATURE!r}, or in its only feature '
            f"of bytes."
        )
    return _decoded(found[0], where)


def _bytes_in(feature: object) -> list[dict[str, Any]]:
    values = feature if isinstance(feature, list) else [feature]
    return [value for value in values if isinstance(value, dict)]


def _classes(answer: Answer) -> list[tuple[str, float]]:
    labels, probabilities = answer.info.labels, answer.probabilities
    return [(labels[index], float(probabilities[index])) for index in best(probabilities, len(labels))]
