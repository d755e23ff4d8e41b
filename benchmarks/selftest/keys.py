"""A service that asks for API keys answers nobody who has none."""

from functools import partial

import grpc

from benchmarks.selftest.checks import Broken, Skipped, Topic, demand
from benchmarks.selftest.deployment import Deployment
from benchmarks.selftest.judging import refused
from benchmarks.selftest.protocols import CALL_S, without_grpc
from benchmarks.selftest.service import Service
from benchmarks.soak.asking import WAYS
from benchmarks.soak.calling import CALLS

KEYS = Topic("keys")
# Of the right form, and of nobody.
WRONG_KEY = "aperture_" + "A" * 43
BEARERS = {"without a key": None, "with a wrong key": WRONG_KEY}


def _stranger(deployment: Deployment, key: str | None) -> Service:
    """Raises Skipped where everybody is served."""
    if not deployment.asks_for_keys:
        raise Skipped("the service asks for no keys")
    return Service(deployment.service.url, deployment.service.grpc_address, key)


async def _over_http(key: str | None, deployment: Deployment) -> str:
    stranger = _stranger(deployment, key)
    asked, came = WAYS["predict, raw"].ask([deployment.question]), ""
    for path, body in ((asked.path, asked.body), (f"/v2/models/{deployment.model.name}/infer", b"{}")):
        response = await stranger.ask(path, body)
        came = refused(response, [401])
        demand(response.header("www-authenticate") is not None, "401 without www-authenticate")
        demand(key is None or key.encode() not in response.body, "401 that repeats the key")
    return came


async def _over_grpc(key: str | None, deployment: Deployment) -> str:
    without_grpc(deployment)
    stranger = _stranger(deployment, key)
    try:
        async with stranger.stubs() as stubs:
            await CALLS["OIP gRPC, typed"].ask(stubs, [deployment.question], CALL_S)
    except grpc.aio.AioRpcError as err:
        demand(err.code() == grpc.StatusCode.UNAUTHENTICATED, f"{err.code().name}: {err.details()}")
        return "UNAUTHENTICATED"
    raise Broken("an answer")


for _who, _key in BEARERS.items():
    KEYS.add(f"{_who} nobody is answered over HTTP", "401 unauthenticated", partial(_over_http, _key))
    KEYS.add(f"{_who} nobody is answered over gRPC", "UNAUTHENTICATED", partial(_over_grpc, _key))
