"""The file that is written: comments stay, every change has its reason, and the config is valid; and what is told."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.tune import __main__ as command
from benchmarks.tune import finals, frontier
from benchmarks.tune.candidate import Candidate, Edit, Subject, applied, edits
from benchmarks.tune.engines import Engines, Speed
from benchmarks.tune.rates import Found, Probe
from benchmarks.tune.session import Result, Wish
from benchmarks.tune.space import CPU_BATCH_SIZES, space
from benchmarks.tune.study import add, open_study
from benchmarks.tune.told import tell
from benchmarks.tune.yaml_edits import LINE_LENGTH, MARK, edited, without_comments
from deployments.engines.registry import Choice
from deployments.errors import ConfigError
from scripts.check_config import check_config

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "configs/local.yaml"
REASON = "the best of " + "several values " * 12
OTHER = Candidate("torch", "bf16", 16, 2, 1, 2, 1, 2, 8, 32)


def subject(text: str) -> Subject:
    config = yaml.safe_load(text)
    return Subject(config, config["applications"][0]["args"]["models"][0]["name"])


def comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.lstrip().startswith("#")]


@pytest.mark.parametrize("name", ["local", "dev", "imagenet"])
def test_comments_stay_and_each_change_has_its_reason_above_it(name: str, tmp_path: Path) -> None:
    text = (ROOT / f"configs/{name}.yaml").read_text()
    changes = edits(subject(text), OTHER)
    made = edited(text, changes, dict.fromkeys(OTHER.record(), REASON), ["found today"])
    assert yaml.safe_load(made) == applied(yaml.safe_load(text), changes)
    assert subject(made).as_it_is == OTHER
    ours = [line for line in comments(made) if MARK in line]
    assert [line for line in comments(made) if line not in ours] == comments(text)
    assert made.startswith(f"{MARK}found today\n")
    assert sum(" -> " in line for line in ours) == len(changes)
    assert max(map(len, ours)) <= LINE_LENGTH
    for change in changes:
        lines = made.splitlines()
        where = next(n for n, line in enumerate(lines) if line.strip() == f"{change.path[-1]}: {change.value}")
        assert MARK in lines[where - 1] or lines[where - 1].strip() == "gathering:"
    path = tmp_path / "made.yaml"
    path.write_text(made)
    check_config(path)


def test_tuning_again_replaces_what_the_last_time_had_to_say() -> None:
    text, reasons = LOCAL.read_text(), dict.fromkeys(OTHER.record(), REASON)
    once = edited(text, edits(subject(text), OTHER), reasons, ["found today"])
    twice = edited(once, edits(subject(once), OTHER), reasons, ["found tomorrow"])
    assert twice == f"{MARK}found tomorrow\n{without_comments(once)}"
    back = edited(once, edits(subject(once), subject(text).as_it_is), reasons, [])
    assert subject(back).as_it_is == subject(text).as_it_is


def test_without_changes_the_text_is_what_it_was_below_the_head() -> None:
    text = LOCAL.read_text()
    assert edited(text, [], {}, ["nothing is better"]) == f"{MARK}nothing is better\n{text}"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        pytest.param("a:\n  b: 1 # why\n", ("a", "b"), id="a value with a comment behind it"),
        pytest.param("a: {b: 1, c: 2}\n", ("a", "b"), id="in braces"),
        pytest.param("a: {c: 2}\n", ("a", "b"), id="missing in braces"),
        pytest.param("a: {}\n", ("a", "b"), id="in empty braces"),
        pytest.param("a:\nd: 1\n", ("a", "b"), id="below nothing"),
        pytest.param("a: null\n", ("a", "b"), id="below null"),
        pytest.param("a:\n  - name: x\n    c: {d: 1}\n  - name: y\n", ("a", 0, "b"), id="missing in a list"),
        pytest.param("a:\n  c:\n    - 1\n    - 2\n", ("a", "b"), id="missing, and no entry is one line"),
        pytest.param("a:\n  c: |\n    text\n    more\nd: 1\n", ("a", "b"), id="missing beside a long text"),
        pytest.param("a:\n  c: 1", ("a", "b"), id="missing, and the file ends without a line end"),
        pytest.param("c: 1\n", ("a", "b"), id="missing with what is above it"),
        pytest.param('a:\n  b: "1"\n', ("a", "b"), id="in quotes"),
    ],
)
def test_a_value_is_set_however_the_file_is_written(text: str, path: tuple[str | int, ...]) -> None:
    change = Edit(path, 7, "threads")
    made = edited(text, [change], {"threads": "faster"}, [])
    assert yaml.safe_load(made) == applied(yaml.safe_load(text), [change])
    assert "faster" in made
    assert all(comment in made for comment in comments(text))


def test_a_file_that_cannot_be_edited_is_refused_with_what_it_should_have() -> None:
    """What stands for another value would be gone."""
    with pytest.raises(ConfigError, match=r"cannot be edited; what it should have is a\.c: 7"):
        edited("a: {c: &x 1, d: *x}\n", [Edit(("a", "c"), 7, "threads")], {}, [])


def result_of(rates: dict[Candidate, list[float]], as_it_is: Candidate, wish: Wish) -> Result:
    """The first rate is the search's, the others those of the finals."""
    study = open_study("tune", 0)
    engines = Engines(
        [Speed("openvino", "fp32", {1: 100.0, 8: 120.0}, 0.004, "top-1 agreement 100.00%")],
        {"openvino int8": "openvino int8 of model 'shapes' is refused: a probability differs by 0.135"},
    )
    within = space(wish.subject, [Choice("openvino", "fp32")], CPU_BATCH_SIZES, wish.cores)
    for candidate, (searched, *rounds) in rates.items():
        add(study, within, candidate, found(searched))
        kept = study.user_attrs.get(finals.ATTRIBUTE, [])
        more = [{"candidate": candidate.record(), "found": found(each).record()} for each in rounds]
        study.set_user_attr(finals.ATTRIBUTE, [*kept, *more])
    return Result(study, as_it_is, engines, {"torch fp32": "one image takes 250 ms"})


