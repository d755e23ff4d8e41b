"""GET /openapi.json, and GET /docs: a page that renders it, with a form to try each operation.

The page is a few files of our own, since Swagger UI comes to Python only beside a web framework that nothing else here
needs (Flask, Django) or years old, is larger than the rest of the service, and asks for a weaker policy than this one:
nothing but these files is loaded or run, and requests go to this service alone.
"""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deployments.messages import DataPlane
from deployments.protocols.openapi.document import document
from deployments.protocols.openapi.parts import STATIC

FILES: Final = {"docs.js": "text/javascript", "docs.css": "text/css", "heart.jpg": "image/jpeg"}
# Content Security Policy Level 3. Trusted types: the script cannot turn text into markup, not even by mistake.
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def routes(plane: DataPlane, *, asks_for_keys: bool = False) -> list[Route]:
    async def openapi(request: Request) -> Response:
        root_path = request.scope.get("root_path", "")
        models = plane.ready_models()
        labels = {model: plane.labels_of(model) for model in models}
        content = document(models, labels, root_path, asks_for_keys=asks_for_keys)
        return Response(content, media_type="application/json", headers={"Cache-Control": "no-cache"})

    return [Route("/openapi.json", openapi), _static("/docs", "index.html", "text/html"), *_files()]


def _files() -> list[Route]:
    return [_static(f"/docs/{name}", name, media_type) for name, media_type in FILES.items()]


def _static(path: str, name: str, media_type: str) -> Route:
    # Read when the routes are made, so that no request waits for a disk.
    content = (STATIC / name).read_bytes()

    async def serve(request: Request) -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    return Route(path, serve)
