"""Each block of the documents is run somewhere, parsed here, or marked with the reason why not."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import yaml

from deployments.repository import Manifest
from deployments.settings import LiveSettings, Settings
from tests.documents import BLOCKS, DOCUMENTS, LIVE, NOT_RUN, REASONS, ROOT, RUN_BY, Block

# Commands, the file that runs them, and how they are called there.
RUN_ELSEWHERE: Final = {
    "make check": (".ci/run", "make check"),
    "make test": (".ci/run", "make test"),
    "make serve": ("tests/commands/conftest.py", "scripts.serve"),
    ".venv/bin/python -m examples.finetune --data ~/flowers": ("tests/unit/test_training.py", "examples.finetune"),
    ".venv/bin/python -m scripts.api_key": ("tests/unit/test_access_keys.py", "api_key"),
    ".venv/bin/python -m examples.offline_batch": ("tests/unit/test_offline_batch.py", "offline_batch"),
    "make selftest": ("tests/graph/test_selftest.py", "selftest"),
    "make observe": ("tests/observability/test_observe.py", "make observe"),
    "RAY_AUTH_MODE=token .venv/bin/serve deploy": ("tests/commands/test_serve_command.py", '"deploy"'),
}
# Which no test runs, and why.
NOT_RUN_AT_ALL: Final = {
    "make serve CONFIG=configs/flowers.yaml": "needs your own files",
    "make serve CONFIG=configs/imagenet.yaml": "needs a download",
    "make serve CONFIG=configs/gpu.yaml": "needs a GPU",
    **dict.fromkeys(("make bench", "make chaos", ".venv/bin/python -m benchmarks.tune"), "takes minutes"),
}
READ: Final[dict[str, Callable[[object], object]]] = {
    "model.yaml": Manifest.model_validate,
    "user_config": LiveSettings.model_validate,
    "args": Settings.model_validate,
}
# Output, pictures and files that are shown.
SHOWN: Final = ("", "text", "mermaid", "diff")


def is_marked(block: Block) -> bool:
    return block.remark.startswith((RUN_BY, NOT_RUN))


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language and not is_marked(block)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_fence_is_seen(document: Path) -> None:
    fences = re.findall(r"^ *```", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len([block for block in BLOCKS if ROOT / block.document == document])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_what_is_named_in_a_line_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = set(re.findall(r"`make ([a-z-]+)", text))
    modules = set(re.findall(r"`(?:\S*\bpython )?-m ((?:scripts|benchmarks|examples|tests)(?:\.\w+)*)", text))
    there = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert targets - there == set()
    assert {module for module in modules if not is_module(module)} == set()


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_in_a_language_that_is_checked(block: Block) -> None:
    assert block.language in (*SHOWN, "sh", "python", "json", "yaml")
    # What could be typed is not hidden in a block of no language.
    assert block.language or not re.search(r"^(\$|make|curl|kubectl|pip|\.venv)\b", block.text, re.MULTILINE)


@pytest.mark.parametrize("block", [block for block in BLOCKS if is_marked(block)], ids=str)
def test_what_a_mark_says_is_so(block: Block) -> None:
    if block.remark.startswith(NOT_RUN):
        assert block.remark.removeprefix(NOT_RUN) in REASONS
        return
    # The test reads the page, so that a block that is changed is what it runs.
    runner = ROOT / block.remark.removeprefix(RUN_BY)
    named = runner.read_text(encoding="utf-8") if runner.suffix == ".py" else ""
    assert block.document in named or block.commands == [f".venv/bin/python -m pytest {runner.relative_to(ROOT)}"]


@pytest.mark.parametrize("block", of("sh"), ids=str)
def test_every_command_is_run_somewhere_or_says_why_not(block: Block) -> None:
    unknown = [command for command in block.commands if not (command.startswith(LIVE) or is_known(command))]
    assert unknown == []


def is_known(command: str) -> bool:
    # The longest is the one that is meant: `make serve CONFIG=configs/gpu.yaml`, and not `make serve`.
    known = [start for start in (*RUN_ELSEWHERE, *NOT_RUN_AT_ALL) if f"{command} ".startswith(f"{start} ")]
    return bool(known) and (max(known, key=len) in RUN_ELSEWHERE or NOT_RUN_AT_ALL[max(known, key=len)] in REASONS)


@pytest.mark.parametrize(("command", "where"), RUN_ELSEWHERE.items(), ids=list(RUN_ELSEWHERE))
def test_a_command_that_is_run_elsewhere_is_run_there(command: str, where: tuple[str, str]) -> None:
    path, called = where
    assert called in (ROOT / path).read_text(encoding="utf-8"), command


def test_no_list_of_commands_is_longer_than_the_documents() -> None:
    shown = [f"{command} " for block in BLOCKS if block.language == "sh" for command in block.commands]
    named = [*RUN_ELSEWHERE, *NOT_RUN_AT_ALL]
    assert [start for start in named if not any(command.startswith(f"{start} ") for command in shown)] == []


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_settings_are_valid_and_say_in_their_first_line_what_they_are(block: Block) -> None:
    first, _, content = block.text.partition("\n")
    READ[first.removeprefix("# ")](yaml.safe_load(content))
