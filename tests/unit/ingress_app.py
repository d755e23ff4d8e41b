"""The real Ingress' own application, in front of bytes: HTTP without a graph behind."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

from starlette.applications import Starlette

from deployments.access import AccessControl
from deployments.administration import ModelAdmin
from deployments.ingress import Ingress
from deployments.live_figures import LiveView, Polled
from deployments.recent import RecentRequests
from deployments.settings import Access, Pages
from tests.unit.bytes_plane import BytesPlane


async def nothing_yet(end: int) -> Polled:
    """Of one replica that has answered nothing."""
    return Polled([RecentRequests().minute_before(end)], [Counter()], {"Ingress": 1, "Preprocessor": 1, "shapes": 1})


class StartingPlane(BytesPlane):
    # Everything is admitted.
    door = None

    def start(self) -> None:
        """Nothing has to be awaited."""


def service(
    plane: BytesPlane | None = None, pages: Pages | None = None, access: AccessControl | None = None
) -> Starlette:
    """Needs a running event loop if the keys of `access` are in a file, which is followed."""
    ingress = SimpleNamespace(
        plane=plane or StartingPlane(),
        _pages=pages or Pages(),
        access=access or AccessControl(Access()),
        admin=ModelAdmin({}, {}, lambda model: asyncio.sleep(0), enabled=False),
        live=LiveView(nothing_yet),
    )
    return Ingress.__serve_build_asgi_app__(cast("Any", ingress))
