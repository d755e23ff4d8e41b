"""Engines against torchvision's own pipeline, and the one sentence for each model that cannot be served.

The model is small and its weights are random: what is compared is arithmetic, and what is refused needs no skill.
"""

import copy
import os
import pickle
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from safetensors.torch import save_file
from torchvision.transforms import Compose, Normalize, ToTensor

from deployments.engines import create_engine, sources, torch_engine
from deployments.engines.base import Engine
from deployments.repository import write_manifest
from deployments.settings import ModelSettings, PreprocessingSpec
from tests.unit.sentences import sentence_of

ARCHITECTURE = "shufflenet_v2_x0_5"
LABELS = ("circle", "square", "star", "heart", "cross")
# Means and deviations that differ by channel, so that a swap of channels or of the two would show.
SPEC = PreprocessingSpec(resize_size=72, crop_size=64, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def settle(module: torch.nn.Module) -> torch.nn.Module:
    """`module` with the statistics of its activations, without which random layers fade all images to one answer."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        module.train()(torch.randn(16, 3, 64, 64))
    return module.eval()


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(5)
    return settle(torchvision.models.get_model(ARCHITECTURE, weights=None, num_classes=len(LABELS)))


@pytest.fixture(scope="module")
def model_path(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with one version, number 3."""
    model = tmp_path_factory.mktemp("shapes")
    (model / "3").mkdir()
    save_file(network.state_dict(), model / "3" / "model.safetensors")
    write_manifest(
        model / "3", architecture=ARCHITECTURE, weights="model.safetensors", labels=LABELS, preprocessing=SPEC
    )
    return model


@pytest.fixture(scope="module")
def engine(model_path: Path) -> Engine:
    return create_engine(ModelSettings(name="shapes", path=str(model_path), device="cpu"))


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """uint8 (8, 64, 64, 3): noise, and two flat ones."""
    noise = np.random.default_rng(5).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    noise[6], noise[7] = 64, 192
    return noise


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


def settings_of_file(
    tmp_path: Path, weights: Path, architecture: str = ARCHITECTURE, classes: int = 5
) -> ModelSettings:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(LABELS[:classes]))
    return ModelSettings(
        name="mine",
        architecture=architecture,
        weights=str(weights),
        labels=str(labels),
        preprocessing=SPEC,
        device="cpu",
    )


def cache(torch_home: Path, architecture: str, state: object) -> None:
    """Lays `state` where torch keeps the weights that it has downloaded."""
    url = torchvision.models.get_model_weights(architecture).DEFAULT.url
    checkpoints = torch_home / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(state, checkpoints / url.rpartition("/")[2])


def pretrained(architecture: str, **settings: Any) -> ModelSettings:
    return ModelSettings(name="big", architecture=architecture, weights="IMAGENET1K_V1", device="cpu", **settings)


def move_download_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.value, "url", url)


# Numerics


def test_logits_are_those_of_torchvisions_own_pipeline(
    engine: Engine, network: torch.nn.Module, pixels: NDArray[np.uint8]
) -> None:
    transform = Compose([ToTensor(), Normalize(SPEC.mean, SPEC.std)])
    with torch.inference_mode():
        expected = network(torch.stack([transform(image) for image in pixels])).numpy()
    np.testing.assert_allclose(engine.infer(pixels), expected, rtol=0, atol=1e-5)


def test_different_images_get_different_logits(engine: Engine, pixels: NDArray[np.uint8]) -> None:
    # Without this, the comparison above would hold for any arithmetic.
    assert engine.infer(pixels).std(axis=0).min() > 0.01


def test_logits_are_float32_with_a_row_an_image(engine: Engine, pixels: NDArray[np.uint8]) -> None:
    logits = engine.infer(pixels)
    assert logits.dtype == np.dtype("float32")
    assert logits.shape == (8, len(LABELS))


@pytest.mark.parametrize("batch_size", range(2, 9))
def test_an_image_gets_the_same_logits_in_a_batch_as_alone(
    engine: Engine, pixels: NDArray[np.uint8], batch_size: int
) -> None:
    alone = np.concatenate([engine.infer(pixels[i : i + 1]) for i in range(batch_size)])
    np.testing.assert_allclose(engine.infer(pixels[:batch_size]), alone, rtol=0, atol=1e-4)


