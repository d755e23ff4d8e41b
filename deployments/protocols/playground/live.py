"""GET /playground/live: what the service is doing now, for the strip of figures on the page.

    now_ms          when this was asked of the replicas, in milliseconds since 1970
    seconds         the last 60 whole seconds, the oldest first: requests that ended in each, and how many failed
    p50_ms, p99_ms  of the requests of that minute that did not fail, 6 % off at most; null if there are none
    batch_sizes     batches of that minute by how many images they had
    replicas        how many there are of each deployment

Of all replicas together; at most a second old. Requests are those for a model that there is; one has
failed if an image of it was not answered, whoever is to blame.
"""

from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.live_figures import LiveFigures

PATH = "/playground/live"


class Live(Protocol):
    async def figures(self) -> LiveFigures: ...


def routes(live: Live) -> list[Route]:
    async def figures(request: Request) -> Response:
        return JSONResponse(render(await live.figures()), headers={"Cache-Control": "no-store"})

    return [Route(PATH, figures)]


def render(figures: LiveFigures) -> dict[str, Any]:
    return {
        "now_ms": figures.now_ms,
        "seconds": [{"requests": second.requests, "failed": second.failed} for second in figures.seconds],
        "p50_ms": figures.p50_ms,
        "p99_ms": figures.p99_ms,
        "batch_sizes": {str(size): count for size, count in figures.batch_sizes.items()},
        "replicas": dict(figures.replicas),
    }
