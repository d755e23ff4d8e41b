"""Models on disk: which version is served, and the one sentence for each thing that can be wrong with it."""

import hashlib
from pathlib import Path

import pytest
import yaml

from deployments.errors import ConfigError
from deployments.repository import MANIFEST, find_version, read_labels, versions_on_disk, write_manifest
from deployments.settings import PreprocessingSpec
from deployments.weight_files import sha256_of
from tests.unit.sentences import sentence_of

WEIGHTS = "model.safetensors"
SPEC = PreprocessingSpec(resize_size=72, crop_size=64, interpolation="bicubic", mean=(0.5, 0.5, 0.5))


def write_version(model: Path, name: str, labels: tuple[str, ...] = ("circle", "square")) -> Path:
    directory = model / name
    directory.mkdir(parents=True)
    (directory / WEIGHTS).write_bytes(f"weights of {name}".encode())
    write_manifest(directory, architecture="resnet18", weights=WEIGHTS, labels=labels, preprocessing=SPEC)
    return directory


def edit_manifest(directory: Path, **changes: object) -> None:
    manifest = yaml.safe_load((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(yaml.safe_dump(manifest | changes))


def test_the_highest_version_is_taken_by_number_and_not_by_text(tmp_path: Path) -> None:
    for name in ("9", "10", "1"):
        write_version(tmp_path, name)
    found = find_version(str(tmp_path))
    assert (found.version, found.weights_path) == (10, tmp_path / "10" / WEIGHTS)


def test_the_version_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    for name in ("9", "10", "1"):
        write_version(tmp_path, name)
    assert find_version(str(tmp_path), 9).weights_path == tmp_path / "9" / WEIGHTS
    assert sentence_of(lambda: find_version(str(tmp_path), 2)) == (
        f"The model directory {str(tmp_path)!r} has no version 2; it has 1, 9, 10."
    )


def test_the_versions_on_disk_are_ascending_and_nothing_of_them_is_read(tmp_path: Path) -> None:
    for name in ("9", "10", "0", "999999999999999999"):
        (tmp_path / name).mkdir()
    assert versions_on_disk(str(tmp_path)) == (0, 9, 10, 999999999999999999)
    (tmp_path / "none").mkdir()
    assert versions_on_disk(str(tmp_path / "none")) == ()
    assert "does not exist" in sentence_of(lambda: versions_on_disk(str(tmp_path / "nowhere")))


def test_of_many_versions_a_sentence_lists_the_highest(tmp_path: Path) -> None:
    for number in range(1, 31):
        (tmp_path / str(number)).mkdir()
    sentence = sentence_of(lambda: find_version(str(tmp_path), 31))
    assert sentence.endswith("it has 30 of them, the highest 21, 22, 23, 24, 25, 26, 27, 28, 29, 30.")


# ARABIC-INDIC DIGIT SEVEN is a decimal digit to str.isdecimal.
NO_NUMBERS = ["11.bak", "v12", "-13", "1.4", "latest", ".15", "²", " 16", "01", "007", "\u0667", "1" * 19, "1\n"]


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_a_directory_whose_name_is_no_integer_is_ignored(tmp_path: Path, name: str) -> None:
    write_version(tmp_path, "2")
    (tmp_path / name).mkdir()
    assert find_version(str(tmp_path)).version == 2


def test_a_file_with_an_integer_name_is_ignored(tmp_path: Path) -> None:
    write_version(tmp_path, "2")
    (tmp_path / "3").touch()
    assert find_version(str(tmp_path)).version == 2


def test_what_was_written_is_found_again(tmp_path: Path) -> None:
    labels = ("yes", "null", "3", "été", "a: b", "# no comment", "two\nlines", " spaces ")
    directory = write_version(tmp_path, "1", labels)
    found = find_version(str(tmp_path))
    assert found.manifest.labels == labels
    assert found.manifest.preprocessing == SPEC
    assert found.manifest.preprocessing.digest == SPEC.digest
    assert found.manifest.architecture == "resnet18"
    assert found.manifest.sha256 == hashlib.sha256((directory / WEIGHTS).read_bytes()).hexdigest()


def test_the_manifest_that_is_returned_is_the_one_on_disk(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / WEIGHTS).touch()
    written = write_manifest(
        tmp_path / "1", architecture="resnet18", weights=WEIGHTS, labels=("a",), preprocessing=SPEC
    )
    assert find_version(str(tmp_path)).manifest == written


def test_a_hash_is_of_the_whole_file_however_large(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000  # More than two of the chunks that are read at a time.
    (tmp_path / "large").write_bytes(content)
    assert sha256_of(tmp_path / "large") == hashlib.sha256(content).hexdigest()


def test_a_missing_model_directory_is_one_sentence_that_says_from_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sentence = sentence_of(lambda: find_version("models/shapes"))
    assert sentence == f"The model directory 'models/shapes' does not exist (looked from {tmp_path})."


def test_a_model_directory_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "shapes").touch()
    assert "does not exist" in sentence_of(lambda: find_version(str(tmp_path / "shapes")))


def test_a_model_without_a_version_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    sentence = sentence_of(lambda: find_version(str(tmp_path)))
    assert f"{str(tmp_path)!r} has no version" in sentence
    assert "integer name" in sentence


def test_an_empty_version_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    sentence = sentence_of(lambda: find_version(str(tmp_path)))
    assert sentence.startswith(f"{str(tmp_path / '1' / 'model.yaml')!r} does not exist, and ")
    assert "has no weights of a known format either" in sentence


@pytest.mark.parametrize(
    ("weights", "needs"),
    [(WEIGHTS, "states the architecture"), ("model.pt2", "vouches for them"), ("model.plan", "vouches for them")],
)
def test_what_weights_without_a_description_lack_is_said(tmp_path: Path, weights: str, needs: str) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / weights).touch()
    sentence = sentence_of(lambda: find_version(str(tmp_path)))
    assert f"has the weights {weights!r}, which are served only with a description that {needs}" in sentence


def test_of_several_weights_without_a_description_none_is_taken(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    for name in ("model.onnx", WEIGHTS):
        (tmp_path / "1" / name).touch()
    sentence = sentence_of(lambda: find_version(str(tmp_path)))
    assert sentence.endswith("has several weights: model.onnx, model.safetensors.")


def test_a_description_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "1" / MANIFEST).mkdir(parents=True)
    assert "cannot be read: Is a directory" in sentence_of(lambda: find_version(str(tmp_path)))


@pytest.mark.parametrize(
    "content", [b"labels: [circle", b"architecture:\tresnet18", b"\xff\xfe\x00"], ids=["unclosed", "a tab", "no text"]
)
def test_a_description_that_is_not_yaml_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / MANIFEST).write_bytes(content)
    sentence = sentence_of(lambda: find_version(str(tmp_path)))
    assert repr(str(tmp_path / "1" / "model.yaml")) in sentence
    assert "is not valid YAML" in sentence


