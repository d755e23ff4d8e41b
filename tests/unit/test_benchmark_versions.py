"""What a run of changing versions serves, asks and counts."""

import asyncio
import json
from collections import Counter

import pytest

from benchmarks.chaos.ledger import Entry, Ledger, Outcome
from benchmarks.chaos.load import Endpoints, closed_loop
from benchmarks.chaos.questions import Question
from benchmarks.versions.files import CORRUPT, FIRST, SECOND, WRONG, ModelFiles, one_thread
from benchmarks.versions.references import VersionedQuestion, agreement, questions
from benchmarks.versions.report import Row, Window, window
from deployments.engines import create_engine
from deployments.errors import ConfigError
from deployments.imaging import preprocess
from deployments.settings import Limits, ModelSettings
from tests.awaiting import free_port
from tests.unit.local_server import LocalServer, serving

ANSWER = {"circle": 0.75, "star": 0.25}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    made = ModelFiles(tmp_path_factory.mktemp("models"), golden=4)
    for version in (SECOND, CORRUPT, WRONG):
        made.publish(version)
    return made


@pytest.fixture(scope="module")
def asked(files: ModelFiles) -> list[VersionedQuestion]:
    with one_thread():
        return questions({version: files.directory(version) for version in (FIRST, SECOND)}, 12)


def settings_of(files: ModelFiles) -> ModelSettings:
    return ModelSettings(name="shapes", path=str(files.root), engine="torch", device="cpu", threads=1)


def test_each_version_answers_as_its_reference_says_and_as_no_other_does(
    files: ModelFiles, asked: list[VersionedQuestion]
) -> None:
    for version, other in ((FIRST, SECOND), (SECOND, FIRST)):
        engine = create_engine(settings_of(files), version)
        info = engine.info()
        for question in asked[:2]:
            logits = engine.infer([preprocess(question.picture, info.preprocessing, Limits())])[0].astype(float)
            powers = [2.718281828459045**value for value in logits - logits.max()]
            found = {label: power / sum(powers) for label, power in zip(info.labels, powers, strict=True)}
            assert question.is_answered_by(found, version)
            assert not question.is_answered_by(found, other)
            assert not question.is_answered_by(found, WRONG)


def test_the_second_version_disagrees_on_some_pictures(asked: list[VersionedQuestion]) -> None:
    assert 0.7 < agreement(asked, FIRST, SECOND) < 1


def test_a_damaged_version_and_one_with_other_weights_are_refused_for_their_own_reasons(files: ModelFiles) -> None:
    with pytest.raises(ConfigError, match="SHA-256"):
        create_engine(settings_of(files), CORRUPT)
    with pytest.raises(ConfigError, match="does not answer as when it was exported"):
        create_engine(settings_of(files), WRONG)


def entry(due: float, ended: float, outcome: Outcome = "answered") -> Entry:
    return Entry("HTTP", due, ended, outcome)


def test_a_refusal_is_a_failure_and_counts_where_it_was_sent() -> None:
    entries = [entry(0.5, 2.0, "refused"), entry(1.0, 1.1), entry(1.5, 1.8), entry(2.0, 2.1, "refused")]
    assert window(entries, 1.0, 2.0) == Window(1.0, answered=2, failed=0, p50_ms=200.0, p99_ms=298.0)
    assert window(entries, 0.0, 1.0).failed == window(entries, 2.0, 3.0).failed == 1


@pytest.mark.parametrize(("failed", "problem", "is_kept"), [(0, "", True), (1, "", False), (0, "late", False)])
def test_a_promise_is_kept_if_nothing_failed_and_the_change_was_seen(failed: int, problem: str, is_kept: bool) -> None:
    during, without = Window(1.0, 10, failed, 50.0, 90.0), Window(1.0, 10, 0, 50.0, 60.0)
    row = Row("load", True, during, without, problem)
    assert row.is_kept is is_kept
    assert row.p99_ratio == 1.5


def test_a_closed_loop_asks_all_questions_and_pauses_all_callers_but_one() -> None:
    names, together, alone = [b"one", b"two", b"three"], 30, 60

    async def run() -> tuple[Ledger, LocalServer, list[int]]:
        ledger, at_once, seen = Ledger(), Counter[str](), []
        reached = {together: asyncio.Event(), alone: asyncio.Event()}

        async def answered(number: int) -> bytes:
            at_once["now"] += 1
            seen.append(at_once["now"])
            answer = reply(server)
            await asyncio.sleep(0.005)
            at_once["now"] -= 1
            if number in reached:
                reached[number].set()
            return answer

        async with serving(answered) as server, asyncio.timeout(20):
            endpoints = Endpoints(server.url.removesuffix("/predict"), f"127.0.0.1:{free_port()}", "shapes")
            asked = [Question(name, ANSWER) for name in names]
            async with closed_loop(endpoints, asked, 3, 0, ledger) as all_ask:
                await reached[together].wait()
                all_ask.clear()
                await reached[alone].wait()
        return ledger, server, seen

    ledger, server, seen = asyncio.run(run())
    assert ledger.count("answered") == len(ledger.entries)
    assert {each.version for each in ledger.entries} == {7}
    assert set(server.bodies[:together]) == set(server.bodies[together:alone]) == set(names)
    assert max(seen[:together]) > 1
    # What was in flight when the others were told to pause has come by then.
    assert set(seen[together + 10 : alone]) == {1}


def reply(server: LocalServer) -> bytes:
    """What the service says to the request before."""
    lines = server.heads[-1].decode().split("\r\n")
    sent = next(line.split(": ")[1] for line in lines if line.lower().startswith("x-request-id"))
    predictions = [{"label": label, "probability": value} for label, value in ANSWER.items()]
    body = json.dumps({"request_id": sent, "version": 7, "predictions": predictions}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
