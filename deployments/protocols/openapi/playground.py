"""POST /explain and GET /playground/live, described: protocols/explain.py and protocols/playground/live.py."""

from typing import Final

from deployments.protocols.explain import PATH as EXPLAIN
from deployments.protocols.openapi.parts import (
    BYTES,
    COUNT,
    IMAGE,
    INFERENCE,
    INTEGER,
    NUMBER,
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
    parameter,
    reference,
)
from deployments.protocols.playground.live import PATH as LIVE
from deployments.recent import MINUTE_S

TAG: Final = "playground"
EXPLANATION: Final = """The predictions for an image, and a heat map: where in it the network finds what speaks for one
class (Grad-CAM on its last feature map), by default the best one. Versions that are torch networks with their weights
have them, whatever engine answers; others answer 409. One is made at a time by each replica, in what time real
requests leave; while it is, others get 503. An operator may switch heat maps off, which is 404."""
FIGURES: Final = """The last minute of all replicas together, at most a second old: requests that reached a model by the
second in which they ended, latencies of those that did not fail, batches by size; and how many replicas there are."""


def paths(models: Models) -> Paths:
    index = parameter("index", "query", {"type": "integer", "minimum": 0, "maximum": 999_999_999}, "Of a class.")
    explain = operation(
        "explain",
        TAG,
        "Where in an image a class was found",
        content(reference("Explanation")),
        (*INFERENCE, 409),
        parameters=[*models.in_query(), TOP_K, index, ROUTING, TIMEOUT],
        names_version=True,
        body=content(IMAGE, BYTES),
        description=EXPLANATION,
    )
    live = operation(
        "liveFigures", TAG, "What the service is doing", content(reference("LastMinute")), description=FIGURES
    )
    return {EXPLAIN: {"post": explain}, LIVE: {"get": live}}


def schemas() -> Schemas:
    share: Schema = {"type": "number", "minimum": 0, "maximum": 1}
    heat = an_object({"height": COUNT, "width": COUNT, "values": a_list(a_list(share))})
    area = an_object(dict.fromkeys(("top", "left", "height", "width"), NUMBER))
    quantile: Schema = {"type": ["number", "null"]}
    counts: Schema = {"type": "object", "additionalProperties": COUNT}
    second = an_object({"requests": COUNT, "failed": COUNT})
    return {
        "Explanation": an_object(
            {
                "model": TEXT,
                "version": INTEGER,
                "predictions": a_list(reference("Prediction")),
                "label": TEXT,
                "index": COUNT,
                "heat": heat,
                "area": {"anyOf": [area, {"type": "null"}]},
                "request_id": TEXT,
            }
        ),
        "LastMinute": an_object(
            {
                "now_ms": COUNT,
                "seconds": a_list(second, minItems=MINUTE_S, maxItems=MINUTE_S),
                "p50_ms": quantile,
                "p99_ms": quantile,
                "batch_sizes": counts,
                "replicas": counts,
            }
        ),
    }
