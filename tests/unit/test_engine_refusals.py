"""Each model that cannot be served is refused with one sentence, and no pickle runs."""

import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deployments.engines import create_engine, sources
from deployments.settings import ModelSettings
from tests.unit.checkpoints import (
    ARCHITECTURE,
    Trap,
    cache,
    move_download_to,
    pretrained,
    save_as_bare_pickle,
    save_as_checkpoint,
    settings_of_file,
)
from tests.unit.sentences import sentence_of

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
    settings = pretrained("resnet50", weights="IMAGENET1K_V3")
    sentence = sentence_of(lambda: create_engine(settings))
    for words in ("'IMAGENET1K_V3'", "'big'", "resnet50", "IMAGENET1K_V1, IMAGENET1K_V2", ".safetensors"):
        assert words in sentence


def test_weights_without_classes_are_refused() -> None:
    settings = pretrained("vgg16", weights="IMAGENET1K_FEATURES")
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


def test_the_trap_springs_when_a_pickle_is_loaded(tmp_path: Path) -> None:
    # Otherwise the tests below would pass for no reason.
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


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
