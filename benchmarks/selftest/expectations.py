"""Pictures whose labels are known: those of the bundled model, or the user's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

PICTURES: Final = Path(__file__).resolve().parents[2] / "examples/pictures"
# A test of a few seconds asks for no more.
MOST_EXPECTED: Final = 200


class WrongExpectations(Exception):
    """One sentence."""


@dataclass(frozen=True)
class Expected:
    name: str
    image: bytes
    label: str


def bundled() -> Sequence[Expected]:
    """For the model `shapes`."""
    return _read(_named(PICTURES))


def expectations(path: Path) -> Sequence[Expected]:
    """A folder with LABEL.jpg, LABEL-2.jpg or LABEL/*.jpg, or JSON of file (relative to it) -> label.

    Raises WrongExpectations.
    """
    files = _in_folder(path) if path.is_dir() else _in_file(path)
    if not 1 <= len(files) <= MOST_EXPECTED:
        raise WrongExpectations(f"--expect names {len(files)} pictures; it must be 1 to {MOST_EXPECTED}.")
    return _read(files)


def _named(folder: Path) -> Mapping[Path, str]:
    """By the label that each name begins with."""
    return {path: path.stem.partition("-")[0] for path in _pictures(folder)}


def _pictures(folder: Path) -> Sequence[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in Image.registered_extensions()]


def _in_folder(folder: Path) -> Mapping[Path, str]:
    subfolders = [each for each in sorted(folder.iterdir()) if each.is_dir()]
    return {**_named(folder), **{path: each.name for each in subfolders for path in _pictures(each)}}


def _in_file(file: Path) -> Mapping[Path, str]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as err:
        raise WrongExpectations(f"--expect cannot be read as JSON: {err}.") from err
    if not isinstance(content, dict) or not all(isinstance(label, str) for label in content.values()):
        raise WrongExpectations('--expect must be a JSON object of file and label, such as {"a.jpg": "heart"}.')
    return {file.parent / name: label for name, label in content.items()}


def _read(files: Mapping[Path, str]) -> Sequence[Expected]:
    try:
        return [Expected(path.name, path.read_bytes(), label) for path, label in files.items()]
    except OSError as err:
        raise WrongExpectations(f"A picture of --expect cannot be read: {err}.") from err
