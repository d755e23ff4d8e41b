"""The load generator's claims: it counts everything, charges waiting to whoever caused it, and always ends."""

import asyncio
import itertools
import math

import pytest

from benchmarks.http_client import Target
from benchmarks.load import Outcome, arrivals, closed_loop, open_loop
from tests.unit.local_server import BUSY, CHUNKED, HANG_UP, LAST, OK, serving

# Requests in a test, more or less.
RATE, DURATION_S = 100.0, 0.3


async def at_once(_: int) -> bytes:
    return OK


async def never(_: int) -> bytes:
    await asyncio.Event().wait()
    return OK


def test_an_open_loop_counts_latency_from_the_moment_a_request_was_due() -> None:
    """One connection, and a server that stalls over the first request: those behind it were due all the while."""

    async def stall_at_first(number: int) -> bytes:
        if number == 0:
            await asyncio.sleep(DURATION_S)
        return OK

    async def run() -> Outcome:
        async with serving(stall_at_first) as server:
            return await open_loop(server.url, [b"x"], RATE, DURATION_S, seed=3, max_connections=1)

    outcome = asyncio.run(run())
    due_s = arrivals(RATE, DURATION_S, seed=3)
    assert len(outcome.latencies_s) == len(due_s) > 10
    # Answered in order, none before the first was: that is DURATION_S after the first was due at the earliest.
    assert all(
        latency_s >= DURATION_S - (at_s - due_s[0]) - 1e-3
        for latency_s, at_s in zip(outcome.latencies_s, due_s, strict=True)
    )


def test_a_closed_loop_sends_nothing_while_its_callers_wait() -> None:
    async def run() -> tuple[int, int]:
        waiting = most = 0
        all_wait = asyncio.Event()

        async def together(_: int) -> bytes:
            nonlocal waiting, most
            waiting += 1
            most = max(most, waiting)
            if waiting == 3:
                all_wait.set()
            await all_wait.wait()
            waiting -= 1
            return OK

        async with serving(together) as server:
            await closed_loop(server.url, [b"x"], 3, DURATION_S)
            return most, server.connections

    assert asyncio.run(run()) == (3, 3)


def test_every_request_of_an_open_loop_is_sent_and_counted_once() -> None:
    async def every_third_is_refused(number: int) -> bytes:
        return BUSY if number % 3 == 0 else OK

    async def run() -> tuple[Outcome, int]:
        async with serving(every_third_is_refused) as server:
            return await open_loop(server.url, [b"x"], RATE, DURATION_S), len(server.bodies)

    outcome, seen = asyncio.run(run())
    assert seen == len(arrivals(RATE, DURATION_S, seed=0)) == sum(outcome.statuses.values())
    assert outcome.failed == outcome.statuses["503"] == math.ceil(seen / 3)
    assert len(outcome.latencies_s) == outcome.statuses["200"] == seen - outcome.failed


@pytest.mark.parametrize("connections", [pytest.param(1, id="one connection"), pytest.param(64, id="many connections")])
def test_an_open_loop_ends_and_counts_timeouts_when_nothing_is_answered(connections: int) -> None:
    async def run() -> Outcome:
        async with serving(never) as server, asyncio.timeout(60):
            return await open_loop(server.url, [b"x"], RATE, DURATION_S, timeout_s=0.1, max_connections=connections)

    outcome = asyncio.run(run())
    assert outcome.statuses == {"timeout": len(arrivals(RATE, DURATION_S, seed=0))}
    assert outcome.latencies_s == []
    assert outcome.failed == outcome.statuses["timeout"]


def test_a_closed_loop_ends_when_nothing_is_answered() -> None:
    async def run() -> Outcome:
        async with serving(never) as server, asyncio.timeout(60):
            return await closed_loop(server.url, [b"x"], 2, 0.1, timeout_s=0.2)

    assert asyncio.run(run()).statuses == {"timeout": 2}


def test_a_connection_on_which_an_answer_may_still_come_is_not_used_again() -> None:
    async def run() -> tuple[Outcome, int]:
        async with serving(lambda number: never(number) if number == 0 else at_once(number)) as server:
            outcome = await closed_loop(server.url, [b"x"], 1, 1.0, timeout_s=0.1)
            return outcome, server.connections

    outcome, connections = asyncio.run(run())
    assert outcome.statuses["timeout"] == 1
    assert outcome.statuses["200"] > 0
    assert connections == 2


