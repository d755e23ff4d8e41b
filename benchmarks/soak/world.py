"""What all clients of a soak share: where the service is, what they send, and where they write down what came of it."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from benchmarks.soak.asking import Way
from benchmarks.soak.ledger import Judgement, Ledger
from benchmarks.soak.questions import Question, smaller

# Longer than the service's own limit of 30 s: never is it the client who gives up on an honest answer.
PATIENCE_S = 45.0
# Several images in one request come to less than max_body_bytes, in base64 too.
SEVERAL_MAX_BYTES = 300_000
BROKEN_SHARE = 0.2


@dataclass
class World:
    """What all clients share."""

    url: str
    grpc_address: str
    questions: Sequence[Question]
    broken: Sequence[Question]
    ledger: Ledger
    stopped: asyncio.Event

    async def pause(self, seconds: float) -> bool:
        """Whether to go on, after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopped.wait()
        return not self.stopped.is_set()

    def pick(self, choose: random.Random, way: Way) -> list[Question]:
        """Images for one request, one of them broken now and then if the others must not mind."""
        fitting = self.questions if way.pixels is None else smaller(self.questions, way.pixels)
        if way.images > 1:
            fitting = [each for each in fitting if len(each.image) <= SEVERAL_MAX_BYTES]
        chosen = choose.choices(fitting, k=way.images)
        if way.one_by_one and choose.random() < BROKEN_SHARE:
            chosen[-2] = choose.choice(self.broken)
        return chosen


def of_status(status: int, right: Sequence[int], body: bytes) -> Judgement:
    if status in right:
        return "answered", ""
    if status in (503, 429):
        return "refused", ""
    if status == 408:
        return "expired", ""
    return "failed", f"{status} {body[:300]!r}"


def of_upload(status: int | None, right: Sequence[int], what: str) -> Judgement:
    if status is None:
        return "lost", what
    fate, detail = of_status(status, right, b"")
    return fate, f"{what}: {detail}"
