"""What `python -m scripts.prepare` leaves behind, and what it says when it cannot."""

from pathlib import Path

import pytest

from scripts import prepare

ROOT = Path(__file__).resolve().parents[2]
LOCAL = (ROOT / "configs/local.yaml").read_text()


def test_a_prepared_model_needs_nothing_built_at_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("APERTURE_CACHE", str(tmp_path / "cache"))
    config = tmp_path / "config.yaml"
    config.write_text(LOCAL.replace("engine: auto", "engine: torch"))

    assert prepare.main([str(config)]) == 0
    built = {path: path.stat().st_mtime_ns for path in _artefacts(tmp_path)}
    assert any(path.name.startswith("golden-") for path in built)
    assert any(path.name.startswith("passed-torch-fp32") for path in built)

    assert prepare.main([str(config)]) == 0
    assert {path: path.stat().st_mtime_ns for path in _artefacts(tmp_path)} == built


def test_a_model_that_cannot_be_served_is_one_sentence_and_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(LOCAL.replace("path: models/shapes", "path: models/squares"))
    assert prepare.main([str(config)]) == 1
    assert "The model directory 'models/squares' does not exist" in capsys.readouterr().err


def _artefacts(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").glob("shapes-*/*") if path.is_dir()]
