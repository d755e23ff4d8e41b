"""The site of the documents: it builds without a warning, and asks nobody else for anything."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
# What a browser fetches without being asked to; `a` is a link, and may lead anywhere.
FETCHED: Final = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}
# Of <link>, these are for people and programs that ask.
NOT_FETCHED: Final = {"canonical", "next", "prev", "edit", "license"}
ELSEWHERE: Final = re.compile(r"^(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet, which has warnings neither counted nor said.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert built.returncode == 0, built.stderr
    return folder


class Fetches(HTMLParser):
    """The addresses that a page has a browser fetch."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.classes: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.classes |= set((given.get("class") or "").split())
        is_fetched = tag == "link" and given.get("rel") not in NOT_FETCHED
        self.found.append((given.get("href") if is_fetched else given.get(FETCHED.get(tag, ""))) or "")


def test_no_page_has_a_browser_fetch_anything_from_elsewhere(site: Path) -> None:
    pages = {page: Fetches(page) for page in site.rglob("*.html")}
    assert len(pages) > 20
    assert {found for page in pages.values() for found in page.found if ELSEWHERE.match(found)} == set()
    assert any(found.endswith(".js") for page in pages.values() for found in page.found)
    # The theme would fetch a library to draw these.
    assert {page.name for page, read in pages.items() if "mermaid" in read.classes} == set()


def test_no_style_and_no_picture_fetches_anything_from_elsewhere(site: Path) -> None:
    for path in [*site.rglob("*.css"), *site.rglob("*.svg")]:
        text = path.read_text(encoding="utf-8")
        addresses = re.findall(r"(?:url\(|@import\s+|(?:xlink:)?href=)[\"']?([^\"')\s]+)", text)
        assert [address for address in addresses if ELSEWHERE.match(address)] == [], path.name


def test_what_pages_link_to_outside_of_the_documents_is_in_the_site(site: Path) -> None:
    assert (site / "files/configs/production.yaml.txt").read_text() == (ROOT / "configs/production.yaml").read_text()
    assert "Reporting a vulnerability" in (site / "security.html").read_text()
