"""What `auto` takes: the fastest that passes, by a measurement that is kept for as long as nothing changes."""

import fcntl
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.engines import create_engine, loading, measurement
from deployments.engines.artefacts import Artefacts
from deployments.engines.base import Engine, Images
from deployments.engines.measurement import Row, images_per_s
from deployments.engines.registry import Choice
from tests.unit.kinds import Eager, Logits, Registry, running, settings, wrong
from tests.unit.sentences import sentence_of

pytestmark = pytest.mark.usefixtures("own_cache")


def rows_in(cache: Path) -> list[dict[str, Any]]:
    (path,) = cache.rglob("rows.json")
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return rows


# The fastest


def test_the_fastest_runs(tiny_path: Path, registry: Registry, own_cache: Path) -> None:
    registry.add("openvino", batch_s=2)
    registry.add("onnxruntime")
    registry.add("torch", batch_s=2)
    assert running(settings(tiny_path)) == "onnxruntime fp32"
    rows = rows_in(own_cache)
    assert rows[0]["choice"] == {"engine": "onnxruntime", "precision": "fp32"}
    # A lone request and a full batch of two, each in two seconds or one.
    assert [row["images_per_s"] for row in rows] == [{"1": 1, "2": 2}, {"1": 0.5, "2": 1}, {"1": 0.5, "2": 1}]


def test_the_fastest_does_not_run_if_it_is_wrong(tiny_path: Path, registry: Registry) -> None:
    registry.add("openvino", wrong)
    registry.add("torch", batch_s=2)
    assert running(settings(tiny_path)) == "torch fp32"


def test_the_table_of_all_that_was_measured_is_logged(
    tiny_path: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.add("openvino", wrong)
    registry.add("onnxruntime", fails=RuntimeError("no kernel for this node"))
    registry.add("torch")
    for _ in range(2):  # At the first start, and when the verdict is known.
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="ray.serve"):
            create_engine(settings(tiny_path))
        (table,) = (message for message in caplog.messages if message.startswith("Engines for model shapes, kept in "))
        lines = {line.split()[0]: line for line in table.splitlines()[2:]}
        assert set(lines) == {"torch", "openvino", "onnxruntime"}
        assert "agreement 100.00%" in lines["torch"]
        assert "refused" in lines["openvino"]
        assert "is below 99.50%" in lines["openvino"]
        assert "no kernel for this node" in lines["onnxruntime"]


def test_one_engine_at_a_time_is_in_memory(tiny_path: Path, registry: Registry) -> None:
    for name in ("openvino", "onnxruntime", "torch"):
        registry.add(name)
    create_engine(settings(tiny_path))
    assert registry.alive_before == [0, 0, 0, 0]


def test_only_what_is_installed_and_meant_for_auto_is_measured(tiny_path: Path, registry: Registry) -> None:
    registry.add("openvino", module="a_library_that_is_not_here")
    registry.add("torch-compile", automatic=False)
    registry.add("torch", batch_s=2)
    assert running(settings(tiny_path)) == "torch fp32"
    assert set(registry.built()) == {"torch fp32"}


def test_a_batch_counts_as_much_as_a_lone_request() -> None:
    assert Row(Choice("torch", "fp32"), {1: 20.0, 8: 80.0}, "").score == pytest.approx(40)
    assert Row(Choice("torch", "fp32"), {}, "it is out").score == 0


def test_all_runners_of_an_engine_are_measured_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "MEASURE_S", 0.0)
    # Whoever comes alone waits for ever, but for the timeout that fails the test.
    together = threading.Barrier(2, timeout=20)

    class TwoRunners(Eager):
        def infer(self, images: Images) -> Logits:
            together.wait()
            return np.zeros((len(images), 5), dtype=np.float32)

    engine = object.__new__(TwoRunners)
    assert images_per_s(engine, np.zeros((2, 8, 8, 3), dtype=np.uint8), 2, runners=2) > 0


