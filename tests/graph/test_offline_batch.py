"""The offline twin on a real cluster, beside the service that it is the twin of."""

from pathlib import Path

import httpx
import pyarrow.parquet as parquet
import pytest

from examples.offline_batch import label, parse_arguments
from tests.reference import picture

SHAPES = ("circle", "star", "heart", "cross")


def test_the_same_image_has_the_same_numbers_online_and_offline_and_a_second_run_does_only_the_rest(
    client: httpx.Client, tmp_path: Path
) -> None:
    pictures, output = tmp_path / "pictures", tmp_path / "output"
    pictures.mkdir()
    for shape in SHAPES:
        (pictures / f"{shape}.png").write_bytes(picture(shape))
    (pictures / "letter.txt").write_bytes(b"no image")
    arguments = parse_arguments([str(pictures), "--output", str(output)])

    counts = label(arguments)
    assert (counts.labelled, counts.refused) == (len(SHAPES), {"unsupported_format": 1})
    found = {Path(row["id"]).name: row for row in parquet.read_table(output).to_pylist()}
    for name, row in found.items():
        answer = client.post("/predict", content=(pictures / name).read_bytes())
        body = answer.json()
        assert row["error"] == body.get("error")
        assert row["code"] == body.get("code")
        assert [each["label"] for each in row["predictions"] or []] == [
            each["label"] for each in body.get("predictions", [])
        ]
        for offline, online in zip(row["predictions"] or [], body.get("predictions", []), strict=True):
            assert offline["probability"] == pytest.approx(online["probability"], abs=1e-6)

    before = set(output.glob("*.parquet"))
    (pictures / "more.png").write_bytes(picture("arrow"))
    written: list[int] = []
    assert label(arguments, written.append).labelled == len(SHAPES) + 1
    assert written == [1]
    assert before < set(output.glob("*.parquet"))
