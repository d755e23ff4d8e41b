"""At which precision a model runs when that is left open, or when what was named does not pass."""

import shutil
from pathlib import Path

import pytest

from deployments.engines import create_engine
from deployments.engines.artefacts import Artefacts
from deployments.errors import ConfigError
from tests.unit.kinds import Registry, coarse, running, settings, wrong
from tests.unit.sentences import sentence_of

pytestmark = pytest.mark.usefixtures("own_cache")


def test_auto_stays_at_fp32_unless_it_is_told_otherwise(tiny_path: Path, registry: Registry, photographs: Path) -> None:
    registry.add("openvino", precisions=("bf16",))
    registry.add("torch", batch_s=2)
    assert running(settings(tiny_path, golden=str(photographs))) == "torch fp32"
    assert running(settings(tiny_path, golden=str(photographs), precision="auto")) == "openvino bf16"


def test_auto_goes_below_fp32_only_within_tolerance(tiny_path: Path, registry: Registry, photographs: Path) -> None:
    registry.add("openvino", coarse, precisions=("bf16",))
    registry.add("torch", batch_s=2)
    asked_for = {"golden": str(photographs), "precision": "auto"}
    loose, tight = {"max_probability_difference": 0.5}, {"max_probability_difference": 1e-4}
    assert running(settings(tiny_path, **asked_for, tolerance=loose)) == "openvino bf16"
    assert running(settings(tiny_path, **asked_for, tolerance=tight)) == "torch fp32"


def test_auto_does_not_go_below_fp32_without_golden_images(tiny_path: Path, registry: Registry) -> None:
    registry.add("openvino", precisions=("bf16",))
    registry.add("torch", batch_s=2)
    assert running(settings(tiny_path, precision="auto")) == "torch fp32"


def test_a_named_engine_is_measured_at_its_own_precisions_only(
    tiny_path: Path, registry: Registry, photographs: Path
) -> None:
    registry.add("openvino")
    registry.add("torch", precisions=("fp32", "bf16"))
    create_engine(settings(tiny_path, engine="torch", precision="auto", golden=str(photographs)))
    assert set(registry.built()) == {"torch fp32", "torch bf16"}


def test_a_named_precision_that_no_engine_keeps_to_ends_in_fp32_or_in_one_sentence(
    tiny_path: Path, registry: Registry, photographs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.add("openvino", wrong, precisions=("bf16",))
    registry.add("torch")
    asked_for = {"golden": str(photographs), "precision": "bf16"}
    sentence = sentence_of(lambda: create_engine(settings(tiny_path, **asked_for, on_refusal="fail")))
    assert "openvino bf16 of model 'shapes' is refused" in sentence
    assert running(settings(tiny_path, **asked_for)) == "torch fp32"
    assert sentence in caplog.messages


def test_a_precision_that_no_installed_engine_has_is_refused(tiny_path: Path, registry: Registry) -> None:
    registry.add("torch")
    sentence = sentence_of(lambda: create_engine(settings(tiny_path, precision="fp16")))
    for words in ("No engine that is installed", "'shapes' on cpu", "precision 'fp16'"):
        assert words in sentence


def test_int8_is_refused_with_the_count_of_images_where_they_are_too_few(
    tiny_path: Path, registry: Registry, photographs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.add("torch")
    registry.add("openvino", precisions=("int8",), before=Artefacts.calibration_pixels)
    assert running(settings(tiny_path, precision="auto", golden=str(photographs))) == "torch fp32"
    asked_for = settings(tiny_path, engine="openvino", precision="int8", golden=str(photographs))
    with pytest.raises(ConfigError, match="at least 200 images to find its ranges, and model 'shapes' has 12"):
        create_engine(asked_for)


def test_other_calibration_images_are_judged_anew(
    tiny_path: Path, registry: Registry, photographs: Path, tmp_path: Path
) -> None:
    calibration = tmp_path / "calibration"
    shutil.copytree(photographs, calibration)
    registry.add("torch")
    registry.add("openvino", precisions=("int8",))
    asked_for = settings(tiny_path, precision="auto", golden=str(photographs), calibration=str(calibration))
    for _ in range(2):
        create_engine(asked_for)
    assert len(registry.built()) == 4  # Two that are measured, and the one that serves, twice.
    (calibration / "00.png").unlink()
    create_engine(asked_for)
    assert len(registry.built()) == 3
