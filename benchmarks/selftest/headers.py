"""What goes with every answer: its id, where its time went, and what browsers must not do with it."""

import re
import uuid

from benchmarks.http_client import Response
from benchmarks.selftest.checks import Broken, Skipped, Topic, demand
from benchmarks.selftest.deployment import Deployment
from benchmarks.selftest.judging import content_of, parsed
from benchmarks.soak.asking import WAYS

HEADERS = Topic("headers")
# Of Server-Timing (w3.org/TR/server-timing): a name and its duration in milliseconds.
METRIC = re.compile(r"([a-z_-]+);dur=(\d+(?:\.\d+)?)")
TOTAL = "total"
# Each is rounded to a hundredth of a millisecond.
ROUNDING_MS = 0.01
TIMED = 3
# Pages and what must stand in their policies: nothing of another origin runs, and no other page frames them.
PAGES = ("/docs", "/")
POLICIES = ("default-src", "frame-ancestors 'none'")


@HEADERS.claim("the one that was sent")
async def a_request_keeps_its_id(deployment: Deployment) -> str:
    asked, sent = WAYS["predict, raw"].ask([deployment.question]), f"selftest-{uuid.uuid4()}"
    response = await deployment.service.ask(asked.path, asked.body, {"x-request-id": sent})
    named = {response.header("x-request-id"), content_of(response)["request_id"]}
    demand(named == {sent}, f"{named} in place of {sent}")
    return "the same in header and body"


@HEADERS.claim("another each time")
async def a_request_without_an_id_gets_one(deployment: Deployment) -> str:
    asked = WAYS["predict, raw"].ask([deployment.question])
    ids = [(await deployment.service.ask(asked.path, asked.body)).header("x-request-id") for _ in range(2)]
    demand(all(ids) and ids[0] != ids[1], f"{ids}")
    return "two ids"


@HEADERS.claim("the same in header and body")
async def a_refusal_has_an_id_too(deployment: Deployment) -> str:
    response = await deployment.service.ask("/predict", b"no picture")
    named = parsed(response.body)["request_id"], response.header("x-request-id")
    demand(named[0] == named[1], f"{named}")
    return "the same in header and body"


@HEADERS.claim("stages that sum to the total")
async def server_timing_says_where_the_time_went(deployment: Deployment) -> str:
    asked = WAYS["predict, raw"].ask([deployment.question])
    came = ""
    for _ in range(TIMED):
        came = _check_timing(await deployment.service.ask(asked.path, asked.body, asked.headers))
    return came


def _check_timing(response: Response) -> str:
    """Raises Broken."""
    text = response.header("server-timing") or ""
    metrics = METRIC.findall(text)
    if ", ".join(f"{name};dur={duration}" for name, duration in metrics) != text or not metrics:
        raise Broken(f"Server-Timing: {text or 'none'}")
    stages = {name: float(duration) for name, duration in metrics}
    total_ms = stages.pop(TOTAL, -1.0)
    sum_ms = sum(stages.values())
    demand(len(stages) == len(metrics) - 1, f"no total, or a stage twice: {text}")
    demand(abs(sum_ms - total_ms) <= ROUNDING_MS * len(metrics), f"{sum_ms:.2f} ms of {total_ms:.2f} ms: {text}")
    return f"{', '.join(stages)} of {total_ms:.1f} ms"


@HEADERS.claim("nosniff")
async def no_answer_is_guessed_at(deployment: Deployment) -> str:
    asked = WAYS["predict, raw"].ask([deployment.question])
    for response in (
        await deployment.service.ask(asked.path, asked.body, asked.headers),
        await deployment.service.ask("/predict", b"no picture"),
        await deployment.service.get(f"/v2/models/{deployment.model.name}"),
    ):
        found = response.header("x-content-type-options")
        demand(found == "nosniff", f"{response.status} with {found}")
    return "nosniff, 3 times"


@HEADERS.claim("a strict policy")
async def pages_run_nothing_of_others(deployment: Deployment) -> str:
    guarded = []
    for page in PAGES:
        response = await deployment.service.get(page)
        if response.status != 200 or "text/html" not in (response.header("content-type") or ""):
            continue
        policy = response.header("content-security-policy") or ""
        lacking = [each for each in POLICIES if each not in policy]
        demand(not lacking and "unsafe" not in policy, f"{page}: {policy or 'none'}")
        guarded.append(page)
    if not guarded:
        raise Skipped("there are no pages")
    return f"on {' and '.join(guarded)}"
