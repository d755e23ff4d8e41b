"""GET /, the playground, and its static files.

They are open without an API key where the service asks for keys. A browser cannot add a header to the page that it
opens, nor to the scripts that a page names, so behind a key nobody would see the field to type one into; and they are
the same for everybody, and say nothing of models, versions or load. What the page shows of these comes from routes that
do ask for a key, which is typed in, kept by the page's script alone, and sent as a header.

POST / is Hugging Face's (huggingface.py).
"""

import re
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from deployments.protocols.static_files import static_route

STATIC: Final = Path(__file__).parent / "static"
# Where the page, whose own address ends with a slash, looks for its files.
FILES: Final = "/playground/static/"
PAGE: Final = "index.html"


def routes() -> list[Route]:
    files = sorted(file for file in STATIC.rglob("*.*") if file.name != PAGE)
    return [
        static_route("/", STATIC / PAGE),
        _BarePrefix(),
        *(static_route(FILES + file.relative_to(STATIC).as_posix(), file) for file in files),
    ]


class _BarePrefix(Route):
    """The service's prefix without a slash behind, on which the page's addresses would be relative to what is above."""

    def __init__(self) -> None:
        super().__init__("/", _add_slash)
        self.path_regex = re.compile(r"\Z")


async def _add_slash(request: Request) -> Response:
    # Relative, since what is in front may have taken a part of the path away.
    return RedirectResponse(request.scope["root_path"].rpartition("/")[2] + "/")
