"""What the documents show in fences, and what a comment above a fence says of it.

<!-- run by tests/unit/test_extending.py -->    a test file, which runs the block
<!-- not run: needs a cluster -->               one of REASONS
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
DOCUMENTS: Final = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
FENCE: Final = re.compile(
    r"^(?:<!-- (?P<remark>[^\n]*?) -->\n+)?(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
RUN_BY: Final = "run by "
NOT_RUN: Final = "not run: "
# Commands that tests/graph/test_documents.py runs as they stand.
LIVE: Final = ("curl ", "jq ", ".venv/bin/python -m examples.clients.")
REASONS: Final = ("needs a cluster", "needs a GPU", "needs a download", "needs your own files", "takes minutes")


@dataclass(frozen=True)
class Block:
    document: str
    line: int
    language: str
    text: str
    # What stands in the comment above.
    remark: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @cached_property
    def commands(self) -> list[str]:
        """Of a shell: one an item, without comments, with what the next lines continue."""
        lines = [re.sub(r"(^|\s+)#.*", "", line) for line in self.text.replace("\\\n", " ").splitlines()]
        return [" ".join(line.split()) for line in lines if line.strip()]


def blocks_of(document: Path) -> list[Block]:
    text, name = document.read_text(encoding="utf-8"), document.relative_to(ROOT).as_posix()
    return [
        Block(
            name,
            text.count("\n", 0, match.start("text")),
            match["language"],
            re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE),
            match["remark"] or "",
        )
        for match in FENCE.finditer(text)
    ]


BLOCKS: Final = [block for document in DOCUMENTS for block in blocks_of(document)]


def blocks_in(document: str, language: str) -> list[Block]:
    return [block for block in BLOCKS if (block.document, block.language) == (document, language)]
