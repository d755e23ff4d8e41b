"""What a run under faults counts, and whom it kills."""

import asyncio
import json
import os
import random
import subprocess
import time
from collections.abc import Sequence

import pytest

from benchmarks.chaos.faults import Target, kill_one, targets
from benchmarks.chaos.ledger import Entry, Ledger, Outcome
from benchmarks.chaos.load import Endpoints, load
from benchmarks.chaos.questions import Question, apart, candidates
from benchmarks.chaos.scenarios import Promise
from tests.awaiting import free_port
from tests.unit.local_server import BUSY, HANG_UP, LocalServer, serving

ANSWER = {"circle": 0.75, "star": 0.25}
QUESTION = Question(b"picture", ANSWER)


def entry(due: float, ended: float, outcome: Outcome = "answered") -> Entry:
    return Entry("HTTP", due, ended, outcome)


def test_recovery_lasts_until_the_last_request_that_was_not_answered_soon() -> None:
    ledger = Ledger(
        [entry(0.0, 0.1), entry(1.0, 3.0, "refused"), entry(2.0, 7.5), entry(8.0, 8.1), entry(8.2, 9.1)],
        faults=[1.0],
    )
    assert ledger.recovery_s() == 6.5


def test_recovery_is_counted_from_the_fault_before() -> None:
    ledger = Ledger([entry(0.9, 2.0, "lost"), entry(10.0, 14.0, "lost")], faults=[1.0, 10.0])
    assert ledger.recovery_s() == 4.0


def test_only_what_was_in_flight_when_a_process_died_may_be_lost_with_it() -> None:
    in_flight, later = entry(0.9, 1.1, "lost"), entry(1.2, 31.2, "lost")
    promise = Promise(may_lose_what_was_in_flight=True)
    assert promise.is_kept(Ledger([in_flight], faults=[1.0]))
    assert not promise.is_kept(Ledger([in_flight, later], faults=[1.0]))
    assert not Promise().is_kept(Ledger([in_flight], faults=[1.0]))


@pytest.mark.parametrize("outcome", ["wrong", "other"])
def test_a_wrong_answer_or_another_failure_breaks_every_promise(outcome: Outcome) -> None:
    ledger = Ledger([entry(0.9, 1.1, outcome)], faults=[1.0])
    assert not Promise(may_lose_what_was_in_flight=True).is_kept(ledger)


def answer(number_of: LocalServer, probabilities: dict[str, float], request_id: str | None = None) -> bytes:
    """What the service says to the request before, or what it would say to another one."""
    lines = number_of.heads[-1].decode().split("\r\n")
    sent = next(line.split(": ")[1] for line in lines if line.lower().startswith("x-request-id"))
    predictions = [{"label": label, "probability": value} for label, value in probabilities.items()]
    body = json.dumps({"request_id": request_id or sent, "predictions": predictions}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
CASES: dict[str, tuple[Outcome, object]] = {
    "its answer": ("answered", lambda server: answer(server, ANSWER)),
    "another picture's": ("wrong", lambda server: answer(server, {"circle": 0.7, "star": 0.3})),
    "another request's": ("wrong", lambda server: answer(server, ANSWER, "another")),
    "a refusal that says when to come again": ("refused", lambda server: REFUSED),
    "a refusal that does not": ("other", lambda server: BUSY),
    "nothing": ("lost", lambda server: HANG_UP),
}


@pytest.mark.parametrize("case", CASES)
def test_every_answer_is_told_apart(case: str) -> None:
    expected, respond = CASES[case]
    outcomes = asyncio.run(outcomes_of(respond))
    assert set(outcomes) == {expected}


async def outcomes_of(respond: object) -> Sequence[Outcome]:
    """Of the requests over HTTP; nobody listens for gRPC."""
    ledger, started = Ledger(), asyncio.Event()

    async def answered(number: int) -> bytes:
        started.set()
        assert callable(respond)
        reply: bytes = respond(server)
        return reply

    async with serving(answered) as server:
        endpoints = Endpoints(server.url.removesuffix("/predict"), f"127.0.0.1:{free_port()}", "shapes")
        async with load(endpoints, [QUESTION], 50.0, ledger, connect_again=False):
            await asyncio.wait_for(started.wait(), 10)
    return [each.outcome for each in ledger.entries if each.protocol == "HTTP"]


def test_a_connection_that_is_refused_has_lost_nothing() -> None:
    async def run() -> Ledger:
        ledger = Ledger()
        endpoints = Endpoints(f"http://127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}", "shapes")
        async with load(endpoints, [QUESTION], 50.0, ledger, connect_again=False):
            await asyncio.sleep(0.2)
        return ledger

    ledger = asyncio.run(run())
    assert {each.protocol for each in ledger.entries} == {"HTTP", "gRPC"}
    assert ledger.count("refused") == len(ledger.entries)


def test_answers_that_are_too_alike_are_left_out() -> None:
    alike = Question(b"other", {"circle": 0.76, "star": 0.24})
    unlike = Question(b"third", {"circle": 0.5, "star": 0.5})
    assert apart([QUESTION, alike, unlike], 2) == [QUESTION, unlike]
    with pytest.raises(ValueError, match="Only 1"):
        apart([QUESTION, alike], 2)


def test_the_pictures_are_the_same_each_time_and_differ() -> None:
    assert candidates(6) == candidates(6)
    assert len(set(candidates(6))) == 6


def test_only_processes_below_the_root_are_killed() -> None:
    with subprocess.Popen(["sleep", "60"]) as ours:
        try:
            elsewhere = Target("", program="sleep").processes(ours.pid)
            assert elsewhere == []
            before = time.monotonic()
            killed = kill_one(Target("", program="sleep"), os.getpid(), random.Random(0))
            assert killed is not None
            assert killed[0] == ours.pid
            assert before <= killed[1] <= time.monotonic()
            assert ours.wait(10) == -9
        finally:
            ours.kill()


def test_nothing_is_killed_where_there_is_none() -> None:
    assert kill_one(Target("ServeController"), os.getpid(), random.Random(0)) is None


def test_a_replica_is_told_from_one_whose_name_begins_alike() -> None:
    target = targets("aperture", "shapes", with_haproxy=True)["a classifier"]
    assert target.begins("ray::ServeReplica:aperture:shapes")
    assert target.begins("ray::ServeReplica:aperture:shapes.handle_request")
    assert not target.begins("ray::ServeReplica:aperture:shapes2")
    assert not target.begins("ray::ServeReplica:other:shapes")
