"""Images by URL: off by default, since a service that fetches what it is told to reaches where its clients cannot."""

from deployments.errors import ApertureError, BadRequest
from deployments.settings import ImageUrls


class Fetcher:
    def __init__(self, settings: ImageUrls | None, max_body_bytes: int) -> None:
        self._settings = settings
        self._max_body_bytes = max_body_bytes

    async def fetch(self, url: str) -> bytes | ApertureError:
        """The body that `url` answers with, or why it is not fetched."""
        return BadRequest("This service fetches no images; send the image itself.")
