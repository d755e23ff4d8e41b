"""The translation benchmark sends what every protocol answers."""

import asyncio
import json

import pytest

from benchmarks import translation
from benchmarks.translation import BINARY, PLAIN, Form, application, forms, measure, table


def test_every_form_is_answered_and_has_a_time_for_each_round() -> None:
    times_ms = asyncio.run(measure(application(), forms(b"an image"), requests=2, rounds=2))
    assert {PLAIN, BINARY} < set(times_ms)
    assert all(len(times) == 2 and min(times) > 0 for times in times_ms.values())


def test_a_form_that_is_refused_stops_the_benchmark() -> None:
    with pytest.raises(RuntimeError, match="answered with 400"):
        asyncio.run(measure(application(), {PLAIN: Form("/predict", b"")}, requests=1, rounds=1))


def test_the_table_has_each_form_beside_the_plain_protocol() -> None:
    lines = table({PLAIN: {"cpu_ms": 0.5}, BINARY: {"cpu_ms": 0.75}}).splitlines()
    assert lines[1].split()[-2:] == ["0.500", "+0.000"]
    assert lines[2].split()[-2:] == ["0.750", "+0.250"]


def test_the_last_line_is_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["translation", "--requests", "1", "--rounds", "1"])
    translation.main()
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["benchmark"] == "translation"
    assert document["bar"]["at_most_ms"] == 0.5
