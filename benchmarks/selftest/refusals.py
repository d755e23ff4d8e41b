"""What is wrong with a request is said, with the right status and in words."""

from collections.abc import Awaitable
from functools import partial
from typing import Any

import grpc

from benchmarks.selftest.checks import Broken, Topic, demand
from benchmarks.selftest.deployment import Deployment
from benchmarks.selftest.judging import refused
from benchmarks.selftest.protocols import CALL_S, without_grpc
from benchmarks.selftest.wire import all_that_comes, statuses
from benchmarks.soak.calling import request_of
from benchmarks.soak.misuse import TOO_MANY_FILES, misuses
from deployments.protocols.generated import tensorflow_serving_pb2

REFUSALS = Topic("refusals")
NOT_FOUND = (400, 404, 405, 414)
TRICKS = (
    "/v2/models/../../../../etc/passwd",
    "/v2/models/..%2f..%2f..%2fetc%2fpasswd",
    "/v2/models/%2e%2e/%2e%2e/etc/passwd/infer",
    "/v1/models/..\\..\\windows:predict",
    "/v2/models/MODEL%00/infer",
    "/v2/models/MODEL%0d%0aSet-Cookie:%20a=b",
    "/v2/models/%ff%fe/infer",
    "/v2/models/MODEL/versions/../infer",
    "/v2/models/" + "%2e" * 2000,
    "/predict?model=../MODEL",
    "/predict?model=MODEL%00",
    "/predict?model=%ff",
)


async def _misused(what: str, deployment: Deployment) -> str:
    bad = next(each for each in misuses(deployment.question.image, deployment.model.name) if each.what == what)
    return refused(await deployment.service.ask(bad.path, bad.body, bad.headers, bad.method), bad.statuses)


for _bad in misuses(b"", ""):
    # How many are too many, the service says (limits.py).
    if _bad.what != TOO_MANY_FILES:
        REFUSALS.add(f"{_bad.what} is refused", " or ".join(map(str, _bad.statuses)), partial(_misused, _bad.what))


@REFUSALS.claim("400, 404, 405 or 414")
async def path_tricks_in_names_find_nothing(deployment: Deployment) -> str:
    for trick in TRICKS:
        target = deployment.service.target(trick.replace("MODEL", deployment.model.name))
        sent = target.head(len(deployment.question.image)).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        answer = await all_that_comes(target, sent + deployment.question.image)
        head, _, body = answer.partition(b"\r\n\r\n")
        demand(len(found := statuses(answer)) == 1 and found[0] in NOT_FOUND, f"{trick[:40]}: {found}")
        demand(b"root:" not in body and b"set-cookie" not in head.lower(), f"{trick[:40]}: {answer[:60]!r}")
    return f"nothing, {len(TRICKS)} times"


@REFUSALS.claim("NOT_FOUND")
async def an_unknown_model_is_not_found_over_grpc(deployment: Deployment) -> str:
    without_grpc(deployment)
    request = request_of([deployment.question])
    request.model_name = "no-such-model"
    async with deployment.service.stubs() as stubs:
        return await ends_in(stubs.inference.ModelInfer(request, timeout=CALL_S), grpc.StatusCode.NOT_FOUND)


@REFUSALS.claim("INVALID_ARGUMENT")
async def a_call_without_inputs_is_refused(deployment: Deployment) -> str:
    without_grpc(deployment)
    request = tensorflow_serving_pb2.PredictRequest(model_spec={"name": deployment.model.name})
    async with deployment.service.stubs() as stubs:
        return await ends_in(stubs.prediction.Predict(request, timeout=CALL_S), grpc.StatusCode.INVALID_ARGUMENT)


async def ends_in(call: Awaitable[Any], *right: grpc.StatusCode) -> str:
    """The name of the status in which the call ends. Raises Broken if it is answered, or ends in another one."""
    try:
        await call
    except grpc.aio.AioRpcError as err:
        demand(err.code() in right and bool(err.details()), f"{err.code().name}: {err.details()}")
        return str(err.code().name)
    raise Broken("an answer")