def test_inference_changes_neither_the_pixels_nor_the_next_answer(engine: Engine, pixels: NDArray[np.uint8]) -> None:
    before = pixels.copy()
    first = engine.infer(pixels)
    np.testing.assert_array_equal(engine.infer(pixels), first)
    np.testing.assert_array_equal(pixels, before)


def test_pretrained_weights_get_the_input_that_torchvision_gives_them(torch_home: Path) -> None:
    # GoogLeNet's weights are older than ImageNet's usual means, and torchvision rescales the input in front of them.
    torch.manual_seed(5)
    untrained = torchvision.models.googlenet(weights=None, num_classes=1000, aux_logits=True, init_weights=False)
    cache(torch_home, "googlenet", settle(untrained).state_dict())
    engine = create_engine(pretrained("googlenet"))

    weights = torchvision.models.GoogLeNet_Weights.IMAGENET1K_V1
    reference = torchvision.models.googlenet(weights=weights).eval()
    image = np.random.default_rng(5).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    spec = weights.transforms()
    with torch.inference_mode():
        expected = reference(Compose([ToTensor(), Normalize(spec.mean, spec.std)])(image)[None]).numpy()
    # Looser than above by the size of these logits, which reach 20.
    np.testing.assert_allclose(engine.infer(image[None]), expected, rtol=0, atol=2e-4)


def test_pretrained_tensors_have_the_names_of_torchvisions_own_module(torch_home: Path) -> None:
    # DenseNet's are published under older names, norm.1 where its module has norm1, and without counts of batches.
    own = torchvision.models.get_model("densenet121", weights=None).state_dict()
    weights = {key: torch.full_like(tensor, 3) for key, tensor in own.items() if "num_batches" not in key}
    older = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])")
    cache(torch_home, "densenet121", {older.sub(r"\1.\2", key): tensor for key, tensor in weights.items()})
    state = sources.pretrained_state("densenet121")
    assert state.keys() == own.keys()
    assert all((state[key] == 3).all() for key in weights)


# What an engine says of itself


def test_a_version_on_disk_is_described_by_its_manifest(engine: Engine) -> None:
    info = engine.info()
    assert (info.name, info.version, info.architecture) == ("shapes", 3, ARCHITECTURE)
    assert (info.labels, info.preprocessing) == (LABELS, SPEC)
    assert (info.engine, info.device) == ("torch", "cpu")