def test_an_engine_that_fails_while_it_is_measured_is_out(
    tiny_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    registry.add("openvino")
    registry.add("torch")
    measure = measurement.images_per_s

    def runs_out_of_memory(engine: Engine, *args: Any, **kwargs: Any) -> float:
        if engine.info().engine == "openvino":
            raise RuntimeError("out of memory with all runners at work")
        return measure(engine, *args, **kwargs)

    monkeypatch.setattr(measurement, "images_per_s", runs_out_of_memory)
    assert running(settings(tiny_path)) == "torch fp32"
    assert "cannot run on openvino fp32: out of memory" in rows_in(own_cache)[1]["verdict"]


def test_nothing_else_on_the_machine_is_measured_meanwhile(
    tiny_path: Path, registry: Registry, own_cache: Path
) -> None:
    taken = []

    def try_to_measure(artefacts: Artefacts) -> None:
        # A lock of another file that was opened, as another process would have it.
        with (own_cache / "alone").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                taken.append(True)
            else:
                taken.append(False)

    registry.add("openvino", before=try_to_measure)
    create_engine(settings(tiny_path))
    # While it is measured, and when it is loaded to serve.
    assert taken == [True, False]


# Kept


def test_the_second_start_measures_nothing(tiny_path: Path, registry: Registry) -> None:
    registry.add("openvino", batch_s=2)
    registry.add("torch")
    create_engine(settings(tiny_path))
    assert sorted(registry.built()) == ["openvino fp32", "torch fp32", "torch fp32"]
    assert running(settings(tiny_path)) == "torch fp32"
    assert registry.built() == ["torch fp32"]


CHANGES: dict[str, dict[str, Any]] = {
    "threads": {"threads": 2},
    "largest batch": {"max_batch_size": 3},
    "tolerance": {"tolerance": {"max_probability_difference": 0.01}},
    "precision": {"precision": "auto"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_settings_are_measured_anew(tiny_path: Path, registry: Registry, change: dict[str, Any]) -> None:
    registry.add("openvino")
    registry.add("torch", precisions=("fp32", "bf16"))
    create_engine(settings(tiny_path))
    registry.built()
    create_engine(settings(tiny_path, **change))
    assert {"openvino fp32", "torch fp32"} <= set(registry.built())


def test_other_hardware_is_measured_anew(tiny_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = starts_that_measure(tiny_path, registry)
    assert measured() == [True, False]
    monkeypatch.setattr(loading, "describe_hardware", lambda device: "another machine")
    assert measured() == [True, False]


def test_another_version_of_a_library_is_measured_anew(
    tiny_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = starts_that_measure(tiny_path, registry)
    assert measured() == [True, False]
    monkeypatch.setattr(loading, "version_of", lambda module: "99.0")
    assert measured() == [True, False]


def test_other_golden_images_are_measured_anew(
    tiny_path: Path, registry: Registry, photographs: Path, tmp_path: Path
) -> None:
    golden = tmp_path / "golden"
    golden.mkdir()
    (golden / "1.png").write_bytes((photographs / "01.png").read_bytes())
    measured = starts_that_measure(tiny_path, registry, golden=str(golden))
    assert measured() == [True, False]
    (golden / "2.png").write_bytes((photographs / "02.png").read_bytes())
    assert measured() == [True, False]


def starts_that_measure(tiny_path: Path, registry: Registry, **more: Any) -> Callable[[], list[bool]]:
    registry.add("openvino")
    registry.add("torch")

    def two_starts() -> list[bool]:
        measured = []
        for _ in range(2):
            create_engine(settings(tiny_path, **more))
            measured.append(len(registry.built()) > 1)
        return measured

    return two_starts


def test_a_verdict_that_cannot_be_read_is_measured_anew(tiny_path: Path, registry: Registry, own_cache: Path) -> None:
    measured = starts_that_measure(tiny_path, registry)
    assert measured() == [True, False]
    (path,) = own_cache.rglob("rows.json")
    path.write_text(path.read_text()[:100])
    assert measured() == [True, False]


def test_the_guard_sees_the_engine_of_a_kept_verdict_too(
    tiny_path: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.add("openvino")
    registry.add("torch", batch_s=2)
    assert running(settings(tiny_path)) == "openvino fp32"
    registry.add("openvino", wrong)  # As a library might be after the processor's microcode was changed.
    registry.built()
    assert running(settings(tiny_path)) == "torch fp32"
    assert registry.built() == ["openvino fp32", "torch fp32"]
    assert "openvino fp32 of model 'shapes' is refused" in caplog.text


def test_when_none_passes_it_is_one_sentence_and_the_next_start_tries_again(
    tiny_path: Path, registry: Registry
) -> None:
    registry.add("openvino", wrong)
    registry.add("torch", fails=MemoryError())
    sentence = sentence_of(lambda: create_engine(settings(tiny_path)))
    for words in ("No engine passes for model 'shapes'", "openvino fp32", "is below 99.50%", "torch fp32: MemoryError"):
        assert words in sentence
    registry.add("torch")
    assert running(settings(tiny_path)) == "torch fp32"
