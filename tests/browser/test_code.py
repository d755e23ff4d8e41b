"""The code that the page offers is a whole program each, and answers as the page does."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from tests.browser.playground import HEART, Visit


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the code is run, with its picture."""
    (tmp_path / "picture.jpg").write_bytes(HEART.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def codes(page: Visit) -> dict[str, str]:
    """By tab, for the best 3 of version 1; arrow keys lead from tab to tab."""
    page.page.get_by_label("Version").select_option("version 1")
    page.page.get_by_label("Show").select_option("best 3")
    codes = {}
    page.page.get_by_role("tab", name="curl").click()
    for _ in range(4):
        tab = page.page.get_by_role("tab", selected=True)
        assert tab.evaluate("tab => tab === document.activeElement")
        codes[tab.inner_text()] = page.page.get_by_role("tabpanel").inner_text()
        page.page.keyboard.press("ArrowRight")
    return codes


def test_each_code_names_the_picture(codes: dict[str, str], folder: Path) -> None:
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    curl = subprocess.run(codes["curl"], shell=True, capture_output=True, text=True, timeout=30)
    assert '"version":1,"predictions":[{"label":"heart"' in curl.stdout.replace(": ", ":").replace(", ", ","), (
        curl.stderr
    )
    handle = [sys.executable, "-c", codes["Ray handle"]]
    ended = subprocess.run(handle, env=environment, capture_output=True, text=True, timeout=60)
    printed = {"Ray handle": ended.stdout, **{name: output_of(codes[name]) for name in ("Python", "tritonclient")}}
    for name, text in printed.items():
        lines = [line.split() for line in text.splitlines()]
        assert [label for label, _ in lines][:1] == ["heart"], (name, text, ended.stderr)
        assert (len(lines), float(lines[0][1]) > 0.99) == (3, True), name


def output_of(code: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(code, {})
    return output.getvalue()


def test_the_code_is_copied_as_it_stands(page: Visit) -> None:
    page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.page.get_by_role("tab", name="Python").click()
    page.page.get_by_role("button", name="Copy").click()
    page.heard("Copied.")
    code = page.page.get_by_role("tabpanel").inner_text()
    assert page.page.evaluate("navigator.clipboard.readText()") == code
    compile(code, "copied", "exec")
