"""docs/models.md shows settings that are valid, each by what its first line says that it is."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from deployments.repository import Manifest
from deployments.settings import LiveSettings, Settings

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/models.md").read_text()
BLOCKS = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
READ: dict[str, Callable[[object], object]] = {
    "model.yaml": Manifest.model_validate,
    "user_config": LiveSettings.model_validate,
    "args": Settings.model_validate,
}


@pytest.mark.parametrize(("kind", "block"), BLOCKS)
def test_what_the_page_shows_is_valid(kind: str, block: str) -> None:
    READ[kind](yaml.safe_load(block))


def test_every_block_of_the_page_says_what_it_is() -> None:
    assert len(BLOCKS) == DOCUMENT.count("```yaml") > 0
