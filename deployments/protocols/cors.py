"""Cross-origin requests: pages of the origins in the settings may call the service from a browser, and no others.

Specified in fetch.spec.whatwg.org. Never with credentials that a browser adds by itself: an API key is a header that
the page sets. The middleware stands outside of everything else, since a preflight carries no key, and pages must be
able to read errors, too.
"""

from collections.abc import Sequence
from typing import Final

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

METHODS: Final = ("GET", "POST")
REQUEST_HEADERS: Final = (
    "Authorization",
    "Content-Encoding",
    "Inference-Header-Content-Length",
    "Traceparent",
    "Tracestate",
    "X-API-Key",
    "X-Request-ID",
    "X-Request-Timeout-Seconds",
    "X-Routing-Key",
)
RESPONSE_HEADERS: Final = (
    "Inference-Header-Content-Length",
    "Retry-After",
    "Server-Timing",
    "Traceresponse",
    "X-Model-Version",
    "X-Preprocessing-Spec",
    "X-Request-ID",
)
# Of a preflight's answer; a change of the settings is noticed after so long.
MAX_AGE_S: Final = 600


def cross_origin(origins: Sequence[str]) -> list[Middleware]:
    """Nothing without origins, so that browsers let no other page read an answer."""
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=tuple(origins),
            allow_methods=METHODS,
            allow_headers=REQUEST_HEADERS,
            expose_headers=RESPONSE_HEADERS,
            max_age=MAX_AGE_S,
        )
    ]
