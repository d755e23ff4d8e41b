"""ONNX Runtime against eager torch on the bundled model, and what is left of a start when the cache is filled.

All tests share one cache, since an export takes seconds.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deployments.engines.artefacts import MIN_CALIBRATION_IMAGES, Artefacts
from deployments.engines.base import Engine
from deployments.engines.onnxruntime_engine import OnnxRuntimeEngine
from deployments.engines.registry import Build
from deployments.imaging import preprocess
from deployments.settings import Limits, ModelSettings, Precision
from examples import shape_pictures
from examples.shape_pictures import draw_shape
from tests.another_hand import LABELS, draw
from tests.reference import encode
from tests.unit.sentences import sentence_of

ROOT = Path(__file__).resolve().parents[2]
MODEL_PATH = ROOT / "models/shapes"
MAX_BATCH_SIZE = 8
# Drawn by other code than the calibration images.
PICTURES_PER_SHAPE = 8

START = """
import json, os, sys
from deployments.engines import create_engine
from deployments.settings import ModelSettings

settings = ModelSettings(name="shapes", path=sys.argv[1], engine="onnxruntime", device="cpu")
print(json.dumps({"engine": create_engine(settings).info().engine, "loaded": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _in_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APERTURE_CACHE", str(cache))


@pytest.fixture(scope="module")
def pictures(artefacts: Artefacts) -> NDArray[np.uint8]:
    """uint8 (80, 128, 128, 3)."""
    encoded = [encode(draw(label, seed), "PNG") for label in LABELS for seed in range(PICTURES_PER_SHAPE)]
    return np.stack([preprocess(picture, artefacts.facts.preprocessing, Limits()) for picture in encoded])


@pytest.fixture(scope="module")
def expected(artefacts: Artefacts, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits: NDArray[np.float32] = artefacts.network(torch.from_numpy(pictures)).numpy()
    return logits


@pytest.fixture(scope="module")
def artefacts(cache: Path) -> Artefacts:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APERTURE_CACHE", str(cache))
        return artefacts_of()


@pytest.fixture(scope="module")
def engine(artefacts: Artefacts) -> Engine:
    return engine_of(artefacts)


def artefacts_of(**settings: Any) -> Artefacts:
    return Artefacts(ModelSettings(name="shapes", path=str(MODEL_PATH), max_batch_size=MAX_BATCH_SIZE, **settings))


def engine_of(artefacts: Artefacts, precision: Precision = "fp32", threads: int = 1) -> Engine:
    return OnnxRuntimeEngine(Build(artefacts, precision, "cpu", threads))


# float32


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_fp32_logits_are_those_of_eager_torch(
    engine: Engine, pictures: NDArray[np.uint8], expected: NDArray[np.float32], count: int
) -> None:
    picked = np.linspace(0, len(pictures) - 1, count).astype(int)
    logits = engine.infer(list(pictures[picked]))
    assert logits.dtype == np.dtype("float32")
    np.testing.assert_allclose(logits, expected[picked], rtol=0, atol=1e-4)


def test_every_batch_size_runs_as_it_is(engine: Engine) -> None:
    assert list(engine.batch_sizes()) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_it_says_what_it_is(engine: Engine) -> None:
    info = engine.info()
    assert (info.engine, info.precision, info.device) == ("onnxruntime", "fp32", "cpu")


@pytest.mark.parametrize("threads", [1, 3])
def test_the_stated_threads_are_started(engine: Engine, artefacts: Artefacts, threads: int) -> None:
    before = len(os.listdir("/proc/self/task"))
    several = engine_of(artefacts, threads=threads)
    # The caller of infer is one of them.
    assert len(os.listdir("/proc/self/task")) - before == threads - 1
    del several


def test_an_image_that_is_alone_has_threads_of_its_own(
    engine: Engine, artefacts: Artefacts, pictures: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(os.listdir("/proc/self/task"))
    one = OnnxRuntimeEngine(Build(artefacts, "fp32", "cpu", threads=1, lone_threads=3))
    # The caller of infer is one of them, and the session for batches starts none.
    assert len(os.listdir("/proc/self/task")) - before == 2
    assert one._lone_session is not one._session
    used, run = [], one._run

    def noted(session: Any, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        used.append(session)
        return run(session, batch)

    monkeypatch.setattr(one, "_run", noted)
    for count in (1, 2):
        np.testing.assert_allclose(one.infer(pictures[:count]), engine.infer(pictures[:count]), rtol=0, atol=1e-4)
    assert used == [one._lone_session, one._session]


@pytest.mark.parametrize("part", ["optimized.onnx", "optimized.weights"])
def test_a_model_that_cannot_be_read_is_built_again(
    engine: Engine, artefacts: Artefacts, cache: Path, pictures: NDArray[np.uint8], part: str
) -> None:
    (stored,) = cache.glob(f"shapes-*/onnxruntime-*-fp32-*/{part}")
    whole = stored.read_bytes()
    # Removed first: the engine of the other tests has the weights mapped into its memory.
    stored.unlink()
    stored.write_bytes(whole[: len(whole) // 2])
    again = engine_of(artefacts)
    np.testing.assert_array_equal(again.infer(pictures[:4]), engine.infer(pictures[:4]))
    assert stored.stat().st_size == len(whole)


# A second start


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def second_start(engine: Engine, artefacts: Artefacts, cache: Path, home: Path) -> dict[str, Any]:
    """What a process tells that finds everything in the cache."""
    assert len(artefacts.golden.logits) > 0
    # Named like this, a machine of continuous integration is spared the telemetry in any case.
    unset = ("CI", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    environment |= {"APERTURE_CACHE": str(cache), "HOME": str(home)}
    finished = subprocess.run(
        [sys.executable, "-c", START, str(MODEL_PATH)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    started: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return started


def test_a_second_start_imports_neither_torch_nor_onnx(second_start: dict[str, Any]) -> None:
    assert second_start["engine"] == "onnxruntime"
    assert not {"torch", "onnx", "onnxscript"} & set(second_start["loaded"])


def test_no_usage_data_are_kept_for_sending(second_start: dict[str, Any], home: Path) -> None:
    # ONNX Runtime keeps an identifier of the machine and a database there, unless its telemetry is off.
    assert list(home.rglob("*onnxruntime*")) == []


# int8


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    for number in range(MIN_CALIBRATION_IMAGES):
        draw_shape(shape_pictures.LABELS[number % len(LABELS)], number).save(folder / f"{number:03}.png")
    return folder


def test_int8_keeps_the_most_probable_class(
    cache: Path, calibration: Path, pictures: NDArray[np.uint8], expected: NDArray[np.float32]
) -> None:
    logits = engine_of(artefacts_of(calibration=str(calibration)), "int8").infer(pictures)
    np.testing.assert_array_equal(logits.argmax(axis=1), expected.argmax(axis=1))
    # Equal logits would mean that nothing was quantised.
    assert np.abs(logits - expected).max() > 0.01


def test_int8_without_enough_images_is_refused(tmp_path: Path) -> None:
    draw_shape(shape_pictures.LABELS[0], 0).save(tmp_path / "alone.png")
    artefacts = artefacts_of(calibration=str(tmp_path))
    sentence = sentence_of(lambda: engine_of(artefacts, "int8"))
    for words in (f"at least {MIN_CALIBRATION_IMAGES} images", "'shapes' has 1", "set calibration"):
        assert words in sentence


# Without the packages for the export


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_an_export_without_its_packages_is_refused(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    artefacts = artefacts_of()
    assert sentence_of(lambda: engine_of(artefacts)) == (
        f"Model 'shapes' has to be exported to ONNX, for which {package} must be installed; install the extra "
        f"'onnxruntime' or 'tensorrt' of this project."
    )


def test_what_is_exported_runs_without_the_packages(
    engine: Engine, pictures: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    np.testing.assert_array_equal(engine_of(artefacts_of()).infer(pictures[:1]), engine.infer(pictures[:1]))
