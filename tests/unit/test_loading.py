"""The guard at every load: on which images, in which batches, and what it does not let pass."""

import shutil
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from deployments.engines.artefacts import Artefacts
from deployments.engines.base import Images
from deployments.engines.loading import KNOWN_TO_PASS_IMAGES, Refused, load
from deployments.engines.registry import Choice
from deployments.metrics import GUARD_VERDICTS
from deployments.settings import ModelSettings
from examples.shape_pictures import LABELS as SHAPES
from examples.shape_pictures import draw_shape
from tests.unit.kinds import TINY_ARCHITECTURE, Eager, Logits, Registry, settings, wrong
from tests.unit.sentences import sentence_of

pytestmark = pytest.mark.usefixtures("own_cache")
TORCH = Choice("torch", "fp32")
GOLDEN_IMAGES = KNOWN_TO_PASS_IMAGES + 8


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of more images than are compared of a choice that is known to pass."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(GOLDEN_IMAGES):
        draw_shape(SHAPES[number % 10], number).resize((72, 72)).save(folder / f"{number:02}.png")
    return folder


def compared(settings: ModelSettings, choice: Choice = TORCH) -> list[int]:
    """The sizes of the batches that one load compares."""
    engine, _ = load(Artefacts(settings), choice, "cpu")
    assert isinstance(engine, Eager)
    warm_up = [size for size in engine.batch_sizes() for _ in range(2)]
    assert engine.batches[: len(warm_up)] == warm_up
    return engine.batches[len(warm_up) :]


def test_the_first_load_compares_all_golden_images(tiny_path: Path, registry: Registry, many: Path) -> None:
    registry.add("torch")
    assert sum(compared(settings(tiny_path, golden=str(many)))) == GOLDEN_IMAGES


def test_later_loads_compare_fewer_but_never_none(tiny_path: Path, registry: Registry, many: Path) -> None:
    registry.add("torch")
    compared(settings(tiny_path, golden=str(many)))
    for _ in range(2):
        assert sum(compared(settings(tiny_path, golden=str(many)))) == KNOWN_TO_PASS_IMAGES


def test_an_engine_that_passed_before_and_is_wrong_now_is_refused(
    tiny_path: Path, registry: Registry, many: Path
) -> None:
    registry.add("torch")
    compared(settings(tiny_path, golden=str(many)))
    registry.add("torch", wrong)
    with pytest.raises(Refused, match=f"on {GOLDEN_IMAGES} images"):
        load(Artefacts(settings(tiny_path, golden=str(many))), TORCH, "cpu")


def test_a_choice_that_is_known_to_pass_is_not_refused_for_a_few_images(
    tiny_path: Path, registry: Registry, many: Path
) -> None:
    # Of 40 images one may be missed at 97 %, of 32 none: the first image is among both.
    tolerance = {"top1_agreement": 0.97, "max_probability_difference": 1}
    asked_for = settings(tiny_path, golden=str(many), tolerance=tolerance)
    first = Artefacts(asked_for).golden.logits[0]

    def misses_the_first(logits: Logits) -> Logits:
        missed = np.isclose(logits, first, atol=1e-3).all(axis=1)
        return np.where(missed[:, None], -logits, logits)

    registry.add("torch", misses_the_first, precisions=("bf16",))
    assert sum(compared(asked_for, Choice("torch", "bf16"))) == GOLDEN_IMAGES
    assert sum(compared(asked_for, Choice("torch", "bf16"))) == KNOWN_TO_PASS_IMAGES + GOLDEN_IMAGES


def test_every_verdict_of_the_guard_is_counted(tiny_path: Path, registry: Registry) -> None:
    def verdicts() -> Counter[str]:
        counted: Counter[str] = Counter()
        for sample in GUARD_VERDICTS.samples():
            counted[sample.labels["verdict"]] += int(sample.value)
        return counted

    before = verdicts()
    registry.add("torch")
    load(Artefacts(settings(tiny_path)), TORCH, "cpu")
    registry.add("torch", wrong)
    with pytest.raises(Refused):
        load(Artefacts(settings(tiny_path)), TORCH, "cpu")
    assert verdicts() - before == Counter(passed=1, refused=1)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_an_engine_that_is_wrong_at_one_batch_size_is_refused(tiny_path: Path, registry: Registry, size: int) -> None:
    registry.add("torch", lambda logits: wrong(logits) if len(logits) == size else logits)
    with pytest.raises(Refused, match="top-1 agreement"):
        load(Artefacts(settings(tiny_path, max_batch_size=4)), TORCH, "cpu")


def test_all_runners_of_an_engine_are_compared_at_once(
    tiny_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever comes alone waits for ever, but for the timeout that fails the test.
    together, infer = threading.Barrier(2, timeout=20), Eager.infer

    def in_pairs(engine: Eager, images: Images) -> Logits:
        if threading.current_thread() is not threading.main_thread():
            together.wait()
        return infer(engine, images)

    monkeypatch.setattr(Eager, "infer", in_pairs)
    monkeypatch.setattr(Eager, "runners", lambda engine: 2)
    registry.add("torch")
    load(Artefacts(settings(tiny_path)), TORCH, "cpu")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_engine_whose_logits_are_not_finite_is_refused(tiny_path: Path, registry: Registry, value: float) -> None:
    registry.add("torch", lambda logits: np.where(logits == logits.max(), np.float32(value), logits))
    with pytest.raises(Refused, match="its logits are not finite"):
        load(Artefacts(settings(tiny_path)), TORCH, "cpu")


def test_outputs_that_do_not_match_the_labels_stop_the_start(registry: Registry, tiny_path: Path) -> None:
    registry.add("torch", lambda logits: logits[:, :3])
    sentence = sentence_of(lambda: load(Artefacts(settings(tiny_path)), TORCH, "cpu"))
    for words in ("'shapes'", "5 labels", TINY_ARCHITECTURE, "(1, 3)"):
        assert words in sentence


def test_an_engine_is_told_its_precision_its_device_and_its_threads(tiny_path: Path, registry: Registry) -> None:
    registry.add("torch")
    for threads, expected in ((None, 1), (3, 3)):
        load(Artefacts(settings(tiny_path, threads=threads)), TORCH, "cpu")
        build = registry.builds[-1]
        assert (build.precision, build.device, build.threads) == ("fp32", "cpu", expected)
        assert build.lone_threads is None
    load(Artefacts(settings(tiny_path, threads=1, lone_threads=2)), TORCH, "cpu")
    assert (registry.builds[-1].threads, registry.builds[-1].lone_threads) == (1, 2)


def test_a_choice_that_passed_on_other_threads_is_compared_anew(
    tiny_path: Path, registry: Registry, many: Path
) -> None:
    registry.add("torch")
    for lone_threads in (None, 2):
        asked_for = settings(tiny_path, golden=str(many), threads=1, lone_threads=lone_threads)
        assert sum(compared(asked_for, TORCH)) == GOLDEN_IMAGES


def test_a_new_version_of_the_model_is_compared_anew(
    tiny_path: Path, tmp_path: Path, registry: Registry, many: Path
) -> None:
    registry.add("torch")
    for version in ("1", "2"):
        shutil.copytree(tiny_path / "3", tmp_path / "shapes" / version)
        assert sum(compared(settings(tmp_path / "shapes", golden=str(many)))) == GOLDEN_IMAGES
