"""Deadlines: moments of this process's monotonic clock, in seconds.

Clocks of other machines differ, so what travels between processes is a budget, the seconds that are left.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deployments.errors import DeadlineExceeded

# Half of the millisecond to which times are told.
LEAST_TOLD_S = 0.0005


def after(budget_s: float) -> float:
    """The deadline of work that has so many seconds left."""
    return time.monotonic() + budget_s


def budget_s(deadline: float) -> float:
    """The seconds that are left, at least zero."""
    return max(0.0, deadline - time.monotonic())


@asynccontextmanager
async def within(timeout_s: float) -> AsyncIterator[None]:
    """Raises DeadlineExceeded if the block takes longer."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        if timeout_s < LEAST_TOLD_S:
            raise DeadlineExceeded("The deadline passed before the work could begin.") from None
        raise DeadlineExceeded(f"No answer within {round(timeout_s, 3):g} s.") from None