def test_a_checkpoint_with_labels_is_served(
    network: torch.nn.Module, engine: Engine, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    mine = create_engine(settings_of_file(tmp_path, tmp_path / "mine.pth"))
    assert (mine.info().labels, mine.info().preprocessing) == (LABELS, SPEC)
    np.testing.assert_array_equal(mine.infer(pixels), engine.infer(pixels))


def test_pretrained_weights_bring_their_labels_and_preprocessing(torch_home: Path) -> None:
    cache(torch_home, ARCHITECTURE, torchvision.models.get_model(ARCHITECTURE, weights=None).state_dict())
    info = create_engine(pretrained(ARCHITECTURE)).info()
    assert (len(info.labels), info.labels[0], info.labels[999]) == (1000, "tench", "toilet tissue")
    assert info.preprocessing == PreprocessingSpec()


def test_warm_up_runs_every_batch_size_once(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine(ModelSettings(name="shapes", path=str(model_path), device="cpu"))
    shapes = []

    def infer(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        shapes.append(pixels.shape)
        return np.zeros((len(pixels), len(LABELS)), dtype=np.float32)

    monkeypatch.setattr(engine, "infer", infer)
    engine.warm_up(3)
    assert shapes == [(1, 64, 64, 3), (2, 64, 64, 3), (3, 64, 64, 3)]


def test_warm_up_refuses_outputs_that_do_not_match_the_labels(
    network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A copy, since an engine lays its module out anew in memory.
    source = sources.ModelSource(copy.deepcopy(network), ARCHITECTURE, version=1, labels=LABELS[:3], preprocessing=SPEC)
    monkeypatch.setattr(torch_engine, "load_source", lambda settings: source)
    engine = create_engine(ModelSettings(name="shapes", path="models/shapes", device="cpu"))
    sentence = sentence_of(lambda: engine.warm_up(1))
    for words in ("'shapes'", "3 labels", ARCHITECTURE, "(1, 5)"):
        assert words in sentence


# What is refused


def test_labels_that_do_not_match_the_outputs_are_refused(network: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    sentence = sentence_of(lambda: create_engine(settings_of_file(tmp_path, tmp_path / "mine.pth", classes=4)))
    for words in ("mine.pth", f"{ARCHITECTURE} with 4 labels", "fc.weight", "(5, 1024)", "(4, 1024)"):
        assert words in sentence


def test_labels_that_do_not_match_pretrained_weights_are_refused(torch_home: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    settings = pretrained(ARCHITECTURE, labels=str(tmp_path / "labels.txt"))
    sentence = sentence_of(lambda: create_engine(settings))
    for words in ("labels.txt", "2 labels", "1000 classes"):
        assert words in sentence


NOT_FOR_IMAGES = pytest.mark.parametrize(
    "architecture", ["resnet1", "raft_small", "ssd300_vgg16"], ids=["unknown", "for optical flow", "for detection"]
)


@NOT_FOR_IMAGES
def test_pretrained_weights_of_no_classifier_of_torchvisions_are_refused(architecture: str) -> None:
    sentence = sentence_of(lambda: create_engine(pretrained(architecture)))
    assert sentence == f"torchvision has no architecture {architecture!r} for classifying images."


@NOT_FOR_IMAGES
def test_a_file_for_no_classifier_of_torchvisions_is_refused(
    network: torch.nn.Module, tmp_path: Path, architecture: str
) -> None:
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    sentence = sentence_of(lambda: create_engine(settings_of_file(tmp_path, tmp_path / "mine.pth", architecture)))
    assert sentence == f"torchvision has no architecture {architecture!r} for classifying images."


def test_unknown_weights_are_refused_with_those_that_exist() -> None:
    settings = ModelSettings(name="big", architecture="resnet50", weights="IMAGENET1K_V3", device="cpu")
    sentence = sentence_of(lambda: create_engine(settings))
    for words in ("'IMAGENET1K_V3'", "'big'", "resnet50", "IMAGENET1K_V1, IMAGENET1K_V2", ".safetensors"):
        assert words in sentence


def test_weights_without_classes_are_refused() -> None:
    settings = ModelSettings(name="big", architecture="vgg16", weights="IMAGENET1K_FEATURES", device="cpu")
    sentence = sentence_of(lambda: create_engine(settings))
    for words in ("'IMAGENET1K_FEATURES'", "'big'", "no classes"):
        assert words in sentence


def test_a_weights_file_without_labels_is_refused() -> None:
    settings = ModelSettings(name="mine", architecture=ARCHITECTURE, weights="mine.pth", device="cpu")
    sentence = sentence_of(lambda: create_engine(settings))
    assert "'mine'" in sentence
    assert "needs labels" in sentence


@pytest.mark.parametrize("name", ["mine.safetensors", "mine.pth", "mine.pt"])
def test_a_missing_weights_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    sentence = sentence_of(lambda: create_engine(settings_of_file(tmp_path, path)))
    assert sentence == f"The weights file {str(path)!r} of model 'mine' does not exist."


@pytest.mark.parametrize("name", ["mine.safetensors", "mine.pth"])
@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: content[: len(content) // 2], lambda content: b"no weights" * 99],
    ids=["empty", "cut in half", "something else"],
)
def test_a_corrupt_weights_file_is_refused(
    network: torch.nn.Module, tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(network.state_dict(), path)
    else:
        torch.save(network.state_dict(), path)
    path.write_bytes(damage(path.read_bytes()))
    sentence = sentence_of(lambda: create_engine(settings_of_file(tmp_path, path)))
    assert sentence.startswith(f"The weights file {str(path)!r} ")
    assert "cannot be read: " in sentence or "is not a plain checkpoint" in sentence


class Trap:
    """Makes a directory when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self._sprung = sprung

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._sprung),)


def test_the_trap_springs_when_a_pickle_is_loaded(tmp_path: Path) -> None:
    # Otherwise the tests below would pass for no reason.
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


def save_as_checkpoint(trap: Trap, path: Path) -> None:
    torch.save({"fc.weight": trap}, path)


def save_as_bare_pickle(trap: Trap, path: Path) -> None:
    path.write_bytes(pickle.dumps({"fc.weight": trap}, protocol=2))


@pytest.mark.parametrize("save", [save_as_checkpoint, save_as_bare_pickle])
def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path, save: Callable[[Trap, Path], None]) -> None:
    save(Trap(tmp_path / "sprung"), tmp_path / "mine.pth")
    sentence = sentence_of(lambda: create_engine(settings_of_file(tmp_path, tmp_path / "mine.pth")))
    assert not (tmp_path / "sprung").exists()
    assert "mine.pth' is not a plain checkpoint; save the model's state_dict()." in sentence


def test_torchs_advice_to_load_pickles_anyway_is_not_passed_on(tmp_path: Path) -> None:
    save_as_checkpoint(Trap(tmp_path / "sprung"), tmp_path / "mine.pth")
    assert "weights_only" not in sentence_of(lambda: create_engine(settings_of_file(tmp_path, tmp_path / "mine.pth")))


def test_a_pickle_with_code_in_torchs_cache_is_refused_and_does_not_run(torch_home: Path, tmp_path: Path) -> None:
    cache(torch_home, ARCHITECTURE, {"fc.weight": Trap(tmp_path / "sprung")})
    sentence = sentence_of(lambda: create_engine(pretrained(ARCHITECTURE)))
    assert not (tmp_path / "sprung").exists()
    assert str(torch_home / "hub") in sentence


@pytest.mark.parametrize(
    "content",
    [torch.zeros(3), [torch.zeros(3)], {3: torch.zeros(3)}],
    ids=["a tensor", "a list", "a dictionary with numbers for keys"],
)
def test_a_checkpoint_that_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "mine.pth")
    sentence = sentence_of(lambda: create_engine(settings_of_file(tmp_path, tmp_path / "mine.pth")))
    assert "is not a plain checkpoint" in sentence


def test_a_checkpoint_with_numbers_for_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": 3}, tmp_path / "mine.pth")
    sentence = sentence_of(lambda: create_engine(settings_of_file(tmp_path, tmp_path / "mine.pth")))
    assert f"is not a checkpoint of {ARCHITECTURE}: its fc.weight is no tensor" in sentence


def test_a_whole_training_state_is_refused(network: torch.nn.Module, tmp_path: Path) -> None:
    torch.save({"epoch": 3, "model": network.state_dict()}, tmp_path / "mine.pth")
    sentence = sentence_of(lambda: create_engine(settings_of_file(tmp_path, tmp_path / "mine.pth")))
    assert f"is not a checkpoint of {ARCHITECTURE}: it lacks conv1.0.weight" in sentence


def test_a_checkpoint_of_another_architecture_is_refused(network: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    settings = settings_of_file(tmp_path, tmp_path / "mine.pth", "squeezenet1_1")
    sentence = sentence_of(lambda: create_engine(settings))
    for words in ("mine.pth", "is not a checkpoint of squeezenet1_1", "lacks features.0.weight"):
        assert words in sentence


def test_a_checkpoint_with_a_layer_too_many_is_refused(network: torch.nn.Module, tmp_path: Path) -> None:
    torch.save({**network.state_dict(), "head.weight": torch.zeros(3)}, tmp_path / "mine.pth")
    sentence = sentence_of(lambda: create_engine(settings_of_file(tmp_path, tmp_path / "mine.pth")))
    assert "unknown head.weight" in sentence


def test_cuda_without_a_device_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch, model_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = ModelSettings(name="shapes", path=str(model_path), device="cuda")
    sentence = sentence_of(lambda: create_engine(settings))
    for words in ("'shapes'", "device 'cuda'", "num_gpus", "'auto' or 'cpu'"):
        assert words in sentence


def test_auto_without_a_device_is_the_cpu(monkeypatch: pytest.MonkeyPatch, model_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert create_engine(ModelSettings(name="shapes", path=str(model_path))).info().device == "cpu"


def test_an_engine_whose_library_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch, model_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "deployments.engines.torch_engine", None)
    settings = ModelSettings(name="shapes", path=str(model_path))
    assert "Engine 'torch' of model 'shapes' cannot be imported" in sentence_of(lambda: create_engine(settings))


# Downloads that fail


def test_a_download_that_is_refused_is_one_sentence_with_the_address_and_the_way_out(
    torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unheard:
        # Bound but not listening: connections are refused, and no one else can take the port.
        unheard.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unheard.getsockname()[1]}/weights-00000000.pth"
        move_download_to(url, monkeypatch)
        sentence = sentence_of(lambda: create_engine(pretrained(ARCHITECTURE)))
    assert f"cannot be downloaded from {url}" in sentence
    assert "Connection refused" in sentence
    assert f"put it into {torch_home}/hub/checkpoints" in sentence


def test_a_download_that_never_answers_ends_with_the_timeout(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DOWNLOAD_TIMEOUT_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        move_download_to(f"http://127.0.0.1:{silent.getsockname()[1]}/weights-00000000.pth", monkeypatch)
        assert "timed out" in sentence_of(lambda: create_engine(pretrained(ARCHITECTURE)))


def test_a_download_with_another_hash_is_refused_and_not_kept(
    torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (torch_home / "weights-00000000.pth").write_bytes(b"the page of a captive portal")
    move_download_to((torch_home / "weights-00000000.pth").as_uri(), monkeypatch)
    assert "invalid hash value" in sentence_of(lambda: create_engine(pretrained(ARCHITECTURE)))
    assert list((torch_home / "hub" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("before", [None, 12.5], ids=["none", "one of the caller's"])
def test_a_download_leaves_the_timeout_of_other_sockets_as_it_was(
    torch_home: Path, monkeypatch: pytest.MonkeyPatch, before: float | None
) -> None:
    move_download_to((torch_home / "nowhere.pth").as_uri(), monkeypatch)
    outside = socket.getdefaulttimeout()
    socket.setdefaulttimeout(before)
    try:
        sentence_of(lambda: create_engine(pretrained(ARCHITECTURE)))
        assert socket.getdefaulttimeout() == before
    finally:
        socket.setdefaulttimeout(outside)


@pytest.mark.parametrize("before", [None, "0"], ids=["unset", "set by the operator"])
def test_a_download_leaves_torchs_switch_for_pickles_as_it_was(
    torch_home: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    move_download_to((torch_home / "nowhere.pth").as_uri(), monkeypatch)
    if before is None:
        monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    else:
        monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", before)
    sentence_of(lambda: create_engine(pretrained(ARCHITECTURE)))
    assert os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD") == before


# The dummy


@pytest.mark.parametrize("label", ["red", "green", "blue"])
def test_the_dummy_separates_the_primary_colours(label: str) -> None:
    dummy = create_engine(ModelSettings(name="dummy", engine="dummy"))
    pixels = np.full((1, 224, 224, 3), 60, dtype=np.uint8)
    pixels[..., dummy.info().labels.index(label)] = 220
    assert dummy.info().labels[dummy.infer(pixels)[0].argmax()] == label


def test_the_dummy_answers_a_batch_as_it_answers_alone() -> None:
    dummy = create_engine(ModelSettings(name="dummy", engine="dummy"))
    pixels = np.random.default_rng(5).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    alone = np.concatenate([dummy.infer(pixels[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(dummy.infer(pixels), alone, rtol=0, atol=1e-5)


def test_the_dummy_takes_the_preprocessing_that_it_is_given() -> None:
    assert create_engine(ModelSettings(name="dummy", engine="dummy", preprocessing=SPEC)).info().preprocessing == SPEC
