"""The services on a gRPC server of their own, in front of a data plane that answers from bytes: no graph behind."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc

from deployments.access import AccessControl
from deployments.administration import ModelAdmin
from deployments.messages import Administrator, DataPlane
from deployments.protocols.admin import AdminRpcs
from deployments.protocols.generated import inference_pb2_grpc, tensorflow_serving_pb2_grpc
from deployments.protocols.health import HealthRpcs
from deployments.protocols.oip.grpc import InferenceRpcs
from deployments.protocols.tfserving.grpc import ModelRpcs, PredictionRpcs
from deployments.settings import Access
from tests.unit.bytes_plane import BytesPlane

Answer = TypeVar("Answer")
Stub = Callable[[grpc.aio.Channel], Any]
HEALTH: Stub = health_pb2_grpc.HealthStub
INFERENCE: Stub = inference_pb2_grpc.GRPCInferenceServiceStub
PREDICTION: Stub = tensorflow_serving_pb2_grpc.PredictionServiceStub
MODEL: Stub = tensorflow_serving_pb2_grpc.ModelServiceStub
ADD_TO_SERVER = (
    health_pb2_grpc.add_HealthServicer_to_server,
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server,
    tensorflow_serving_pb2_grpc.add_PredictionServiceServicer_to_server,
    tensorflow_serving_pb2_grpc.add_ModelServiceServicer_to_server,
)
# A test waits as long only if it fails.
TIMEOUT_S = 20.0


class AllRpcs(HealthRpcs, InferenceRpcs, PredictionRpcs, ModelRpcs, AdminRpcs):
    """As the Ingress has them."""

    def __init__(self, plane: DataPlane, access: AccessControl, admin: Administrator | None = None) -> None:
        self.plane = plane
        self.access = access
        self.admin = admin or ModelAdmin({}, {}, lambda model: asyncio.sleep(0), enabled=False)


@asynccontextmanager
async def serving(
    plane: DataPlane, access: AccessControl | None = None, admin: Administrator | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    async with listening(plane, access, admin) as address, grpc.aio.insecure_channel(address) as channel:
        yield channel


@asynccontextmanager
async def listening(
    plane: DataPlane, access: AccessControl | None = None, admin: Administrator | None = None
) -> AsyncIterator[str]:
    """Its address."""
    server = grpc.aio.server()
    for add in ADD_TO_SERVER:
        add(AllRpcs(plane, access or AccessControl(Access()), admin), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def exchange(use: Callable[[grpc.aio.Channel], Awaitable[Answer]], plane: DataPlane | None = None) -> Answer:
    async def run() -> Answer:
        async with serving(plane or BytesPlane()) as channel:
            return await use(channel)

    return asyncio.run(run())


def call(stub: Stub, method: str, request: Any, plane: DataPlane | None = None) -> Any:
    async def use(channel: grpc.aio.Channel) -> Any:
        return await getattr(stub(channel), method)(request, timeout=TIMEOUT_S)

    return exchange(use, plane)


def refusal(stub: Stub, method: str, request: Any, status: str, plane: DataPlane | None = None) -> str:
    """The details of the status that the call must end with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        call(stub, method, request, plane)
    assert caught.value.code() == grpc.StatusCode[status], caught.value.details()
    details: str = caught.value.details() or ""
    assert details
    return details
