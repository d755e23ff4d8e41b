"""The offline twin without Ray: where images come from, what is written, and that numbers are the reference's."""

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from deployments.errors import ConfigError
from deployments.repository import find_version
from deployments.settings import Limits, ModelSettings
from examples.offline_batch import ROOT
from examples.offline_parts import SCHEMA, Run, begin, counted, done_already, write_part
from examples.offline_sources import source_of
from examples.offline_stages import Classify, Preprocess, Write, rows_of
from tests.reference import Reference, picture

HEART = (ROOT / "examples/pictures/heart.jpg").read_bytes()
STAR = picture("star")
RUN = Run("shapes", 1, "digest", "torch", "fp32", "cpu", 5)


def columns_of(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.array([item[name] for item in items], object) for name in items[0]}


def table_of(path: Path, column: Any, **others: Any) -> Path:
    parquet.write_table(pa.table({"image": column, **others}), path, row_group_size=2)
    return path


def rows(names: list[str], codes: list[str | None]) -> pa.Table:
    return pa.Table.from_pylist([{"id": n, "code": c} for n, c in zip(names, codes, strict=True)], schema=SCHEMA)


def test_a_folder_is_read_to_its_bottom_and_what_is_done_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for name in ("b.jpg", "deeper/a.png", ".DS_Store"):
        (tmp_path / name).write_bytes(HEART)
    done = frozenset([str(tmp_path / "b.jpg")])
    assert source_of(str(tmp_path), "image", None).items(done) == [{"id": str(tmp_path / "deeper/a.png"), "images": 1}]


def test_a_glob_names_what_it_matches(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.txt"):
        (tmp_path / name).write_bytes(HEART)
    items = source_of(f"{tmp_path}/**/*.jpg", "image", None).items(frozenset())
    assert [item["id"] for item in items] == [str(tmp_path / "a.jpg")]


@pytest.mark.parametrize("struct", [False, True], ids=["bytes", "struct"])
def test_rows_of_a_table_are_named_by_file_and_number(tmp_path: Path, struct: bool) -> None:
    images = [{"bytes": HEART, "path": "x"}] * 3 if struct else [HEART] * 3
    table = table_of(tmp_path / "t.parquet", images)
    source, done = source_of(str(table), "image", None), frozenset([f"{table}#1"])
    items = source.items(done)
    assert [item["images"] for item in items] == [1, 1]
    (batch,) = rows_of(columns_of(items), source, done)
    assert list(batch["id"]) == [f"{table}#0", f"{table}#2"]
    assert list(batch["image"]) == [HEART, HEART]


def test_a_column_can_name_the_rows(tmp_path: Path) -> None:
    table = table_of(tmp_path / "t.parquet", [HEART, STAR, None], key=[7, 8, 9])
    source, done = source_of(str(table), "image", "key"), frozenset(["7", "8"])
    (item,) = source.items(done)
    assert list(source.read(item)) == [("9", b"")]


@pytest.mark.parametrize(
    ("files", "where", "column", "said"),
    [
        ({}, "", "image", "There is no file at"),
        ({"a.parquet": b"no table"}, "", "image", "is not a parquet file"),
        ({"a.parquet": None}, "", "picture", "has no column 'picture'; it has image"),
        ({"a.parquet": None, "b.jpg": b""}, "", "image", "has both parquet files and others, such as 'b.jpg'"),
        ({os.fsdecode(b"\xff.jpg"): b""}, "", "image", "is not UTF-8"),
    ],
    ids=["nothing", "no table", "no column", "both", "no text"],
)
def test_what_cannot_be_read_is_one_sentence(
    tmp_path: Path, files: dict[str, bytes | None], where: str, column: str, said: str
) -> None:
    for name, content in files.items():
        if content is None:
            table_of(tmp_path / name, [HEART])
        else:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        source_of(str(tmp_path / where), column, None)


def test_an_output_goes_on_with_the_same_run_and_refuses_another(tmp_path: Path) -> None:
    begin(tmp_path / "out", RUN)
    write_part(tmp_path / "out", "one", rows(["a", "b"], [None, "corrupt_image"]))
    begin(tmp_path / "out", RUN)
    assert done_already(tmp_path / "out") == {"a", "b"}
    assert parquet.read_table(tmp_path / "out").num_rows == 2
    counts = counted(tmp_path / "out")
    assert (counts.labelled, counts.refused) == (1, {"corrupt_image": 1})
    with pytest.raises(ConfigError, match="has rows of version 1, and this run has 2"):
        begin(tmp_path / "out", Run("shapes", 2, "digest", "torch", "fp32", "cpu", 5))


def test_an_output_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="has other files in it"):
        begin(tmp_path, RUN)


def test_a_file_that_was_not_completed_does_not_count(tmp_path: Path) -> None:
    begin(tmp_path, RUN)
    (tmp_path / ".half.123").write_bytes(b"PAR1")
    assert done_already(tmp_path) == frozenset()


def test_a_block_that_is_computed_twice_is_there_once(tmp_path: Path) -> None:
    begin(tmp_path, RUN)
    for _ in range(2):
        Write(tmp_path)({name: rows(["a"], [None]).column(name) for name in SCHEMA.names})
    assert len(list(tmp_path.glob("*.parquet"))) == 1


def test_numbers_are_the_references_and_a_bad_image_is_a_row_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelSettings(name="shapes", path=str(ROOT / "models/shapes"), engine="torch", device="cpu", threads=1)
    reference = Reference(ROOT / "models/shapes")
    (tmp_path / "large.jpg").write_bytes(HEART + bytes(20_000))
    names = [str(tmp_path / "none.jpg"), str(tmp_path / "large.jpg")]
    images = [HEART, STAR, b"no image", HEART[:900]]
    batch = {
        "id": np.array([*"abcd", *names], object),
        "image": np.array([*images, b"", b""], object),
        "is_file": np.array([False] * 4 + [True] * 2),
    }
    spec = find_version(str(ROOT / "models/shapes")).manifest.preprocessing
    monkeypatch.chdir(ROOT)
    preprocess, classify = Preprocess(Limits(max_body_bytes=20_000), spec, 1), Classify(model, 1, 3, ROOT)
    with closing(preprocess), closing(classify):
        found = classify(preprocess(batch)).to_pylist()
    for row, image in zip(found[:2], images[:2], strict=True):
        expected = reference.probabilities(image)
        best = sorted(expected, key=lambda label: -expected[label])[:3]
        assert [prediction["label"] for prediction in row["predictions"]] == best
        for prediction in row["predictions"]:
            assert prediction["probability"] == pytest.approx(expected[prediction["label"]], abs=1e-6)
        assert (row["label"], row["error"], row["code"]) == (best[0], None, None)
    codes = ["unsupported_format", "corrupt_image", "corrupt_image", "body_too_large"]
    assert [row["code"] for row in found[2:]] == codes
    assert all(row["error"] and row["label"] is None and row["predictions"] is None for row in found[2:])
