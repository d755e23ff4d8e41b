"""Asks a running service whether it keeps its promises: protocols, limits, hostile files, deadlines, overload, keys.

    python -m benchmarks.selftest --url http://127.0.0.1:8000 [--grpc 127.0.0.1:9000] [--key-file KEY] [--model NAME]
                                  [--expect FILE|FOLDER] [--only NAME ...] [--budget-s 60]
                                  [--allow-remote] [--json]

It asks nothing that a client may not ask, in bounded time and with bounded load, and leaves nothing behind. Prints a
line for each claim, and at last one of JSON. Ends with status 0 if all held, 1 if something failed or was not reached
within the budget, and 2 if the service is not there, does not know the key or the model, or the arguments are wrong.
"""

import asyncio
import io
import sys
import time
from collections.abc import Sequence

from benchmarks.selftest.arguments import Options, WrongArguments, options
from benchmarks.selftest.deployment import NotTestable, look_at
from benchmarks.selftest.expectations import WrongExpectations
from benchmarks.selftest.report import Table, complain, document
from benchmarks.selftest.runner import chosen, run
from benchmarks.selftest.service import Service

# Of the budget, how much each question before the first check may take, and how long at most.
SHARE_OF_LOOKING, MOST_LOOKING_S = 0.25, 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        return asyncio.run(_test(options(arguments, __doc__)))
    except (WrongArguments, WrongExpectations, NotTestable) as err:
        complain(str(err))
        return 2


async def _test(given: Options) -> int:
    """The exit status. Raises WrongArguments or NotTestable."""
    checks = chosen(given.only)
    if not checks:
        raise WrongArguments("--only names no topic and no claim.")
    started = time.monotonic()
    service = Service(given.url, given.grpc_address, given.key)
    patience_s = min(MOST_LOOKING_S, SHARE_OF_LOOKING * given.budget_s)
    deployment = await look_at(service, given.model, given.expected, patience_s)
    table = Table(io.StringIO() if given.json_only else sys.stdout)
    table.begin(given)
    rows = await run(checks, deployment, started + given.budget_s, table.add)
    seconds = time.monotonic() - started
    table.end(rows, seconds, service.sent_again)
    print(document(given, deployment.model.name, rows, seconds))
    return 0 if all(row.is_good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
