"""The Open Inference Protocol's routes, described: those of oip/rest.py."""

from typing import Any, Final, get_args

from deployments.messages import State
from deployments.protocols.openapi.parts import (
    ANY_ROUTE,
    BINARY,
    BYTES,
    COUNT,
    INFERENCE,
    INTEGER,
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
    parameter,
    reference,
)
from deployments.protocols.tensors import OUTPUTS

TAG: Final = "Open Inference Protocol"
DESCRIPTION: Final = """Images as a tensor: IMAGE (base64 in JSON), PIXELS or INPUT, whichever the model announces.
The binary tensor extension is there: bytes of tensors follow the JSON, whose length the header says; 0 means that the
body is one image and nothing else."""

WRONG: Final = (400, *OF_A_MODEL)
FLAG: Final[Schema] = {"type": "boolean"}
PARAMETERS: Final[Schema] = {"type": "object"}


def paths(models: Models) -> Paths:
    return _server_paths() | _model_paths(models)


def _server_paths() -> Paths:
    def get(name: str, summary: str, schema: str, errors: tuple[int, ...] = ANY_ROUTE) -> Schema:
        return {"get": operation(name, TAG, summary, content(reference(schema)), errors)}

    body = content(an_object({}, {"ready": FLAG}), all={}, ready={"ready": True})
    index = operation(
        "repositoryIndex", TAG, "All models", content(reference("Index")), (400, 415, *ANY_ROUTE), body=body
    )
    index["requestBody"]["required"] = False
    ready = get("serverReady", "Whether every model is warm", "Ready")
    # Not an error: the same answer as with 200.
    ready["get"]["responses"]["503"] = {"description": "Not yet.", "content": content(_either("Ready"))}
    return {
        "/v2": get("server", "The service and its extensions", "Server"),
        "/v2/": get("serverWithSlash", "The same; the specification has both", "Server"),
        "/v2/health/live": get("serverLive", "Whether the service runs", "Live"),
        "/v2/health/ready": ready,
        "/v2/models/stats": get("allStatistics", "Statistics of all models", "Statistics"),
        "/v2/repository/index": {"post": index},
    }


def _model_paths(models: Models) -> Paths:
    routes: Paths = {}
    for suffix, name in zip(VERSIONS, ("", "Version", "Label"), strict=True):
        named, path = models.named(suffix), f"/v2/models/{{model}}{suffix}"

        def get(kind: str, summary: str, schema: str, named: list[Schema] = named, name: str = name) -> Schema:
            answer, names_version = content(reference(schema)), schema != "ModelReady"
            return {
                "get": operation(
                    f"model{name}{kind}", TAG, summary, answer, WRONG, parameters=named, names_version=names_version
                )
            }

        ready = get("Ready", "Whether it answers", "ModelReady")
        ready["get"]["responses"]["503"] = {"description": "Not yet.", "content": content(_either("ModelReady"))}
        routes |= {
            path: get("", "Tensors, labels, preprocessing and engine of a version, and the states of all", "Model"),
            f"{path}/ready": ready,
            f"{path}/config": get("Config", "The model as Triton's clients configure themselves by", "ModelConfig"),
            f"{path}/stats": get("Statistics", "What the model has done so far", "Statistics"),
            f"{path}/infer": {"post": _infer(f"model{name}Infer", models, named)},
        }
    return routes


def _infer(name: str, models: Models, named: list[Schema]) -> Schema:
    header = parameter("Inference-Header-Content-Length", "header", COUNT, "Length of the JSON before the bytes.")
    return operation(
        name,
        TAG,
        "Probabilities and logits for a tensor of images",
        content(reference("InferResponse")) | content(BINARY, BYTES),
        INFERENCE,
        parameters=[*named, header, ROUTING, TIMEOUT],
        names_version=True,
        body=content(reference("InferRequest"), **_examples(models)),
        description=DESCRIPTION,
    )


def _examples(models: Models) -> dict[str, Any]:
    if models.example is None:
        return {}
    image = {"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [PICTURE_BASE64]}
    best = {"name": OUTPUTS[0], "parameters": {"classification": 3}}
    return {"image": {"inputs": [image]}, "classes": {"id": "first", "inputs": [image], "outputs": [best]}}


def _either(schema: str) -> Schema:
    return {"anyOf": [reference(schema), reference("Error")]}


def schemas() -> Schemas:
    shape = a_list(INTEGER)
    tensor = an_object({"name": TEXT, "datatype": TEXT, "shape": shape})
    sent = an_object({"name": TEXT, "datatype": TEXT, "shape": shape}, {"data": {}, "parameters": PARAMETERS})
    asked = an_object({"name": {"type": "string", "enum": list(OUTPUTS)}}, {"parameters": PARAMETERS})
    duration = an_object({"count": COUNT, "ns": COUNT})
    return {
        "Server": an_object({"name": TEXT, "version": TEXT, "extensions": a_list(TEXT)}),
        "Live": an_object({"live": FLAG}),
        "Ready": an_object({"ready": FLAG}),
        "ModelReady": an_object({"name": TEXT, "ready": FLAG}),
        "Tensor": tensor,
        "Model": _model(),
        "ModelConfig": an_object(
            {"name": TEXT, "platform": TEXT, "backend": TEXT, "max_batch_size": COUNT}
            | {
                part: a_list(an_object({"name": TEXT, "data_type": TEXT, "dims": shape}))
                for part in ("input", "output")
            }
        ),
        "Duration": duration,
        "Statistics": an_object({"model_stats": a_list(_statistics())}),
        "Index": a_list(an_object({"name": TEXT, "version": TEXT, "state": TEXT, "reason": TEXT})),
        "InferRequest": an_object(
            {"inputs": a_list(sent, minItems=1, maxItems=1)},
            {"id": TEXT, "parameters": PARAMETERS, "outputs": a_list(asked)},
        ),
        "InferResponse": an_object(
            {"model_name": TEXT, "model_version": TEXT, "outputs": a_list(sent)}, {"id": TEXT, "parameters": PARAMETERS}
        ),
    }


def _model() -> Schema:
    protocol = {
        "name": TEXT,
        "versions": a_list(TEXT),
        "platform": TEXT,
        "inputs": a_list(reference("Tensor")),
        "outputs": a_list(reference("Tensor")),
    }
    state = {"type": "string", "enum": list(get_args(State))}
    own = {
        "version": TEXT,
        "device": TEXT,
        "precision": TEXT,
        "labels": a_list(TEXT),
        "preprocessing": {"type": "object"},
        "version_labels": {"type": "object", "additionalProperties": TEXT},
        "version_status": a_list(an_object({"version": TEXT, "state": state, "reason": TEXT})),
    }
    return an_object(protocol | own)


def _statistics() -> Schema:
    counts = {"last_inference": COUNT, "inference_count": COUNT, "execution_count": COUNT}
    durations = {"type": "object", "additionalProperties": reference("Duration")}
    return an_object(
        {
            "name": TEXT,
            "version": TEXT,
            **counts,
            "inference_stats": durations,
            "batch_stats": a_list({"type": "object"}),
        }
    )
