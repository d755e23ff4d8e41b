"""Faults and changes, each under a steady load, and what must hold for each of them.

Always: no wrong answer. Otherwise `Promise` says what may happen instead of an answer, and why.
"""

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from benchmarks.chaos.cluster import Cluster, until
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.load import load
from benchmarks.chaos.questions import Question

# Two cores start a replica of a model in ten seconds, and a proxy whose death is noticed late is back after as many.
RECOVERY_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Promise:
    """What may become of requests, besides an answer and an honest refusal."""

    # The process that died held connections of clients itself: what was in flight in it gets no answer.
    may_lose_what_was_in_flight: bool = False

    def is_kept(self, ledger: Ledger) -> bool:
        excused = ledger.in_flight_at_faults() if self.may_lose_what_was_in_flight else 0
        has_failed = bool(ledger.problem) or ledger.count("wrong") + ledger.count("other") > 0
        return not has_failed and ledger.count("lost") <= excused


@dataclass(frozen=True)
class Scenario:
    name: str
    run: Callable[["Stage", Ledger], Awaitable[None]]
    promise: Promise = Promise()


@dataclass(frozen=True)
class Stage:
    """Where scenarios play: a settled cluster, and what is asked of it."""

    cluster: Cluster
    questions: Sequence[Question]
    per_second: float
    # Before: what is usual; and after: that it is so again.
    lead_s: float = 2.0
    well_s: float = 3.0


async def play(scenario: Scenario, stage: Stage) -> Ledger:
    """What became of the requests; returns once all is as before, or with a `problem` if it does not become so."""
    ledger = Ledger()
    async with _under_load(stage, ledger):
        try:
            await scenario.run(stage, ledger)
            await _until_well(stage, ledger)
        except TimeoutError as err:
            ledger.problem = str(err)
    return ledger


async def stopped(stage: Stage, process: "subprocess.Popen[Any]", timeout_s: float) -> tuple[Ledger, int | None]:
    """What became of the requests when the whole service was stopped by SIGTERM, and with which status it ended; None
    if it did not in time. A connection that is refused then has lost nothing, and says so at once."""
    ledger = Ledger()
    async with _under_load(stage, ledger, connect_again=False):
        ledger.faults.append(time.monotonic())
        process.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):
            await until(lambda: process.poll() is not None, timeout_s, "the service ends")
    return ledger, process.returncode


@asynccontextmanager
async def _under_load(stage: Stage, ledger: Ledger, *, connect_again: bool = True) -> AsyncIterator[None]:
    endpoints = stage.cluster.endpoints
    async with load(endpoints, stage.questions, stage.per_second, ledger, connect_again=connect_again):
        await asyncio.sleep(stage.lead_s)
        yield


async def _until_well(stage: Stage, ledger: Ledger) -> None:
    def is_well() -> bool:
        return ledger.answered_since(time.monotonic()) >= stage.well_s

    await until(is_well, RECOVERY_TIMEOUT_S, "answers flow as before")
