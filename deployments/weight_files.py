"""What the weights of a version are: their format, the files that belong to them, and one hash of these.

This module knows no model library. Of ONNX it reads as much of the wire format as it takes to find external data.
"""

import hashlib
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from deployments.errors import ConfigError

Format = Literal["state_dict", "torch_export", "onnx", "saved_model", "tensorrt"]

HASH_CHUNK_BYTES: Final = 2**20
# TensorFlow's own name for the graph in a SavedModel directory, and its folders that are read beside it
# (tensorflow/cc/saved_model/constants.h).
SAVED_MODEL: Final = "saved_model.pb"
SAVED_MODEL_FOLDERS: Final = ("variables", "assets")
FORMATS: Final[Mapping[str, Format]] = {
    ".safetensors": "state_dict",
    ".pth": "state_dict",
    ".pt": "state_dict",
    ".pt2": "torch_export",
    ".onnx": "onnx",
    ".plan": "tensorrt",
    ".engine": "tensorrt",
}
# Where tensors are in an ONNX model: the fields of its messages that lead to one, by their numbers (onnx/onnx.proto).
ONNX_FIELDS: Final[Mapping[str, Mapping[int, str]]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        **{5: "TensorProto", 10: "TensorProto", 6: "GraphProto", 11: "GraphProto"},
        **{22: "SparseTensorProto", 23: "SparseTensorProto"},
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}
ONNX_GRAPH_FIELD: Final = 7
# Of protobuf: a tag is the number of a field and, in three bits, how long what follows is.
VARINT, EIGHT_BYTES, WITH_LENGTH, FOUR_BYTES = 0, 1, 2, 5
VARINT_BYTES: Final = 10


def format_of(weights: str) -> Format | None:
    """The format of a file of that name; None if the name does not tell."""
    return "saved_model" if weights == SAVED_MODEL else FORMATS.get(PurePosixPath(weights).suffix.lower())


def files_of(directory: Path, weights: str, kind: Format) -> tuple[str, ...]:
    """All files that the weights are in, relative to `directory`, in the order of their names.

    An ONNX model may have its tensors in other files, and a SavedModel has its variables and assets. Raises ConfigError
    if one is missing, lies outside of `directory`, or the ONNX file is no such thing.
    """
    if not (directory / weights).is_file():
        raise ConfigError(f"The weights file {str(directory / weights)!r} does not exist.")
    if kind == "onnx":
        return tuple(sorted({weights, *_external_files(directory, weights)}))
    if kind == "saved_model":
        return tuple(sorted({weights, *_files_of_saved_model(directory)}))
    return (weights,)


def digest_of(directory: Path, weights: str, kind: Format) -> str:
    """64 hex digits: the SHA-256 of the file, or, of weights in several files, what `sha256sum FILES | sha256sum`
    prints, where FILES are those of `files_of` and the directory is the working directory: the SHA-256 over a line
    "HASH  NAME" for each.

    A SavedModel counts as several even without variables. Raises as `files_of`.
    """
    files = files_of(directory, weights, kind)
    if files == (weights,) and kind != "saved_model":
        return sha256_of(directory / weights)
    lines = [f"{sha256_of(directory / name)}  {name}\n" for name in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _files_of_saved_model(directory: Path) -> Iterator[str]:
    for folder in SAVED_MODEL_FOLDERS:
        for path in (directory / folder).rglob("*"):
            if path.is_file():
                yield _inside(directory, path.relative_to(directory).as_posix(), "SavedModel")


def _external_files(directory: Path, weights: str) -> Iterator[str]:
    for name in sorted(set(_locations(directory / weights))):
        inside = _inside(directory, name, f"ONNX file {weights!r}")
        if not (directory / inside).is_file():
            raise ConfigError(f"The ONNX file {str(directory / weights)!r} has tensors in {name!r}, which is missing.")
        yield inside


def _inside(directory: Path, name: str, owner: str) -> str:
    """`name` itself, if that is a file inside of `directory` whose name has no line of its own in a list of hashes."""
    path = PurePosixPath(name)
    leaves = path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable()
    if not name or leaves or not (directory / path).resolve().is_relative_to(directory.resolve()):
        raise ConfigError(
            f"The {owner} in {str(directory)!r} refers to the file {name!r}, but all that belongs to a version must "
            f"lie inside its directory."
        )
    return path.as_posix()


def _locations(path: Path) -> Iterator[str]:
    """The names of the files in which the ONNX model has tensors. Raises ConfigError if it is cut off or no model."""
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            memoryview(content) as view,
        ):
            found = list(_walk(view))
    except (_Malformed, UnicodeDecodeError, ValueError):  # ValueError: an empty file, which cannot be mapped.
        raise ConfigError(f"The ONNX file {str(path)!r} cannot be read: it is cut off, or no ONNX file.") from None
    yield from found


class _Malformed(Exception):
    pass


def _walk(model: memoryview) -> Iterator[str]:
    if not any(number == ONNX_GRAPH_FIELD for number, _, _ in _fields(model, 0, len(model))):
        raise _Malformed
    # Of messages that are still to be read: what each is, and where it begins and ends.
    ahead = [("ModelProto", 0, len(model))]
    while ahead:
        kind, start, end = ahead.pop()
        if kind == "StringStringEntryProto":
            entry = {number: bytes(model[a:b]).decode() for number, a, b in _fields(model, start, end)}
            if entry.get(1) == "location":
                yield entry.get(2, "")
            continue
        leads_to = ONNX_FIELDS[kind]
        ahead += [(leads_to[number], a, b) for number, a, b in _fields(model, start, end) if number in leads_to]


def _fields(data: memoryview, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Of the fields that have a length: their number, and where their content begins and ends."""
    while position < end:
        tag, position = _varint(data, position, end)
        number, width = tag >> 3, tag & 7
        if width == VARINT:
            _, position = _varint(data, position, end)
        elif width == EIGHT_BYTES:
            position += 8
        elif width == FOUR_BYTES:
            position += 4
        elif width == WITH_LENGTH:
            length, position = _varint(data, position, end)
            if length > end - position:
                raise _Malformed
            yield number, position, position + length
            position += length
        else:
            raise _Malformed
    if position > end:
        raise _Malformed


def _varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    value = 0
    for index in range(min(VARINT_BYTES, end - position)):
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise _Malformed
