"""What a version answered when it was exported: reproduced before it is served, and what does not reproduce it."""

import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from deployments.engines import artefacts, create_engine
from deployments.engines import reference as references
from deployments.engines.artefacts import Artefacts
from deployments.engines.recorded import FILE, MAX_RECORDED_BYTES, check_recorded, record
from deployments.errors import ConfigError
from deployments.repository import MANIFEST, write_manifest
from deployments.settings import PreprocessingSpec
from deployments.weight_files import sha256_of
from examples.recording import reference
from examples.shape_pictures import LABELS as SHAPES
from examples.shape_pictures import draw_shape
from tests.unit.checkpoints import LABELS, Trap
from tests.unit.kinds import TINY_ARCHITECTURE, TINY_SPEC, settings, tiny_network
from tests.unit.sentences import sentence_of

pytestmark = pytest.mark.usefixtures("own_cache")
WEIGHTS = "model.safetensors"
PICTURES = 6


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with one version, number 3, and what it answered."""
    directory = tmp_path_factory.mktemp("exported") / "3"
    (directory / "golden").mkdir(parents=True)
    for number in range(PICTURES):
        picture = draw_shape(SHAPES[number], number).resize((60, 48))
        picture.save(directory / "golden" / f"{number}{'.png' if number % 2 else '.jpg'}")
    network = tiny_network()
    save_file(network.state_dict(), directory / WEIGHTS)
    describe(directory, record(directory, TINY_SPEC, reference(network, TINY_SPEC)))
    return directory.parent


def describe(directory: Path, recorded: str | None) -> None:
    write_manifest(
        directory,
        architecture=TINY_ARCHITECTURE,
        weights=WEIGHTS,
        labels=LABELS,
        preprocessing=TINY_SPEC,
        recorded=recorded,
    )


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return shutil.copytree(exported, tmp_path / "model")


def edit(model: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes model.yaml."""
    path = model / "3" / MANIFEST
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def replace_weights(model: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """By others of the same architecture, of whose file model.yaml has the right SHA-256."""
    path = model / "3" / WEIGHTS
    state = load_file(path)
    change(state)
    save_file(state, path)
    edit(model, lambda content: content.update(sha256=sha256_of(path)))


def replace_recording(model: Path, **parts: Any) -> None:
    """Other `parts` in the file, of which model.yaml has the right SHA-256."""
    path = model / "3" / FILE
    with np.load(path) as stored:
        content = dict(stored)
    np.savez(path, **{**content, **parts})
    trust_recording(model)


def trust_recording(model: Path) -> None:
    edit(model, lambda content: content["golden"].update(sha256=sha256_of(model / "3" / FILE)))


def check(model: Path, **more: Any) -> None:
    check_recorded(Artefacts(settings(model, **more)))


def refusal(model: Path, **more: Any) -> str:
    sentence = sentence_of(lambda: check(model, **more))
    assert "ersion 3 of model 'shapes'" in sentence or str(model) in sentence
    return sentence


# What passes


def test_what_was_exported_is_served(model: Path) -> None:
    assert create_engine(settings(model, engine="torch")).info().version == 3


def test_another_machines_rounding_passes(model: Path) -> None:
    with np.load(model / "3" / FILE) as stored:
        logits = stored["logits"]
    noise = np.random.default_rng(5).uniform(-1e-5, 1e-5, logits.shape)
    replace_recording(model, logits=(logits * (1 + noise)).astype(np.float32))
    check(model)


def test_a_version_without_recordings_is_served_as_ever(model: Path) -> None:
    describe(model / "3", None)
    check(model)
    edit(model, lambda content: content.pop("preprocessing_digest"))
    check(model)


def test_a_model_that_is_in_no_directory_has_no_recordings(monkeypatch: pytest.MonkeyPatch, exported: Path) -> None:
    of_a_file = Artefacts(settings(exported))
    monkeypatch.setattr(of_a_file, "found", None)
    check_recorded(of_a_file)


@pytest.mark.parametrize("where", ["settings", "model.yaml"])
def test_a_quicker_decode_is_no_other_training(model: Path, where: str) -> None:
    # Large enough for the decode at a lower scale to make other pixels.
    draw_shape("heart", 7).resize((640, 480)).save(model / "3/golden/0.jpg")
    describe(model / "3", record(model / "3", TINY_SPEC, reference(tiny_network(), TINY_SPEC)))
    if where == "model.yaml":
        edit(model, lambda content: content["preprocessing"].update(fidelity="fast"))
        check(model)
    else:
        check(model, fidelity="fast")


# Another preprocessing

OTHER_SPECS = {
    "resize_size": 40,
    "crop_size": 28,
    "interpolation": "bicubic",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}


@pytest.mark.parametrize("key", OTHER_SPECS)
def test_a_version_that_was_trained_with_another_preprocessing_is_refused(model: Path, key: str) -> None:
    edit(model, lambda content: content["preprocessing"].update({key: OTHER_SPECS[key]}))
    asked_for = PreprocessingSpec.model_validate({**TINY_SPEC.model_dump(), key: OTHER_SPECS[key]})
    sentence = sentence_of(lambda: create_engine(settings(model, engine="torch")))
    assert f"was trained with the preprocessing {TINY_SPEC.digest}, but" in sentence
    assert f"asks for {asked_for.digest}" in sentence


def test_the_recording_knows_the_preprocessing_too(model: Path) -> None:
    edit(model, lambda content: content["preprocessing"].update(mean=OTHER_SPECS["mean"]))
    edit(model, lambda content: content.pop("preprocessing_digest"))
    assert f"was trained with the preprocessing {TINY_SPEC.digest}, but" in refusal(model)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("resize_size", "makes other pixels of"),
        ("interpolation", "makes other pixels of"),
        ("crop_size", "makes other pixels of"),
        ("mean", "numbers are wrong"),
        ("std", "numbers are wrong"),
    ],
)
def test_another_preprocessing_under_the_same_digest_is_refused_by_what_it_does(
    model: Path, key: str, words: str
) -> None:
    edit(model, lambda content: content["preprocessing"].update({key: OTHER_SPECS[key]}))
    digest = PreprocessingSpec.model_validate({**TINY_SPEC.model_dump(), key: OTHER_SPECS[key]}).digest
    edit(model, lambda content: content.update(preprocessing_digest=digest))
    replace_recording(model, preprocessing=np.array(digest))
    assert words in refusal(model)


