"""OpenVINO against torchvision's own pipeline, at the precision and on the threads that were asked for."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms import Compose, Normalize, ToTensor

from deployments.engines import openvino_engine
from deployments.engines.artefacts import MIN_CALIBRATION_IMAGES, Artefacts
from deployments.engines.golden import made_up_pixels
from deployments.engines.openvino_engine import OpenVinoEngine
from deployments.engines.registry import Build
from deployments.imaging import preprocess
from deployments.settings import Limits, ModelSettings, Precision
from examples.shape_pictures import LABELS as SHAPES
from examples.shape_pictures import draw_shape
from tests.reference import encode
from tests.unit.checkpoints import SPEC
from tests.unit.kinds import TINY_SPEC
from tests.unit.sentences import sentence_of

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "models/shapes"
# Not a power of two, so that some counts run in parts: 3 as 2 and 1, 5 as 4 and 1.
MAX_BATCH_SIZE = 6
# Of the pictures that the calibration has not seen; 1,500 agreed by 99.5 %.
INT8_AGREEMENT = 0.97
INT8_PICTURES = 60


def build(
    model: Path, precision: Precision = "fp32", threads: int = 1, lone_threads: int | None = None, **settings: Any
) -> OpenVinoEngine:
    artefacts = Artefacts(
        ModelSettings(name="mine", path=str(model), device="cpu", max_batch_size=MAX_BATCH_SIZE, **settings)
    )
    return OpenVinoEngine(Build(artefacts, precision, "cpu", threads, lone_threads))


def core() -> Any:
    # Not by an import, which would bring OpenVINO's telemetry along if it came before that of the engine.
    return sys.modules["openvino"].Core()


def compiled(engine: OpenVinoEngine, size: int = 1) -> Any:
    return engine._requests[size].get_compiled_model()


def layer_types(engine: OpenVinoEngine) -> set[str]:
    """In which types the layers that take the time are computed."""
    layers = compiled(engine).get_runtime_model().get_ops()
    return {openvino_engine._runtime_type(layer) for layer in layers} - {""}


@pytest.fixture(scope="module")
def openvino(model_path: Path) -> OpenVinoEngine:
    return build(model_path)


@pytest.fixture
def for_any_size(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenVinoEngine:
    """The same network, taken for a large one."""
    monkeypatch.setattr(openvino_engine, "MAX_WEIGHT_BYTES_OF_EACH_SIZE", 0)
    return build(model_path)


@pytest.fixture(scope="module")
def expected(network: torch.nn.Module, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of torchvision's own normalisation, in front of eager torch."""
    transform = Compose([ToTensor(), Normalize(SPEC.mean, SPEC.std)])
    with torch.inference_mode():
        logits: NDArray[np.float32] = network(torch.stack([transform(image) for image in pixels])).numpy()
    return logits


# float32


@pytest.mark.parametrize("count", range(1, MAX_BATCH_SIZE + 1))
def test_every_count_of_raw_pixels_gets_the_logits_of_normalised_ones_in_torch(
    openvino: OpenVinoEngine, pixels: NDArray[np.uint8], expected: NDArray[np.float32], count: int
) -> None:
    np.testing.assert_allclose(openvino.infer(pixels[:count]), expected[:count], rtol=0, atol=1e-4)


def test_one_graph_for_any_size_gives_the_same_logits(
    for_any_size: OpenVinoEngine, pixels: NDArray[np.uint8], expected: NDArray[np.float32]
) -> None:
    assert list(for_any_size.batch_sizes()) == list(range(1, MAX_BATCH_SIZE + 1))
    for count in (5, 1, 3, 6):
        np.testing.assert_allclose(for_any_size.infer(pixels[:count]), expected[:count], rtol=0, atol=1e-4)


def test_small_models_are_compiled_for_each_size(openvino: OpenVinoEngine) -> None:
    assert list(openvino.batch_sizes()) == [1, 2, 4, 6]
    assert [compiled(openvino, size).input(0).shape[0] for size in (1, 2, 4, 6)] == [1, 2, 4, 6]


def test_images_that_may_not_be_written_are_answered_alike(openvino: OpenVinoEngine, pixels: NDArray[np.uint8]) -> None:
    # As those that come out of Ray's object store.
    read_only = pixels[:6].copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(openvino.infer(read_only), openvino.infer(list(pixels[:6])))


