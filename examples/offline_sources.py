"""Where images come from: files of a folder or a glob, or rows of parquet files; each has an id that names it.

Only names and sizes are read here. The images are read by the actors that decode them.
"""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as parquet

from deployments.errors import ConfigError

# What a folder of pictures has besides, and nobody wants refused one by one.
IGNORED = frozenset({".ds_store", "thumbs.db", "desktop.ini"})

# How many rows of a table are in memory at a time, with their bytes.
READ_IMAGES = 64


class Source(Protocol):
    def items(self, done: frozenset[str]) -> list[dict[str, Any]]:
        """What is to be read, without what is done: dicts with `images`, how many images an item is at most."""
        ...

    def read(self, item: dict[str, Any]) -> Iterator[tuple[str, bytes | None]]:
        """The id of each image of an item, and its bytes; None if they are in the file that the id names."""
        ...


def source_of(where: str, column: str, id_column: str | None) -> Source:
    """Raises ConfigError if there is nothing, or no such column."""
    path = Path(where).expanduser()
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file())
    elif path.is_file():
        found = [path]
    else:
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
    files = [file for file in found if file.name.lower() not in IGNORED]
    if not files:
        raise ConfigError(f"There is no file at {where!r}.")
    tables = [file for file in files if file.suffix.lower() == ".parquet"]
    if not tables:
        _check_names(files)
        return Files(tuple(files))
    if len(tables) < len(files):
        raise ConfigError(f"{where!r} has both parquet files and others, such as {_first_other(files)}; name one kind.")
    for table in tables:
        _check_columns(table, column, id_column)
    return Tables(tuple(tables), column, id_column)


@dataclass(frozen=True)
class Files:
    files: tuple[Path, ...]

    def items(self, done: frozenset[str]) -> list[dict[str, Any]]:
        return [{"id": str(file), "images": 1} for file in self.files if str(file) not in done]

    def read(self, item: dict[str, Any]) -> Iterator[tuple[str, bytes | None]]:
        yield item["id"], None


@dataclass(frozen=True)
class Tables:
    """An item is a row group, which is what parquet reads at a time."""

    files: tuple[Path, ...]
    column: str
    id_column: str | None

    def items(self, done: frozenset[str]) -> list[dict[str, Any]]:
        items = []
        for file in self.files:
            metadata, first = parquet.read_metadata(file), 0
            for group in range(metadata.num_row_groups):
                rows = metadata.row_group(group).num_rows
                left = self._left(file, group, first, rows, done) if done else rows
                if left:
                    items.append({"file": str(file), "group": group, "first": first, "images": left})
                first += rows
        return items

    def read(self, item: dict[str, Any]) -> Iterator[tuple[str, bytes | None]]:
        columns = [self.column] + ([self.id_column] if self.id_column else [])
        first = int(item["first"])
        with parquet.ParquetFile(item["file"]) as file:
            for batch in file.iter_batches(READ_IMAGES, row_groups=[int(item["group"])], columns=columns):
                for name, image in zip(self._ids(batch, item["file"], first), batch.column(self.column), strict=True):
                    value = image.as_py()
                    # As Hugging Face's data sets have them.
                    yield name, (value.get("bytes") if isinstance(value, dict) else value) or b""
                first += batch.num_rows

    def _left(self, file: Path, group: int, first: int, rows: int, done: frozenset[str]) -> int:
        if self.id_column is None:
            return sum(f"{file}#{number}" not in done for number in range(first, first + rows))
        with parquet.ParquetFile(file) as opened:
            table = opened.read_row_group(group, columns=[self.id_column])
        return sum(name not in done for name in self._ids(table, str(file), first))

    def _ids(self, table: Any, file: str, first: int) -> list[str]:
        if self.id_column is None:
            return [f"{file}#{number}" for number in range(first, first + table.num_rows)]
        return [str(value.as_py()) for value in table.column(self.id_column)]


def _check_names(files: list[Path]) -> None:
    for file in files:
        try:
            str(file).encode()
        except UnicodeEncodeError:
            raise ConfigError(f"The name of the file {os.fsencode(file)!r} is not UTF-8; rename it.") from None


def _check_columns(path: Path, column: str, id_column: str | None) -> None:
    try:
        names = parquet.read_schema(path).names
    except (OSError, ValueError) as err:
        raise ConfigError(f"{str(path)!r} is not a parquet file that can be read.") from err
    for wanted in (column, id_column):
        if wanted is not None and wanted not in names:
            raise ConfigError(f"{str(path)!r} has no column {wanted!r}; it has {', '.join(names)}.")


def _first_other(files: list[Path]) -> str:
    return repr(next(file.name for file in files if file.suffix.lower() != ".parquet"))
