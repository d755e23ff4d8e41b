"""What the selftest cannot test it does not begin to test: status 2, and a sentence."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.selftest.__main__ import main
from deployments.access import AccessControl
from deployments.settings import Access
from deployments.settings.keys import Key, digest_of, new_key
from tests.awaiting import free_port
from tests.unit.small_service import SeeingPlane, application, listening


@pytest.fixture(scope="module")
def good() -> Iterator[str]:
    with listening(application(SeeingPlane())) as url:
        yield url


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "cats"], "no model 'cats'"),
        (["--model", "cats\r\nx-api-key: a"], "no model 'cats"),
        (["--only", "cats"], "no topic"),
        (["--budget-s", "0"], "positive"),
        (["--expect", "/nowhere/expected.json"], "cannot be read"),
        (["--grpc", "here"], "HOST:PORT"),
        (["--api-key-env", "NO_SUCH_VARIABLE"], "an API key and nothing else"),
    ],
)
def test_wrong_arguments_end_with_two_and_a_sentence(
    good: str, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--url", good, *arguments]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"a.png": 1}', "JSON object"),
        ("[", "as JSON"),
        ("{}", "0 pictures"),
        ('{"a.png": "red"}', "cannot be read"),
    ],
)
def test_wrong_expectations_end_with_two_and_a_sentence(
    good: str, content: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "expected.json").write_text(content)
    assert main(["--url", good, "--expect", str(tmp_path / "expected.json")]) == 2
    assert sentence in capsys.readouterr().err


def test_nobody_there_ends_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", f"http://127.0.0.1:{free_port()}"]) == 2
    assert "does not answer" in capsys.readouterr().err


def test_without_the_key_that_a_service_asks_for_nothing_is_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LINES", Key("test", digest_of(new_key())).line())
    (tmp_path / "key").write_text("aperture_wrong\n")
    with listening(application(SeeingPlane(), AccessControl(Access(keys_env="LINES")))) as url:
        assert main(["--url", url]) == 2
        assert "give --api-key-env or --key-file" in capsys.readouterr().err
        assert main(["--url", url, "--key-file", str(tmp_path / "key")]) == 2
        assert "does not accept this API key" in capsys.readouterr().err


def test_another_machine_is_left_alone_unless_told_otherwise(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    # Of a network for documentation (RFC 5737).
    for arguments in (["--url", "http://192.0.2.1:8000"], ["--url", good, "--grpc", "192.0.2.1:9000"]):
        assert main(arguments) == 2
        assert "--allow-remote" in capsys.readouterr().err