@pytest.mark.parametrize("content", ["", "resnet18", "- resnet18"], ids=["empty", "a word", "a list"])
def test_a_description_that_is_no_mapping_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / MANIFEST).write_text(content)
    sentence = sentence_of(lambda: find_version(str(tmp_path)))
    assert "Manifest has the value" in sentence
    assert "dictionary" in sentence


MISTAKES: dict[str, tuple[dict[str, object], list[str]]] = {
    "misspelt key": ({"arhitecture": "resnet18"}, ["Manifest has no key 'arhitecture'", "'resnet18'", "architecture"]),
    "misspelt key of the preprocessing": (
        {"preprocessing": {"crop": 64}},
        ["PreprocessingSpec has no key 'crop'", "64", "crop_size"],
    ),
    "no labels": ({"labels": []}, ["'labels' of Manifest", "[]", "at least 1"]),
    "labels that YAML takes for booleans": ({"labels": [True, False]}, ["'labels.0'", "True", "valid string"]),
    "hash in capitals": ({"sha256": "A" * 64}, ["'sha256' of Manifest", "AAA", "[0-9a-f]{64}"]),
    "weights in another directory": ({"weights": "../2/model.safetensors"}, ["'weights' of Manifest", "'../2/", "/"]),
    "weights by an absolute path": ({"weights": "/srv/model.safetensors"}, ["'weights' of Manifest", "'/srv/"]),
    "weights with a backslash": ({"weights": "..\\model.safetensors"}, ["'weights' of Manifest", "..\\\\model"]),
}