def test_a_service_that_makes_other_pixels_is_refused_with_what_made_them(model: Path) -> None:
    with np.load(model / "3" / FILE) as stored:
        pixels = stored["pixels"]
    pixels[4] = 0
    replace_recording(model, pixels=pixels, made_with=np.array("Pillow 0.1 and torch 0.2"))
    sentence = refusal(model)
    for words in (f"1 of its {PICTURES} golden pictures ('4.jpg' for one)", "with Pillow 0.1 and torch 0.2; here are"):
        assert words in sentence


# Other weights


def test_other_weights_of_the_same_architecture_are_refused_with_the_figures(model: Path) -> None:
    replace_weights(model, lambda state: state["classifier.1.weight"].normal_())
    sentence = sentence_of(lambda: create_engine(settings(model, engine="torch")))
    for words in ("its numbers are wrong", "a probability differs by ", "more than 0.001", f"on {PICTURES} images"):
        assert words in sentence


def test_classes_that_changed_places_are_refused(model: Path) -> None:
    def swap(state: dict[str, torch.Tensor]) -> None:
        for key in ("classifier.1.weight", "classifier.1.bias"):
            state[key] = state[key][[1, 0, 2, 3, 4]].contiguous()

    replace_weights(model, swap)
    assert "its numbers are wrong" in refusal(model)


def test_logits_that_are_wrong_are_refused_where_the_probabilities_are_right(model: Path) -> None:
    replace_weights(model, lambda state: state["classifier.1.bias"].add_(5))
    sentence = refusal(model)
    for words in ("its numbers are wrong", "a logit differs by 5,", "largest probability difference"):
        assert words in sentence


def test_other_weights_are_refused_wherever_engines_are_compared(model: Path, photographs: Path) -> None:
    check(model, golden=str(photographs))
    replace_weights(model, lambda state: state["classifier.1.weight"].normal_())
    assert "its numbers are wrong" in refusal(model, golden=str(photographs))


