"""The output of a run: a folder of parquet files, each complete or not there, and what they are of (_run.json)."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as datasets
import pyarrow.parquet as parquet

from deployments.errors import ConfigError
from deployments.messages import ModelInfo

# With the prefix that readers of such folders pass over.
RUN_FILE = "_run.json"
PREDICTION = pa.struct([("label", pa.string()), ("index", pa.int32()), ("probability", pa.float32())])
# A row for each image. `id`: its path, or file#row, or what --id-column says. `label` and `probability` are those of
# the first of `predictions`; an image that was refused has `error` and `code` instead.
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("model", pa.string()),
        ("version", pa.int32()),
        ("label", pa.string()),
        ("probability", pa.float32()),
        ("predictions", pa.list_(PREDICTION)),
        ("error", pa.string()),
        ("code", pa.string()),
    ]
)


@dataclass(frozen=True)
class Run:
    """What all rows of an output have in common."""

    model: str
    version: int
    preprocessing: str
    engine: str
    precision: str
    device: str
    top_k: int

    @classmethod
    def of(cls, info: ModelInfo, top_k: int) -> "Run":
        digest = info.preprocessing.digest
        return cls(info.name, info.version, digest, info.engine, info.precision, info.device, top_k)


@dataclass(frozen=True)
class Counts:
    """`refused`: images by the code of their error."""

    labelled: int
    refused: Mapping[str, int]

    def table(self) -> str:
        rows = [("labelled", self.labelled), *sorted(self.refused.items())]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}}  {count:,}" for name, count in rows)


def begin(output: Path, run: Run) -> None:
    """Makes the folder. Raises ConfigError if it has the rows of another run."""
    output.mkdir(parents=True, exist_ok=True)
    file = output / RUN_FILE
    if not file.exists():
        if any(output.iterdir()):
            raise ConfigError(f"The output {str(output)!r} has other files in it; name an empty or a new folder.")
        file.write_text(json.dumps(asdict(run), indent=2) + "\n")
        return
    before = json.loads(file.read_text())
    for key, value in asdict(run).items():
        if before.get(key) != value:
            raise ConfigError(
                f"The output {str(output)!r} has rows of {key} {before.get(key)!r}, and this run has {value!r}; name "
                f"another folder."
            )


def write_part(output: Path, name: str, table: pa.Table) -> None:
    """Under that name at once, or not at all."""
    # Not a name that ends as a part's does: nobody is to read it before it is complete.
    unfinished = output / f".{name}.{os.getpid()}"
    parquet.write_table(table, unfinished)
    os.replace(unfinished, output / f"{name}.parquet")


def row_of(
    name: str,
    info: ModelInfo,
    predictions: Sequence[Mapping[str, Any]] | None = None,
    error: str | None = None,
    code: str | None = None,
) -> dict[str, Any]:
    first: Mapping[str, Any] = predictions[0] if predictions else {}
    return {
        "id": name,
        "model": info.name,
        "version": info.version,
        "label": first.get("label"),
        "probability": first.get("probability"),
        "predictions": predictions,
        "error": error,
        "code": code,
    }


def done_already(output: Path) -> frozenset[str]:
    """The ids of the rows that are there."""
    return frozenset(_rows(output, ["id"]).column("id").to_pylist())


def counted(output: Path) -> Counts:
    codes = Counter(_rows(output, ["code"]).column("code").to_pylist())
    return Counts(codes.pop(None, 0), codes)


def _rows(output: Path, columns: list[str]) -> pa.Table:
    files = sorted(str(file) for file in output.glob("*.parquet"))
    return datasets.dataset(files, schema=SCHEMA, format="parquet").to_table(columns=columns)
