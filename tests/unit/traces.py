"""Traces of this process, and a collector for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from deployments import tracing
from deployments.settings import Traces
from tests.awaiting import free_port
from tests.collector import Collector, running_collector


@dataclass(frozen=True)
class Replica:
    deployment: str = "Ingress"
    replica_tag: str = "replica-1"


# Of a client's span, sampled and not.
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


@contextmanager
def collected(sample_ratio: float = 1.0) -> Iterator[Collector]:
    """What the block does has spans, which are there once it has ended."""
    with running_collector(free_port()) as collector:
        tracing.start(Traces(endpoint=collector.endpoint, sample_ratio=sample_ratio), Replica())
        try:
            yield collector
        finally:
            tracing.stop()
