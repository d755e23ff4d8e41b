"""A hook of MkDocs (mkdocs.yml): folders in nav, pages that lie outside of docs/, and links to files of the repository.

A link that leaves docs/ leads to one of PAGES, or to a copy of the file in the site, so that the site is whole without
the repository. A file that is not there is an error, as a page would be.
"""

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = "docs"
PAGES: Final = {"SECURITY.md": "security.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# Not to other sites, and not within the page.
LINK: Final = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.nav = _without_folders(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    for page in [file for file in files if file.is_documentation_page()]:
        for target in LINK.findall(page.content_string):
            path = _in_repository(_source_of(page.src_uri), target)
            if not path.startswith(f"{DOCS}/") and path not in PAGES and (ROOT / path).is_file():
                copied = File.generated(config, _copy_of(path), abs_src_path=str(ROOT / path))
                if files.get_file_from_path(copied.src_uri) is None:
                    files.append(copied)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The text of the page with links as they are in the site."""
    source = _source_of(page.file.src_uri)
    return LINK.sub(lambda link: _leading(source, link[1]), markdown)


def _without_folders(nav: Any) -> Any:
    """`nav` with the pages of each folder, "name/", in place of it."""
    if isinstance(nav, list):
        return [_without_folders(item) for item in nav]
    if isinstance(nav, dict):
        return {title: _without_folders(item) for title, item in nav.items()}
    if not str(nav).endswith("/"):
        return nav
    return [page.relative_to(ROOT / DOCS).as_posix() for page in sorted((ROOT / DOCS / nav).glob("*.md"))]


def _source_of(page: str) -> str:
    """Where a page of the site lies in the repository."""
    return next((source for source, name in PAGES.items() if name == page), f"{DOCS}/{page}")


def _in_repository(source: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def _leading(source: str, target: str) -> str:
    """What a link of the file `source` to `target` is in the site."""
    path = _in_repository(source, target)
    in_site = PAGES.get(path) or (path.removeprefix(f"{DOCS}/") if path.startswith(f"{DOCS}/") else _copy_of(path))
    page = PAGES.get(source, source.removeprefix(f"{DOCS}/"))
    return posixpath.relpath(in_site, posixpath.dirname(page) or ".")


def _copy_of(path: str) -> str:
    # As text, which browsers show.
    return f"files/{path}.txt"
