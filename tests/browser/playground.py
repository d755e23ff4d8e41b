"""The playground as those see it who use it: by labels, roles and words."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page

from tests.local_graph import ROOT

PICTURES = ROOT / "models/shapes/1/golden"
HEART = ROOT / "examples/pictures/heart.jpg"

# What a file manager or a screenshot tool hands to a page.
TRANSFER = """([event, name, type, content]) => {
  const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  const init = { bubbles: true, cancelable: true };
  const made = event === "paste"
    ? new ClipboardEvent("paste", { ...init, clipboardData: transfer })
    : new DragEvent(event, { ...init, dataTransfer: transfer });
  document.body.dispatchEvent(made);
}"""


class Visit:
    def __init__(self, page: Page) -> None:
        self.page = page

    def await_models(self) -> None:
        self.page.get_by_text("Give it a picture, and the answer stands here.").wait_for()

    def section(self, heading: str) -> Locator:
        return self.page.get_by_role("region", name=heading, exact=True)

    def sample(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def choose(self, *files: Path) -> None:
        self.page.get_by_label("Choose pictures").set_input_files(files)

    def hand_over(self, event: str, file: Path, media_type: str = "image/jpeg") -> None:
        """`event`: drop or paste."""
        content = base64.b64encode(file.read_bytes()).decode()
        self.page.evaluate(TRANSFER, [event, file.name, media_type, content])

    def panel(self, number: int = 0) -> Locator:
        """The answer of what was asked first, or of what stands beside it."""
        return self.section("Answer").get_by_role("article").nth(number)

    def predictions(self, number: int = 0) -> list[tuple[str, str]]:
        """Labels and probabilities as they are written, once they are there."""
        items = self.panel(number).locator("ol li")
        items.first.wait_for()
        return [(*item.splitlines(),) for item in items.all_inner_texts()]  # type: ignore[misc]

    def await_best(self, label: str) -> None:
        self.panel().locator("ol li").first.filter(has_text=label).wait_for()

    def failure(self) -> str:
        """What the page has against it, in words."""
        return self.page.get_by_role("alert").first.inner_text()

    def heard(self, pattern: str) -> None:
        """Waits until a screen reader is told so."""
        self.page.get_by_role("status").filter(has_text=re.compile(pattern)).wait_for(state="attached")

    def option_texts(self, label: str) -> list[str]:
        return self.page.get_by_label(label, exact=True).locator("option").all_inner_texts()

    def asked(self, path: str, doing: Any) -> Any:
        """The response to the request for `path` that `doing()` makes."""
        with self.page.expect_response(lambda response: f"/{path}" in response.url) as info:
            doing()
        return info.value


def stages_of(header: str) -> dict[str, float]:
    """Milliseconds by name, of Server-Timing."""
    parts = (entry.split(";dur=") for entry in header.split(", "))
    return {name: float(milliseconds) for name, milliseconds in parts}


def stored_in(page: Page) -> Any:
    """What the page has left in the browser."""
    return json.loads(
        page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])")
    )
