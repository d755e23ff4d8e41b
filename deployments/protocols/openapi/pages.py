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
from deployments.protocols.static_files import static_route

FILES: Final = ("docs.js", "docs.css", "heart.jpg")


def routes(plane: DataPlane, *, asks_for_keys: bool = False) -> list[Route]:
    async def openapi(request: Request) -> Response:
        root_path = request.scope.get("root_path", "")
        models = plane.ready_models()
        labels = {model: plane.labels_of(model) for model in models}
        content = document(models, labels, root_path, asks_for_keys=asks_for_keys)
        return Response(content, media_type="application/json", headers={"Cache-Control": "no-cache"})

    return [
        Route("/openapi.json", openapi),
        static_route("/docs", STATIC / "index.html"),
        *(static_route(f"/docs/{name}", STATIC / name) for name in FILES),
    ]