def test_an_answer_stays_when_the_next_one_is_made(openvino: OpenVinoEngine, pixels: NDArray[np.uint8]) -> None:
    first = openvino.infer(pixels[:1])
    before = first.copy()
    assert abs(openvino.infer(pixels[1:2]) - before).max() > 0.01
    np.testing.assert_array_equal(first, before)


def test_building_leaves_the_network_as_it_was(tiny_path: Path, own_cache: Path) -> None:
    artefacts = Artefacts(ModelSettings(name="mine", path=str(tiny_path), device="cpu", max_batch_size=1))
    pixels = torch.from_numpy(made_up_pixels(TINY_SPEC)[:2])
    with torch.inference_mode():
        before = artefacts.network(pixels)
        OpenVinoEngine(Build(artefacts, "fp32", "cpu", 1))
        torch.testing.assert_close(artefacts.network(pixels), before, rtol=0, atol=0)
    assert not artefacts.network.training


# What it runs on


def test_the_compiled_model_runs_in_float32(openvino: OpenVinoEngine) -> None:
    assert compiled(openvino).get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert layer_types(openvino) == {"f32"}


@pytest.mark.parametrize("threads", [1, 2])
def test_the_compiled_model_has_the_threads_that_were_asked_for(model_path: Path, threads: int) -> None:
    if len(os.sched_getaffinity(0)) < threads:
        pytest.skip(f"OpenVINO takes no more threads than cores, and there are fewer than {threads}")
    model = compiled(build(model_path, threads=threads))
    assert model.get_property("INFERENCE_NUM_THREADS") == threads
    assert model.get_property("NUM_STREAMS") == 1
    assert model.get_property("ENABLE_CPU_PINNING") is False


def test_an_image_that_is_alone_has_threads_of_its_own(model_path: Path, pixels: NDArray[np.uint8]) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("OpenVINO takes no more threads than cores, and there is one")
    engine, plain = build(model_path, lone_threads=2), build(model_path, lone_threads=1)
    assert engine._lone is not None
    assert engine._lone.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 2
    assert compiled(engine).get_property("INFERENCE_NUM_THREADS") == 1
    assert plain._lone is None
    first = engine.infer(pixels[:1])
    before = first.copy()
    np.testing.assert_allclose(before, plain.infer(pixels[:1]), rtol=0, atol=1e-4)
    engine.infer(pixels[1:2])
    np.testing.assert_array_equal(first, before)
    np.testing.assert_allclose(engine.infer(pixels[:5]), plain.infer(pixels[:5]), rtol=0, atol=1e-4)


def test_bf16_is_refused_where_the_cpu_has_none(model_path: Path) -> None:
    if _has_bf16():
        pytest.skip("this CPU has bf16")
    sentence = sentence_of(lambda: build(model_path, "bf16"))
    assert "'bf16'" in sentence
    assert "'mine'" in sentence


def test_bf16_runs_in_bf16_where_the_cpu_has_it(model_path: Path, pixels: NDArray[np.uint8]) -> None:
    if not _has_bf16():
        pytest.skip("this CPU has no bf16")
    engine = build(model_path, "bf16")
    assert compiled(engine).get_property("INFERENCE_PRECISION_HINT").to_string() == "bf16"
    assert np.isfinite(engine.infer(pixels[:2])).all()


def _has_bf16() -> bool:
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


# What is kept


