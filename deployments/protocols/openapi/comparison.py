"""GET /v2/models/{model}/comparison, described: protocols/comparison.py."""

from typing import Final, get_args

from deployments.protocols.comparison import PATH
from deployments.protocols.openapi.oip import TAG
from deployments.protocols.openapi.parts import (
    COUNT,
    NUMBER,
    OF_A_MODEL,
    TEXT,
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
from deployments.settings.promotion import Stage

DESCRIPTION: Final = """What each version has answered, and what a candidate version says of images that another one has
answered: agreement, differences, errors and latency, with the bounds of its promotion and what they make of it."""

STAGE: Final[Schema] = {"type": "string", "enum": list(get_args(Stage))}
QUANTILES: Final[Schema] = {"type": ["object", "null"], "additionalProperties": NUMBER}


def paths(models: Models) -> Paths:
    answer = content(reference("Comparison"))
    named = [models.parameter()]
    summary = "A candidate version beside the one that answers"
    return {
        PATH: {
            "get": operation(
                "modelComparison", TAG, summary, answer, OF_A_MODEL, parameters=named, description=DESCRIPTION
            )
        }
    }


def schemas() -> Schemas:
    trial = reference("Trial")
    return {
        "Comparison": an_object(
            {
                "model": TEXT,
                "versions": {"type": "object", "additionalProperties": reference("Served")},
                "trial": {"anyOf": [trial, {"type": "null"}]},
                "earlier": a_list(trial),
            }
        ),
        "Served": an_object({"images": COUNT, "errors": COUNT, "latency_ms": QUANTILES}),
        "Trial": an_object(
            {
                "stable": TEXT,
                "candidate": TEXT,
                "stage": STAGE,
                "configuration": TEXT,
                "mirrored": _mirrored(),
                "served": _of_both(reference("Served")),
            },
            {"verdict": {"anyOf": [_verdict(), {"type": "null"}]}},
        ),
    }


def _mirrored() -> Schema:
    bucket = an_object({"from": NUMBER, "to": NUMBER, "images": COUNT})
    disagreement = an_object({"sha256": TEXT, "stable": TEXT, "candidate": TEXT, "difference": NUMBER})
    return an_object(
        {
            "images": COUNT,
            "agreement": NUMBER,
            "difference": an_object({"mean": NUMBER, "greatest": NUMBER, "histogram": a_list(bucket)}),
            "unshared_labels": COUNT,
            "engine_ms": _of_both(QUANTILES),
            "errors": COUNT,
            "skipped": {"type": "object", "additionalProperties": COUNT},
            "worst": a_list(disagreement),
        }
    )


def _verdict() -> Schema:
    flag: Schema = {"type": "boolean"}
    figure = an_object({"name": TEXT, "value": NUMBER, "bound": NUMBER, "is_least": flag, "holds": flag})
    return an_object({"next": STAGE, "reason": TEXT, "min_requests": COUNT, "figures": a_list(figure)})


def _of_both(schema: Schema) -> Schema:
    return an_object({"stable": schema, "candidate": schema})
