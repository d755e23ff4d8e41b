"""What the service tells of each request, and to whom; counters and histograms are always there (metrics.py)."""

from typing import Annotated

from pydantic import Field

from deployments.settings.frozen import Frozen

# Of a collector, without a query: what follows the scheme and the host is OTLP's own.
Endpoint = Annotated[str, Field(pattern=r"^https?://[^/?#\s@]+(/[^?#\s@]*)?$")]


class Traces(Frozen):
    """Where spans go, by OTLP over HTTP ("http://127.0.0.1:4318"), and for how many of the requests there are any."""

    # The collector's address.
    endpoint: Endpoint
    # Of requests that bring no trace context of their own; one that does has decided already.
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0


class Telemetry(Frozen):
    """What is told of each request; metrics, which count all of them, are always there."""

    # A line of JSON in the log of the Ingress for each request: never an image, or anything out of its file.
    request_log: bool = True
    # null: no spans, and no cost.
    traces: Traces | None = None