@pytest.fixture(scope="module")
def second_start(
    model_path: Path, openvino: OpenVinoEngine, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """What a fresh process prints that builds from a filled cache, and its home directory."""
    home = tmp_path_factory.mktemp("home")
    script = (
        "import sys\n"
        "from deployments.engines.artefacts import Artefacts\n"
        "from deployments.engines.registry import KINDS, Build\n"
        "from deployments.settings import ModelSettings\n"
        f"settings = ModelSettings(name='mine', path={str(model_path)!r}, device='cpu', max_batch_size=1)\n"
        "engine = KINDS['openvino'].create(Build(Artefacts(settings), 'fp32', 'cpu', 1))\n"
        "print(engine.info().engine, *sorted(name for name, module in sys.modules.items() if module))\n"
    )
    # OpenVINO sends nothing from a CI job anyway.
    kept = {key: value for key, value in os.environ.items() if key not in ("CI", "TF_BUILD", "JENKINS_URL")}
    environment = {**kept, "HOME": str(home)}
    answer = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    return answer.stdout, home


def test_a_second_start_imports_neither_torch_nor_nncf(second_start: tuple[str, Path]) -> None:
    engine, *loaded = second_start[0].split()
    assert engine == "openvino"
    assert "openvino" in loaded
    assert not {"torch", "torchvision", "nncf"} & set(loaded)


def test_nothing_of_openvinos_telemetry_runs(second_start: tuple[str, Path]) -> None:
    loaded, home = second_start[0].split(), second_start[1]
    assert not [name for name in loaded if name.startswith("openvino_telemetry")]
    # Where the package would leave the number by which it knows this machine.
    assert not (home / "intel").exists()


@pytest.mark.parametrize("file", ["model.xml", "model.bin"])
def test_a_file_that_cannot_be_read_is_made_again(tiny_path: Path, own_cache: Path, file: str) -> None:
    pixels = made_up_pixels(TINY_SPEC)[:2]
    before = build(tiny_path).infer(pixels)
    (kept,) = own_cache.rglob(file)
    size = kept.stat().st_size
    os.truncate(kept, size // 2)
    np.testing.assert_array_equal(build(tiny_path).infer(pixels), before)
    assert kept.stat().st_size == size


# int8


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    for seed in range(MIN_CALIBRATION_IMAGES):
        draw_shape(SHAPES[seed % len(SHAPES)], seed).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def shapes() -> NDArray[np.uint8]:
    """uint8 (INT8_PICTURES, 128, 128, 3) that are not among those of `calibration`."""
    spec = Artefacts(ModelSettings(name="mine", path=str(BUNDLED))).facts.preprocessing
    drawn = [draw_shape(SHAPES[n % len(SHAPES)], MIN_CALIBRATION_IMAGES + n) for n in range(INT8_PICTURES)]
    return np.stack([preprocess(encode(picture, "PNG"), spec, Limits()) for picture in drawn])


@pytest.fixture(scope="module")
def int8(calibration: Path) -> OpenVinoEngine:
    return build(BUNDLED, "int8", calibration=str(calibration))


def logits_of(engine: OpenVinoEngine, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    starts = range(0, len(pixels), MAX_BATCH_SIZE)
    return np.concatenate([engine.infer(pixels[start : start + MAX_BATCH_SIZE]) for start in starts])


def test_int8_is_not_float32_and_names_the_same_shapes(int8: OpenVinoEngine, shapes: NDArray[np.uint8]) -> None:
    exact, quantised = logits_of(build(BUNDLED), shapes), logits_of(int8, shapes)
    assert abs(quantised - exact).max() > 0.01
    assert np.mean(quantised.argmax(axis=1) == exact.argmax(axis=1)) >= INT8_AGREEMENT


def test_every_convolution_runs_in_int8(int8: OpenVinoEngine) -> None:
    assert layer_types(int8) <= openvino_engine.INT8_TYPES
    assert int8.info().precision == "int8"


def test_pixels_are_normalised_before_they_are_quantised(int8: OpenVinoEngine, calibration: Path) -> None:
    # Otherwise what is brighter or darker than all calibration images would be clipped to them.
    settings = ModelSettings(name="mine", path=str(BUNDLED), calibration=str(calibration))
    path = openvino_engine._path(core(), Build(Artefacts(settings), "int8", "cpu", 1))
    operations = [node.get_type_name() for node in core().read_model(path).get_ordered_ops()]
    in_front = operations[: operations.index("FakeQuantize")]
    assert in_front.count("Divide") == 2
    assert "Convolution" not in in_front


def test_int8_with_too_few_images_is_refused(photographs: Path) -> None:
    sentence = sentence_of(lambda: build(BUNDLED, "int8", calibration=str(photographs)))
    assert str(MIN_CALIBRATION_IMAGES) in sentence
    assert "12" in sentence


def test_int8_without_any_images_is_refused(model_path: Path) -> None:
    assert str(MIN_CALIBRATION_IMAGES) in sentence_of(lambda: build(model_path, "int8"))


def test_int8_without_nncf_is_refused_with_the_extra_to_install(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    assert "extra 'int8'" in sentence_of(lambda: build(model_path, "int8"))
