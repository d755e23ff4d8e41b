"""Which engine a named one ends in: itself, the next one with the figures in the log, or one sentence."""

import logging
from pathlib import Path

import pytest

from deployments.engines import create_engine
from deployments.errors import ConfigError
from deployments.settings import ModelSettings
from tests.unit.kinds import Registry, coarse, running, settings, wrong
from tests.unit.sentences import sentence_of

pytestmark = pytest.mark.usefixtures("own_cache")


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# What was asked for


def test_a_named_engine_that_passes_is_the_one_that_runs(tiny_path: Path, registry: Registry) -> None:
    for name in ("openvino", "onnxruntime", "torch"):
        registry.add(name)
    assert running(settings(tiny_path, engine="onnxruntime")) == "onnxruntime fp32"
    assert registry.built() == ["onnxruntime fp32"]


def test_a_named_engine_runs_where_auto_does_not_consider_it(tiny_path: Path, registry: Registry) -> None:
    registry.add("torch")
    registry.add("torch-compile", automatic=False)
    assert running(settings(tiny_path, engine="torch-compile")) == "torch-compile fp32"


def test_a_lower_precision_within_tolerance_runs(tiny_path: Path, registry: Registry, photographs: Path) -> None:
    registry.add("torch", coarse, precisions=("fp32", "bf16"))
    stated = {"max_probability_difference": 0.2}
    assert running(
        settings(tiny_path, engine="torch", precision="bf16", golden=str(photographs), tolerance=stated)
    ) == ("torch bf16")


