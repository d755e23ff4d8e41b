"""SECURITY.md names files and tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([^`\n]+)`", TEXT)
# Between backticks and with a folder of ours in front.
FILES = {name for name in NAMED if re.fullmatch(r"(deployments|scripts|configs|k8s|docs|tests)/[\w./-]+", name)}
TESTS = {name for name in NAMED if name.startswith("test_")}


def test_every_file_that_the_security_document_names_is_there() -> None:
    assert [name for name in sorted(FILES) if not (ROOT / name).is_file()] == []
    assert len(FILES) > 20


def test_every_test_that_the_security_document_names_is_there() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    defined = set(re.findall(r"^def (test_\w+)\(", "\n".join(sources), re.MULTILINE))
    assert sorted(TESTS - defined) == []
    assert len(TESTS) > 30


def test_every_row_names_where_and_by_which_test() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and "shown by" not in line]
    assert len(rows) > 15
    for row in rows:
        _, where, shown = row.strip("|").split(" | ")
        assert any(f"`{name}`" in where for name in FILES), row
        assert "`test_" in shown, row