def found(per_second: float) -> Found:
    probes = [Probe(50.0, 20.0, 140.0, 200, 0, 0.3), Probe(90.0, 80.0, float("inf"), 300, 9, 0.3)]
    return Found(per_second, 80.0, [*probes, *([Probe(per_second, 30.0, 80.0, 200, 0, 0.3)] if per_second else [])])


def wished() -> Wish:
    return Wish(
        subject=subject(LOCAL.read_text()),
        pictures=[b"x" * 1000],
        goal_ms=100.0,
        seconds=4.0,
        device="cpu",
        cores=2,
        gpus=0,
        trials=4,
        minutes=1.0,
        rounds=2,
        seed=0,
    )


def test_what_is_written_is_the_best_with_its_figures_and_the_last_line_is_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wish = wished()
    now = replace(wish.subject.as_it_is, engine="openvino")
    better = replace(now, replicas=2, max_batch_size=4)
    result = result_of({now: [40.0, 41.0, 39.0], better: [60.0, 55.0, 57.0]}, now, wish)
    output = tmp_path / "made.yaml"
    assert tell(wish, result, config=LOCAL, output=output, into=tmp_path) == 0
    check_config(output)
    text = " ".join(output.read_text().replace(MARK, "").split())
    assert subject(output.read_text()).as_it_is == better
    assert "56 (55 to 57 in 2 rounds) images/s with 99 of 100 answers within 100 ms" in text
    assert "The file as it was: 40 (39 to 41 in 2 rounds)" in text
    assert "8 -> 4: best images/s within 100 ms by value, and of how many candidates: 4: 60 of 1, 8: 40 of 1." in text
    assert "Other programs took 0.3 cores meanwhile" in text

    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["benchmark"] == "tune"
    assert document["chosen"] == better.record()
    assert document["results"][str(better)]["p99 <= 100 ms"]["per_second"]["median"] == 56
    assert document["engines"]["refused"] == result.engines.refused
    assert [each["roles"] for each in document["trials"]] == [["as it is"], ["chosen"]]
    assert (tmp_path / "tune-local.png").stat().st_size > 10_000


def test_where_nothing_meets_the_goal_no_file_is_written_and_the_nearest_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wish = wished()
    result = result_of({wish.subject.as_it_is: [0.0]}, wish.subject.as_it_is, wish)
    output = tmp_path / "made.yaml"
    assert tell(wish, result, config=LOCAL, output=output, into=tmp_path) == 1
    assert not output.exists()
    told = capsys.readouterr().out
    assert "Nothing answers 99 of 100 within 100 ms. The nearest was a p99 of 140 ms at 50 images/s" in told
    assert json.loads(told.splitlines()[-1])["chosen"] is None


def test_a_file_that_is_there_is_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "mine.yaml"
    output.write_text("mine")
    monkeypatch.setattr(sys, "argv", ["tune", "--config", str(LOCAL), "--p99-ms", "100", "--output", str(output)])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert (ended.value.code, output.read_text()) == (1, "mine")
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize("goal_ms", ["0", "-5", "inf", "nan", "soon"])
def test_a_goal_that_is_no_latency_is_refused(goal_ms: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tune", "--config", str(LOCAL), "--p99-ms", goal_ms])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2


def test_the_frontier_is_what_no_other_measurement_beats() -> None:
    measured = [(100.0, 50.0), (50.0, 40.0), (60.0, 30.0), (200.0, 50.0), (300.0, 70.0), (50.0, 20.0)]
    assert frontier.frontier(measured) == [(50.0, 40.0), (100.0, 50.0), (300.0, 70.0)]


def test_measurements_with_requests_that_failed_are_not_in_the_picture() -> None:
    trial: dict[str, Any] = {"probes": [{"p99_ms": None, "per_second": 9.0}, {"p99_ms": 80.0, "per_second": 5.0}]}
    assert frontier.points(trial) == [(80.0, 5.0)]
