"""API keys at the door of every route and every RPC: what each needs, and where a request has its key.

    HTTP    Authorization: Bearer KEY, or x-api-key: KEY
    gRPC    the same, as metadata

What stands in neither table below needs the scope admin, so that a new route is closed until somebody says for whom it
is. A route is guarded where the router has matched it, and not by its path, which could be read in more than one way;
the body is not read before. Python handles, whose callers are in the Ray cluster already, need no key.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final, Protocol
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.access import AccessControl
from deployments.errors import Unauthenticated
from deployments.protocols.playground.pages import FILES
from deployments.records import current
from deployments.settings.keys import Key
from deployments.settings.keys import Scope as KeyScope

# Load balancers and orchestrators, which ask it, have no key; it tells them no more than whether to send requests.
OPEN_ROUTES: Final = frozenset({"/v2/health/live", "/v2/health/ready"})
OPEN_RPCS: Final = frozenset({"Check", "List", "Watch", "ServerLive", "ServerReady"})

_MODELS: Final = tuple(f"/v2/models/{{model}}{version}" for version in ("", "/versions/{version}", "/labels/{label}"))
# By the paths that the routes are declared with.
ROUTES: Final[dict[str, KeyScope]] = {
    # Names, labels and the load of models are for those who may use them, and so is the page that describes them.
    **dict.fromkeys(("/docs", "/docs/docs.js", "/docs/docs.css", "/docs/heart.jpg", "/openapi.json"), "read"),
    **dict.fromkeys(("/v2", "/v2/", "/v2/models/stats", "/v2/repository/index"), "read"),
    **dict.fromkeys(("/v2/models/{model}/comparison", "/playground/live"), "read"),
    **dict.fromkeys((path + suffix for path in _MODELS for suffix in ("", "/ready", "/config", "/stats")), "read"),
    **dict.fromkeys((f"/v2/repository/models/{{model}}/{action}" for action in ("load", "unload")), "admin"),
    **dict.fromkeys(("/v1/models/{model}", "/v1/models/{model}/metadata"), "read"),
    **dict.fromkeys(("/", "/predict", "/explain", *(f"{path}/infer" for path in _MODELS)), "classify"),
    **dict.fromkeys((f"/v1/models/{{model}}:{action}" for action in ("predict", "classify", "regress")), "classify"),
}
RPCS: Final[dict[str, KeyScope]] = {
    **dict.fromkeys(("ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"), "read"),
    **dict.fromkeys(("RepositoryIndex", "GetModelMetadata", "GetModelStatus"), "read"),
    **dict.fromkeys(("ModelInfer", "ModelStreamInfer", "Predict", "Classify"), "classify"),
    **dict.fromkeys(("Regress", "MultiInference"), "classify"),
}
ANY_OTHER: Final[KeyScope] = "admin"

# Who makes the request that is being handled, for the log.
caller: ContextVar[str] = ContextVar("caller", default="nobody who was asked")

# Of this process, while the Ingress is in it.
_at_the_edge: AccessControl | None = None


class Call(Protocol):
    """What is asked of a gRPC context."""

    def invocation_metadata(self) -> Sequence[tuple[str, str]]: ...
    def peer(self) -> str: ...


def is_open(method: str, path: str) -> bool:
    """Whether nobody is asked for a key by the route that is declared with `path`, for that method.

    GET / is the playground, and POST / infers (playground/pages.py says why the former is open).
    """
    return path in OPEN_ROUTES or (method in ("GET", "HEAD") and (path == "/" or path.startswith(FILES)))


def guarded(routes: Sequence[Route], access: AccessControl) -> list[Route]:
    """The same routes, each of which asks for a key first, but for those of health and of the playground's files."""
    for route in routes:
        if not all(is_open(method, route.path) for method in route.methods or [""]):
            route.app = _Guard(route.app, access, ROUTES.get(route.path, ANY_OTHER))
    return list(routes)


def admit_rpc(access: AccessControl, method: str, call: Call, requests: int = 1) -> None:
    """Raises Unauthenticated, Forbidden or QuotaExceeded for an RPC of that name that may not be."""
    if method in OPEN_RPCS:
        return
    # Whatever http_options.host says, Serve's gRPC servers listen on every interface (ray.serve._private.grpc_util).
    access.admit_peer(_host_of(call.peer()))
    metadata = call.invocation_metadata()
    key = access.admit(
        _presented(
            [value for key, value in metadata if key == "x-api-key"],
            [value for key, value in metadata if key == "authorization"],
        ),
        RPCS.get(method, ANY_OTHER),
        requests,
    )
    _name_caller(key)


def stand_at_the_edge(access: AccessControl) -> None:
    """From now on `stranger` asks there, in this process."""
    global _at_the_edge
    _at_the_edge = access


def stranger(scope: Scope) -> Unauthenticated | None:
    """Why an HTTP request will be refused wherever it goes, but for health; for whoever is asked before the router."""
    if _at_the_edge is None or not _at_the_edge.asks_for_keys:
        return None
    try:
        _at_the_edge.holder(_in_headers(scope))
    except Unauthenticated as refusal:
        return refusal
    return None


class _Guard:
    """The application of a route, for those who may use it."""

    def __init__(self, app: ASGIApp, access: AccessControl, scope: KeyScope) -> None:
        self._app = app
        self._access = access
        self._scope = scope

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _name_caller(self._access.admit(_in_headers(scope), self._scope))
        await self._app(scope, receive, send)


def _name_caller(key: Key | None) -> None:
    caller.set("a caller on this machine" if key is None else f"the API key {key.name}")
    current().key = None if key is None else key.name


def _in_headers(scope: Scope) -> Sequence[str]:
    headers = Headers(scope=scope)
    return _presented(headers.getlist("x-api-key"), headers.getlist("authorization"))


def _presented(keys: Sequence[str], authorizations: Sequence[str]) -> Sequence[str]:
    """What the request has for a key. x-api-key goes first, where Authorization may be meant for something in front."""
    if keys:
        return keys
    parted = [value.strip().partition(" ") for value in authorizations]
    return [credentials.strip() for scheme, _, credentials in parted if scheme.lower() == "bearer"]


def _host_of(peer: str) -> str:
    """Of gRPC's "ipv4:127.0.0.1:50051", "ipv6:%5B::1%5D:50051" or "unix:path", a socket of this machine."""
    family, _, address = peer.partition(":")
    if family == "unix":
        return "localhost"
    return unquote(address).rpartition(":")[0].strip("[]")