def test_a_server_that_hangs_up_is_counted_and_tried_again() -> None:
    async def first_hangs_up(number: int) -> bytes:
        return HANG_UP if number == 0 else OK

    async def run() -> Outcome:
        async with serving(first_hangs_up) as server:
            return await open_loop(server.url, [b"x"], RATE, DURATION_S)

    outcome = asyncio.run(run())
    assert outcome.statuses["disconnected"] == 1
    assert outcome.statuses["200"] == sum(outcome.statuses.values()) - 1


def test_a_server_that_is_not_there_is_counted() -> None:
    async def run() -> Outcome:
        async with serving(at_once) as server:
            url = server.url
        return await closed_loop(url, [b"x"], 1, 0.01)

    outcome = asyncio.run(run())
    assert outcome.statuses["disconnected"] == outcome.failed > 0


def test_an_open_loop_never_opens_more_connections_than_it_may() -> None:
    async def run() -> int:
        three_wait = asyncio.Event()

        async def three_at_a_time(number: int) -> bytes:
            if number == 2:
                three_wait.set()
            await three_wait.wait()
            return OK

        async with serving(three_at_a_time) as server:
            await open_loop(server.url, [b"x"], RATE, DURATION_S, warm_connections=1, max_connections=3)
            return server.connections

    assert asyncio.run(run()) == 3


@pytest.mark.parametrize(
    ("answer", "keeps"),
    [
        pytest.param(OK, True, id="a stated length"),
        pytest.param(CHUNKED, True, id="chunks"),
        pytest.param(LAST, False, id="the last on its connection"),
    ],
)
def test_connections_are_kept_unless_the_server_says_otherwise(answer: bytes, keeps: bool) -> None:
    async def respond(_: int) -> bytes:
        return answer

    async def run() -> tuple[Outcome, int]:
        async with serving(respond) as server:
            return await closed_loop(server.url, [b"x"], 1, 0.1), server.connections

    outcome, connections = asyncio.run(run())
    assert outcome.failed == 0
    assert connections == (1 if keeps else outcome.statuses["200"])


def test_bodies_go_in_turn_and_with_the_headers_of_the_target() -> None:
    async def run() -> tuple[list[bytes], list[bytes]]:
        async with serving(at_once) as server:
            target = Target(f"{server.url}?top_k=1", {"Content-Type": "image/jpeg"})
            await open_loop(target, [b"first", b"second"], RATE, DURATION_S, max_connections=1)
            return server.heads, server.bodies

    heads, bodies = asyncio.run(run())
    assert bodies == [(b"first", b"second")[number % 2] for number in range(len(bodies))]
    assert all(head.startswith(b"POST /predict?top_k=1 HTTP/1.1\r\n") for head in heads)
    assert all(b"\r\nContent-Type: image/jpeg\r\n" in head for head in heads)


def test_arrivals_are_those_of_a_poisson_process() -> None:
    moments_s = arrivals(200.0, 50.0, seed=1)
    assert moments_s == sorted(moments_s) == arrivals(200.0, 50.0, seed=1) != arrivals(200.0, 50.0, seed=2)
    assert 0 <= moments_s[0] < moments_s[-1] < 50.0
    assert abs(len(moments_s) - 10_000) < 5 * 10_000**0.5
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(moments_s)]
    mean_s = sum(gaps_s) / len(gaps_s)
    deviation_s = (sum((gap_s - mean_s) ** 2 for gap_s in gaps_s) / len(gaps_s)) ** 0.5
    assert deviation_s == pytest.approx(mean_s, rel=0.05)  # As of no other process.


def test_an_open_loop_of_too_many_requests_is_refused() -> None:
    with pytest.raises(ValueError, match="more than"):
        arrivals(10_000.0, 3600.0, seed=0)


def test_percentiles_and_rates_are_over_what_was_answered() -> None:
    outcome = Outcome(2.0, [number / 1000 for number in range(101)], {"200": 101, "503": 7, "timeout": 2})
    assert outcome.percentile_ms(50) == pytest.approx(50)
    assert outcome.percentile_ms(99) == pytest.approx(99)
    assert outcome.per_second == 50.5
    assert outcome.failed == 9
    assert math.isnan(Outcome(1.0, [], {"timeout": 1}).percentile_ms(50))