@pytest.mark.parametrize(("changes", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_a_description_names_the_file_the_key_and_the_value(
    tmp_path: Path, changes: dict[str, object], words: list[str]
) -> None:
    edit_manifest(write_version(tmp_path, "1"), **changes)
    sentence = sentence_of(lambda: find_version(str(tmp_path)))
    assert sentence.startswith(f"In {str(tmp_path / '1' / 'model.yaml')!r}: ")
    assert [word for word in words if word not in sentence] == []


def test_a_key_that_is_missing_is_named(tmp_path: Path) -> None:
    directory = write_version(tmp_path, "1")
    manifest = yaml.safe_load((directory / MANIFEST).read_text())
    del manifest["architecture"]
    (directory / MANIFEST).write_text(yaml.safe_dump(manifest))
    assert "Manifest needs the key 'architecture'" in sentence_of(lambda: find_version(str(tmp_path)))


def test_missing_weights_are_one_sentence(tmp_path: Path) -> None:
    directory = write_version(tmp_path, "1")
    (directory / WEIGHTS).unlink()
    sentence = sentence_of(lambda: find_version(str(tmp_path)))
    assert sentence == f"The weights file {str(directory / WEIGHTS)!r} does not exist."


@pytest.mark.parametrize("name", [".", ".."])
def test_weights_that_are_a_directory_are_one_sentence(tmp_path: Path, name: str) -> None:
    edit_manifest(write_version(tmp_path, "1"), weights=name)
    assert "does not exist" in sentence_of(lambda: find_version(str(tmp_path)))


def test_weights_other_than_the_described_ones_are_refused_with_both_hashes(tmp_path: Path) -> None:
    directory = write_version(tmp_path, "1")
    described = sha256_of(directory / WEIGHTS)
    (directory / WEIGHTS).write_bytes(b"other weights")
    sentence = sentence_of(lambda: find_version(str(tmp_path)))
    for words in (repr(str(directory / WEIGHTS)), hashlib.sha256(b"other weights").hexdigest(), described):
        assert words in sentence


def test_an_unfinished_highest_version_is_an_error_and_not_a_step_back(tmp_path: Path) -> None:
    write_version(tmp_path, "1")
    (tmp_path / "2").mkdir()
    assert str(tmp_path / "2" / MANIFEST) in sentence_of(lambda: find_version(str(tmp_path)))


def test_a_manifest_cannot_be_written_for_weights_elsewhere(tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).touch()
    (tmp_path / "1").mkdir()
    with pytest.raises(ConfigError, match="'weights' of Manifest"):
        write_manifest(
            tmp_path / "1", architecture="resnet18", weights=f"../{WEIGHTS}", labels=("a",), preprocessing=SPEC
        )


def test_labels_are_the_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("tench\ngreat white shark\nété\n", encoding="utf-8")
    assert read_labels(str(tmp_path / "labels.txt")) == ("tench", "great white shark", "été")


def test_the_last_label_needs_no_line_end(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"tench\r\ngoldfish")
    assert read_labels(str(tmp_path / "labels.txt")) == ("tench", "goldfish")


def test_a_missing_labels_file_is_one_sentence(tmp_path: Path) -> None:
    path = str(tmp_path / "labels.txt")
    sentence = sentence_of(lambda: read_labels(path))
    assert f"The labels file {path!r} cannot be read" in sentence
    assert "No such file" in sentence


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is empty"), (b"caf\xe9\n", "cannot be read")], ids=["empty", "not UTF-8"]
)
def test_a_labels_file_without_readable_labels_is_one_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    sentence = sentence_of(lambda: read_labels(str(path)))
    assert repr(str(path)) in sentence
    assert words in sentence
