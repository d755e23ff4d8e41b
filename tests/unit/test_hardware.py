"""Which device a model gets, and what the machine is called."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.engines.hardware import TELLING_FLAGS, _cuda_device_name, choose_device, describe_hardware
from deployments.settings import ModelSettings
from tests.unit.sentences import sentence_of


def settings(device: str) -> ModelSettings:
    return ModelSettings.model_validate({"name": "shapes", "path": "models/shapes", "device": device})


@pytest.fixture(params=["", "-1"], ids=["nothing visible", "minus one visible"])
def hidden_gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", request.param)


@pytest.mark.usefixtures("hidden_gpus")
def test_auto_without_a_gpu_is_the_cpu_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ray.serve"):
        assert choose_device(settings("auto")) == "cpu"
    assert "Model shapes runs on the CPU: no CUDA device is visible" in caplog.text


@pytest.mark.skipif(_cuda_device_name() is not None, reason="there is a GPU")
def test_a_gpu_that_is_reserved_and_not_there_is_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert choose_device(settings("auto")) == "cpu"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.usefixtures("hidden_gpus")
def test_cuda_without_a_gpu_is_refused_with_the_way_out() -> None:
    sentence = sentence_of(lambda: choose_device(settings("cuda")))
    for words in ("'shapes'", "device 'cuda'", "num_gpus", "'auto' or 'cpu'"):
        assert words in sentence


def test_a_cpu_that_is_asked_for_is_what_is_taken_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ray.serve"):
        assert choose_device(settings("cpu")) == "cpu"
    assert caplog.text == ""


@pytest.mark.parametrize("visible", [None, ""], ids=["as this machine is", "nothing visible"])
def test_no_model_library_is_imported_to_find_out(visible: str | None) -> None:
    script = """
import sys
from deployments.engines.hardware import choose_device, describe_hardware
from deployments.settings import ModelSettings
print(describe_hardware(choose_device(ModelSettings(name="shapes", path="models/shapes"))))
assert "torch" not in sys.modules
"""
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert told.returncode == 0, told.stderr
    assert len(told.stdout) > 3


def test_a_cpu_is_described_by_its_model_its_cores_and_what_decides_on_precisions() -> None:
    described, known = describe_hardware("cpu"), Path("/proc/cpuinfo").read_text()
    model, cores, flags = described.split(", ")
    assert model in known
    assert cores == f"{os.cpu_count()} cores"
    flags_there = set(known.split())
    assert flags.split() == [flag for flag in TELLING_FLAGS if flag in flags_there]
