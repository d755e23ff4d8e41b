"""Asking all replicas of the graph what they have done in the last minute."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from deployments.hops import Handle
from deployments.live_figures import Polled

# Of a replica that hangs, and is replaced soon, nothing is told meanwhile.
ANSWER_TIMEOUT_S: Final = 1.0


class GraphPoll:
    """`ingress`: the handle of the replicas that call this, which is known once they serve."""

    def __init__(self, ingress: Callable[[], Handle], preprocessor: Handle, classifiers: Mapping[str, Handle]) -> None:
        self._ingress = ingress
        self._preprocessor = preprocessor
        self._classifiers = classifiers

    async def __call__(self, end: int) -> Polled:
        """Of the minute before `end`, seconds since 1970."""
        ingress = self._ingress()
        requests, *batches = await asyncio.gather(
            _answers(ingress, "requests_before", end),
            *(_answers(classifier, "batches_before", end) for classifier in self._classifiers.values()),
        )
        handles = {"Ingress": ingress, "Preprocessor": self._preprocessor, **self._classifiers}
        replicas = {name: running_replicas(handle) for name, handle in handles.items()}
        return Polled(requests, [counted for answers in batches for counted in answers], replicas)


def running_replicas(handle: Handle) -> int:
    """How many there are, by what Serve's controller has pushed to this process; nobody is asked."""
    # Serve has no public way to this: ray.serve._private.router.AsyncioRouter, Ray 2.60.
    router: Any = getattr(handle._router, "_asyncio_router", None)
    requests = getattr(router, "request_router", None)
    return 0 if requests is None else len(requests.curr_replicas)


async def _answers(handle: Handle, method: str, end: int) -> Sequence[Any]:
    """Of each replica; of none while any of them does not answer."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            answers: Sequence[Any] = await handle.broadcast(method, end).results_async()
    except Exception:  # Whatever Serve or Ray says of a replica that is going.
        return []
    return answers
