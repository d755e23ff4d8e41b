"""Overload in miniature: more at once than there is room for. What is not answered is refused honestly."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from benchmarks.http_client import Connection, Response, Target
from benchmarks.selftest.checks import Broken, Topic, demand
from benchmarks.selftest.deployment import Deployment
from benchmarks.selftest.judging import TOLERANCE, agrees, batched_tolerance, refused, told
from benchmarks.selftest.service import COME_AGAIN
from benchmarks.soak.asking import WAYS
from deployments.protocols.patience import TIMEOUT_HEADER

OVERLOAD = Topic("overload")
CALLERS, BURST_S = 64, 2.0
# How long these clients wait: for any place in line; and for an answer, but for no place far back in line.
PATIENCE_S, HURRY_S = 10.0, 0.25
# Of each caller, so that a service that refuses quickly is not asked without end; and its wait after a refusal.
MOST_REQUESTS, AFTER_REFUSAL_S = 100, 0.1
# Of an answer in the burst; and of the service, until it answers one request again.
ANSWER_S, RECOVERY_S = PATIENCE_S + 2.0, 10.0


@OVERLOAD.claim("200, or 503 with Retry-After")
async def a_burst_is_answered_or_refused_honestly(deployment: Deployment) -> str:
    return await _burst(deployment, PATIENCE_S, COME_AGAIN)


@OVERLOAD.claim("200, 408, or 503 with Retry-After")
async def a_burst_in_a_hurry_is_told_the_truth(deployment: Deployment) -> str:
    return await _burst(deployment, HURRY_S, (*COME_AGAIN, 408))


@OVERLOAD.claim("200 within 10 s")
async def after_the_burst_the_service_answers_as_before(deployment: Deployment) -> str:
    asked = WAYS["predict, raw"].ask([deployment.question])
    started = time.monotonic()
    while True:
        # Sent again when the service says so.
        response = await deployment.service.ask(asked.path, asked.body, asked.headers)
        if response.status not in COME_AGAIN or time.monotonic() - started > RECOVERY_S:
            break
        await asyncio.sleep(AFTER_REFUSAL_S)
    demand(response.status == 200, told(response))
    agrees(asked.read(response), [deployment.question], TOLERANCE)
    return f"200 after {time.monotonic() - started:.1f} s"


async def _burst(deployment: Deployment, timeout_s: float, refusals: Sequence[int]) -> str:
    """How many requests ended in each status. Raises Broken for one that is none of `refusals`, nor the answer."""
    found: Counter[int] = Counter()
    ends = time.monotonic() + BURST_S

    async def call_until_the_end(number: int) -> None:
        question = deployment.questions[number % len(deployment.questions)]
        asked = WAYS["predict, raw"].ask([question])
        target = deployment.service.target(asked.path, {**asked.headers, TIMEOUT_HEADER: f"{timeout_s:g}"})
        async with Caller(target, asked.body) as caller:
            for _ in range(MOST_REQUESTS):
                if time.monotonic() >= ends:
                    break
                response = await caller.ask()
                found[response.status] += 1
                if response.status == 200:
                    agrees(asked.read(response), [question], batched_tolerance(deployment.model.precision))
                else:
                    _check_is_honest(response, refusals)
                    await asyncio.sleep(AFTER_REFUSAL_S)

    outcomes = await asyncio.gather(*map(call_until_the_end, range(CALLERS)), return_exceptions=True)
    wrong = [outcome for outcome in outcomes if outcome is not None]
    if wrong:
        raise Broken(f"{len(wrong)} of {CALLERS} callers: {str(wrong[0]) or repr(wrong[0])}")
    # Whoever is in a hurry may find no time at all.
    demand(found[200] > 0 or 408 in refusals, f"no answer, {dict(found)}")
    return ", ".join(f"{count} x {status}" for status, count in sorted(found.items()))


class Caller:
    """One request after the other, on one connection as long as the service leaves it open."""

    def __init__(self, target: Target, body: bytes) -> None:
        self._target, self._request = target, target.encode(body)
        self._connection: Connection | None = None

    async def __aenter__(self) -> "Caller":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()

    async def ask(self) -> Response:
        """Raises OSError, TimeoutError, asyncio.IncompleteReadError or ValueError."""
        async with asyncio.timeout(ANSWER_S):
            if self._connection is None or not self._connection.is_open:
                self._close()
                self._connection = await Connection.open(self._target)
            return await self._connection.exchange(self._request)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _check_is_honest(response: Response, refusals: Sequence[int]) -> None:
    """Raises Broken."""
    refused(response, refusals)
    after = response.header("retry-after")
    # RFC 9110, section 10.2.3; of the two forms, that in seconds.
    says_when = after is not None and after.isdigit() and int(after) >= 1
    demand(says_when or response.status not in COME_AGAIN, f"{response.status} with Retry-After {after}")