# Other files


def test_another_golden_picture_is_refused(model: Path) -> None:
    Image.new("RGB", (60, 48)).save(model / "3/golden/1.png")
    assert f"1 of its {PICTURES} golden pictures ('1.png' for one) have changed" in refusal(model)


def test_a_missing_golden_picture_is_refused(model: Path) -> None:
    (model / "3/golden/1.png").unlink()
    assert "1.png' cannot be read" in refusal(model)


def test_a_picture_beside_those_recorded_is_no_fault(model: Path) -> None:
    draw_shape("heart", 7).save(model / "3/golden/00.png")
    check(model)


def test_a_recording_that_is_missing_or_changed_is_refused(model: Path) -> None:
    path = model / "3" / FILE
    path.write_bytes(path.read_bytes() + b"\0")
    assert "have SHA-256" in refusal(model)
    path.unlink()
    assert "do not exist" in refusal(model)


NO_HASHES = np.zeros((0, 32), np.uint8)
BROKEN: dict[str, Callable[[Path], object]] = {
    "no archive": lambda path: path.write_bytes(b"PK\3\4 and nothing"),
    "a part missing": lambda path: np.savez(path, names=np.array(["0.jpg"])),
    "a pickle": lambda path: pack(path, names=np.array([Trap(path.with_name("sprung"))], dtype=object)),
    "outside": lambda path: pack(path, names=np.array(["../../model.yaml"] * PICTURES)),
    "absolute": lambda path: pack(path, names=np.array(["/etc/hostname"] * PICTURES)),
    "fewer hashes": lambda path: pack(path, files=np.zeros((1, 32), np.uint8)),
    "not finite": lambda path: pack(path, logits=np.full((PICTURES, 5), np.nan, np.float32)),
    "no picture": lambda path: pack(
        path, names=np.array([], "U1"), files=NO_HASHES, pixels=NO_HASHES, logits=np.zeros((0, 5), np.float32)
    ),
    # Compressed to a thousandth.
    "too large": lambda path: np.savez_compressed(path, names=np.zeros(MAX_RECORDED_BYTES, np.uint8)),
}


def pack(path: Path, **parts: Any) -> None:
    with np.load(path) as stored:
        content = dict(stored)
    np.savez(path, **{**content, **parts})


@pytest.mark.parametrize("fault", BROKEN)
def test_a_recording_that_no_export_writes_is_refused(model: Path, fault: str) -> None:
    BROKEN[fault](model / "3" / FILE)
    trust_recording(model)
    assert "not what an export writes" in refusal(model)
    assert not (model / "3/sprung").exists()


def test_logits_of_other_classes_are_refused(model: Path) -> None:
    replace_recording(model, logits=np.zeros((PICTURES, 4), np.float32))
    assert f"have the shape ({PICTURES}, 5) instead of ({PICTURES}, 4)" in refusal(model)


def test_only_pictures_are_recorded(model: Path) -> None:
    (model / "3/golden/6.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match="no images; remove them"):
        record(model / "3", TINY_SPEC, reference(tiny_network(), TINY_SPEC))


# Later loads


class Ran(Exception):
    """The reference."""


@pytest.fixture
def loaded(model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A version that was loaded on this machine before; from now on the reference must not run."""

    def ran(*_: object) -> None:
        raise Ran

    check(model)
    monkeypatch.setattr(Artefacts, "_reference", ran)
    return model


def test_a_later_load_compares_without_running_the_network(loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(loaded)
    # What no comparison passes.
    monkeypatch.setattr("deployments.engines.recorded.MAX_LOGIT_DIFFERENCE", -1.0)
    assert "its numbers are wrong" in refusal(loaded)


def test_other_weights_and_other_versions_of_the_libraries_run_the_network_again(
    loaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library, asker in {"pillow": artefacts, "torch": references}.items():
        with monkeypatch.context() as upgraded:
            upgraded.setattr(asker, "version_of", lambda name, new=library: "99" if name == new else version(name))
            with pytest.raises(Ran):
                check(loaded)
    replace_weights(loaded, lambda state: state["classifier.1.weight"].normal_())
    with pytest.raises(Ran):
        check(loaded)
