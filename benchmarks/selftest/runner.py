"""One check after the other, each with an end, and all within the budget."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import grpc

from benchmarks.selftest.afterwards import AFTERWARDS
from benchmarks.selftest.answers import ANSWERS
from benchmarks.selftest.checks import Broken, Check, Skipped
from benchmarks.selftest.deadlines import DEADLINES
from benchmarks.selftest.deployment import Deployment
from benchmarks.selftest.headers import HEADERS
from benchmarks.selftest.health import HEALTH
from benchmarks.selftest.hostile import HOSTILE
from benchmarks.selftest.keys import KEYS
from benchmarks.selftest.leaving import LEAVING
from benchmarks.selftest.limits import LIMITS
from benchmarks.selftest.overload import OVERLOAD
from benchmarks.selftest.protocols import PROTOCOLS
from benchmarks.selftest.refusals import REFUSALS

TOPICS: Final = (
    *(HEALTH, KEYS, PROTOCOLS, ANSWERS, HEADERS, REFUSALS),
    *(LIMITS, HOSTILE, DEADLINES, LEAVING, OVERLOAD, AFTERWARDS),
)
CHECKS: Final[Sequence[Check]] = tuple(check for topic in TOPICS for check in topic.checks)
# Of one check: longer than the slowest takes on a busy machine.
CHECK_S: Final = 15.0

# held     as expected
# failed   something else came, or nothing
# skipped  cannot be tried here
# not run  the budget was spent
State = Literal["held", "failed", "skipped", "not run"]


@dataclass(frozen=True)
class Row:
    """What came of a check, in milliseconds."""

    check: Check
    state: State
    came: str
    took_ms: float

    @property
    def is_good(self) -> bool:
        return self.state in ("held", "skipped")


def chosen(only: Sequence[str]) -> Sequence[Check]:
    """Those of CHECKS whose topic is one of `only`, or whose claim begins with one; without `only` all."""
    return [
        check
        for check in CHECKS
        if not only or any(name == check.topic or check.claim.startswith(name) for name in only)
    ]


async def run(
    checks: Sequence[Check], deployment: Deployment, ends: float, tell: Callable[[Row], None]
) -> Sequence[Row]:
    """A row for each check, told as soon as it is known. `ends`: in time.monotonic()."""
    rows = []
    for check in checks:
        row = await _try(check, deployment, min(CHECK_S, ends - time.monotonic()))
        tell(row)
        rows.append(row)
    return rows


async def _try(check: Check, deployment: Deployment, timeout_s: float) -> Row:
    if timeout_s <= 0:
        return Row(check, "not run", "no time left: give a larger --budget-s", 0.0)
    started = time.monotonic()
    state, came = await _outcome(check, deployment, timeout_s)
    # It may repeat what the service said, which may be anything, on a terminal.
    shown = "".join(each if each.isprintable() else "?" for each in " ".join(came.split()))
    return Row(check, state, shown, 1000 * (time.monotonic() - started))


async def _outcome(check: Check, deployment: Deployment, timeout_s: float) -> tuple[State, str]:
    try:
        async with asyncio.timeout(timeout_s):
            return "held", await check.find(deployment)
    except Skipped as why:
        return "skipped", str(why)
    except Broken as broken:
        return "failed", str(broken)
    except TimeoutError:
        return "failed", f"no end within {timeout_s:.0f} s"
    except grpc.aio.AioRpcError as err:
        return "failed", f"{err.code().name}: {err.details()}"
    except Exception as err:
        # Of an answer of another form, or a connection that broke, Python's own words say most.
        return "failed", f"{type(err).__name__}: {err}"