def test_what_runs_and_the_guards_figures_are_logged(
    tiny_path: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.add("torch")
    with caplog.at_level(logging.INFO, logger="ray.serve"):
        create_engine(settings(tiny_path, engine="torch"))
    assert "Model shapes runs on torch fp32: top-1 agreement 100.00%, largest probability difference " in caplog.text


# What is refused, and then


def test_wrong_logits_are_refused_with_the_figures_and_the_next_engine_runs(
    tiny_path: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.add("openvino", wrong)
    registry.add("onnxruntime")
    registry.add("torch")
    assert running(settings(tiny_path, engine="openvino")) == "onnxruntime fp32"
    (warning,) = warnings_in(caplog)
    for words in ("openvino fp32 of model 'shapes' is refused", "top-1 agreement", "is below 99.50%", "32 images"):
        assert words in warning


def test_a_tight_tolerance_falls_back_to_the_same_engine_at_fp32(
    tiny_path: Path, registry: Registry, photographs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.add("onnxruntime")
    registry.add("openvino", coarse, precisions=("fp32", "bf16"))
    stated = {"max_probability_difference": 1e-6}
    asked_for = settings(tiny_path, engine="openvino", precision="bf16", golden=str(photographs), tolerance=stated)
    # Its fp32 is the same coarse arithmetic here, so that comes next, is refused too, and the others follow.
    assert running(asked_for) == "onnxruntime fp32"
    assert registry.built() == ["openvino bf16", "openvino fp32", "onnxruntime fp32"]
    assert "more than 1e-06" in warnings_in(caplog)[0]


def test_a_library_that_fails_is_logged_with_its_reason_and_the_next_engine_runs(
    tiny_path: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.add("openvino", fails=RuntimeError("No kernel for this node. Here is the whole graph:\n" + "x" * 999))
    registry.add("torch")
    assert running(settings(tiny_path, engine="openvino")) == "torch fp32"
    sentence = warnings_in(caplog)[-1]
    assert sentence == "Model 'shapes' cannot run on openvino fp32: No kernel for this node."
    # The whole of it is in the log as well.
    assert "x" * 999 in caplog.text


@pytest.mark.parametrize(
    ("engine", "words"),
    [("openvino", "is refused: top-1 agreement"), ("onnxruntime", "cannot run on onnxruntime fp32: no kernel")],
)
def test_on_refusal_fail_is_one_sentence(tiny_path: Path, registry: Registry, engine: str, words: str) -> None:
    registry.add("openvino", wrong)
    registry.add("onnxruntime", fails=RuntimeError("no kernel"))
    registry.add("torch")
    assert words in sentence_of(lambda: create_engine(settings(tiny_path, engine=engine, on_refusal="fail")))
    assert len(registry.built()) == 1


def test_when_no_engine_passes_one_sentence_has_the_figures_of_each(tiny_path: Path, registry: Registry) -> None:
    registry.add("openvino", wrong)
    registry.add("torch", coarse)
    sentence = sentence_of(lambda: create_engine(settings(tiny_path, engine="openvino")))
    for words in (
        "openvino fp32 of model 'shapes' is refused: top-1",
        "torch fp32 of model 'shapes' is refused: a prob",
    ):
        assert words in sentence


def test_nothing_runs_below_fp32_without_golden_images(
    tiny_path: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.add("torch", precisions=("fp32", "bf16"))
    assert running(settings(tiny_path, engine="torch", precision="bf16")) == "torch fp32"
    assert warnings_in(caplog) == [
        "torch bf16 of model 'shapes' cannot be judged without golden images; set golden to a folder of images."
    ]
    sentence_of(lambda: create_engine(settings(tiny_path, engine="torch", precision="bf16", on_refusal="fail")))


def test_a_setting_that_is_wrong_is_no_refusal_and_stops_the_start(tiny_path: Path, registry: Registry) -> None:
    registry.add("openvino", fails=ConfigError("The folder of images 'nowhere' does not exist."))
    registry.add("torch")
    sentence = sentence_of(lambda: create_engine(settings(tiny_path, engine="openvino")))
    assert sentence == "The folder of images 'nowhere' does not exist."
    assert registry.built() == ["openvino fp32"]


def test_a_fallback_that_needs_what_is_not_there_is_passed_over(tiny_path: Path, registry: Registry) -> None:
    registry.add("openvino", wrong)
    registry.add("onnxruntime", fails=ConfigError("The package onnxscript is not installed."))
    registry.add("torch")
    assert running(settings(tiny_path, engine="openvino")) == "torch fp32"


# What there is not


def test_an_engine_that_is_not_installed_is_refused_with_its_extra(tiny_path: Path, registry: Registry) -> None:
    registry.add("openvino", module="a_library_that_is_not_here")
    registry.add("torch")
    for precision in ("fp32", "auto"):
        asked_for = settings(tiny_path, engine="openvino", precision=precision)
        sentence = sentence_of(lambda asked_for=asked_for: create_engine(asked_for))  # type: ignore[misc]
        assert "'openvino' of model 'shapes' is not installed; install the extra 'openvino'" in sentence


def test_a_fallback_that_is_not_installed_is_passed_over(tiny_path: Path, registry: Registry) -> None:
    registry.add("openvino", wrong)
    registry.add("onnxruntime", module="a_library_that_is_not_here")
    registry.add("torch")
    assert running(settings(tiny_path, engine="openvino")) == "torch fp32"


@pytest.mark.parametrize(
    ("engine", "precision", "has"),
    [("torch", "int8", "fp32, bf16"), ("torch", "fp16", "fp32, bf16"), ("tensorrt", "fp32", "nothing")],
)
def test_a_precision_that_an_engine_has_not_on_the_device_is_refused_with_those_it_has(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, precision: str, has: str
) -> None:
    # Of the real registry, as if everything were installed.
    monkeypatch.setattr("deployments.engines.registry.find_spec", lambda module: object())
    sentence = sentence_of(lambda: create_engine(settings(tiny_path, engine=engine, precision=precision)))
    for words in (f"{engine!r} of model 'shapes'", f"no precision {precision!r} on cpu", f"it has {has}"):
        assert words in sentence


def test_a_dummy_needs_none_of_this(registry: Registry) -> None:
    assert running(ModelSettings(name="dummy", engine="dummy")) == "dummy fp32"
    assert registry.built() == []
