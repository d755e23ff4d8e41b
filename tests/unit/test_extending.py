"""docs/extending.md: each of its diffs fits the tree as it is, and its tests pass there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.check_config import check_config
from tests.documents import ROOT, blocks_in
from tests.unit.test_layers import violations

PAGE = "docs/extending.md"
COPIED = ("deployments", "configs", "examples", "scripts", "tests", "benchmarks", "graph.py", "pyproject.toml")
# Of the tests that were there, those that say whether a protocol is at home in the tree.
STANDING = ("tests/unit/test_authentication.py::test_every_route_says_which_scope_it_needs",)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with all that the page adds."""
    root = tmp_path_factory.mktemp("extended")
    ignored = shutil.ignore_patterns("__pycache__", "corpus", "node_modules")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, root / name)
    (weights,) = blocks_in(PAGE, "python")
    run(root, sys.executable, "-c", weights.text)
    for number, diff in enumerate(blocks_in(PAGE, "diff")):
        (root / f"{number}.patch").write_text(diff.text, encoding="utf-8")
        run(root, "git", "apply", f"{number}.patch")
    return root


def run(root: Path, *command: str) -> None:
    # git would apply a diff to the repository that it is in, wherever that is.
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(root.parent), "PYTHONPATH": str(root)}
    ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout}\n{ended.stderr}"


def files_of_the_diffs() -> list[str]:
    lines = [line for diff in blocks_in(PAGE, "diff") for line in diff.text.splitlines()]
    return [line.removeprefix("+++ b/") for line in lines if line.startswith("+++ b/")]


def test_what_the_page_adds_passes_its_own_tests_and_those_that_were_there(extended: Path) -> None:
    new = [path for path in files_of_the_diffs() if "/test_" in path and not (ROOT / path).exists()]
    assert len(new) == 3
    run(extended, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *new, *STANDING)


def test_what_the_page_adds_keeps_the_rule_of_imports(extended: Path) -> None:
    for path in files_of_the_diffs():
        if path.startswith("deployments/"):
            name = path.removesuffix(".py").replace("/", ".")
            assert violations(name, (extended / path).read_text(encoding="utf-8")) == []


def test_what_the_page_adds_is_written_as_the_rest(extended: Path) -> None:
    sources = [path for path in files_of_the_diffs() if path.endswith(".py")]
    run(extended, sys.executable, "-m", "ruff", "check", "--no-cache", *sources)
    run(extended, sys.executable, "-m", "ruff", "format", "--no-cache", "--check", *sources)


def test_the_config_with_the_new_model_is_valid(extended: Path) -> None:
    check_config(extended / "configs/local.yaml")
