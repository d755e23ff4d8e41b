"""API keys over gRPC: no RPC of any service without one, but for those of health."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2

from deployments.access import AccessControl
from deployments.protocols.authentication import OPEN_RPCS, RPCS
from deployments.protocols.generated import inference_pb2 as pb
from deployments.protocols.generated import tensorflow_serving_pb2
from deployments.settings import Access
from deployments.settings.keys import SCOPES, Rate, Scope
from tests.access import own_address
from tests.unit.bytes_plane import BytesPlane
from tests.unit.rpc_server import ADD_TO_SERVER, INFERENCE, TIMEOUT_S, AllRpcs, serving
from tests.unit.test_authentication import access_for
from tests.unit.test_oip_grpc import images_request

Result = TypeVar("Result")
Metadata = Sequence[tuple[str, str]]
# Of every service that the configs have.
METHODS: list[MethodDescriptor] = [
    method
    for module in (health_pb2, pb, tensorflow_serving_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
CLOSED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


@pytest.fixture
def access(tmp_path: Path) -> AccessControl:
    return access_for(tmp_path)


async def status_of(channel: grpc.aio.Channel, method: MethodDescriptor, metadata: Metadata = ()) -> grpc.StatusCode:
    """How the RPC ends for an empty request, which is no bytes, or for a stream of none.

    With a request in it, the end of a refused stream may reach the client as an interrupted write.
    """
    path = f"/{method.containing_service.full_name}/{method.name}"
    try:
        if method.client_streaming:
            streams: Any = channel.stream_stream(path)(each([]), metadata=metadata, timeout=TIMEOUT_S)
            return await ended(streams)
        if method.server_streaming:
            return await ended(channel.unary_stream(path)(b"", metadata=metadata, timeout=TIMEOUT_S))
        await channel.unary_unary(path)(b"", metadata=metadata, timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as err:
        return err.code()
    return grpc.StatusCode.OK


async def ended(answers: Any) -> grpc.StatusCode:
    async for _ in answers:
        pass
    return grpc.StatusCode.OK


async def each(items: Sequence[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


def exchange(access: AccessControl, use: Callable[[grpc.aio.Channel], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        async with serving(BytesPlane(), access) as channel:
            return await use(channel)

    return asyncio.run(run())


def statuses(access: AccessControl, metadata: Metadata = ()) -> dict[str, grpc.StatusCode]:
    async def ask(channel: grpc.aio.Channel) -> dict[str, grpc.StatusCode]:
        return {method.name: await status_of(channel, method, metadata) for method in METHODS}

    return exchange(access, ask)


# Every RPC


@pytest.mark.parametrize("metadata", [[], [("x-api-key", "wrong")]], ids=["no key", "a wrong key"])
def test_every_rpc_but_those_of_health_refuses_without_a_key(access: AccessControl, metadata: Metadata) -> None:
    answered = statuses(access, metadata)
    refused = {name for name, status in answered.items() if status is grpc.StatusCode.UNAUTHENTICATED}
    assert refused == set(answered) - OPEN_RPCS
    assert len(refused) > 20
    assert answered["Check"] is answered["ServerReady"] is grpc.StatusCode.OK


@pytest.mark.parametrize("held", SCOPES)
def test_a_key_does_what_its_scope_says_in_every_rpc_and_nothing_else(access: AccessControl, held: Scope) -> None:
    answered = statuses(access, [("authorization", f"Bearer {held}")])
    for name in set(answered) - OPEN_RPCS:
        # What is in neither table changes the service, or would.
        allowed = RPCS.get(name, "admin") in ("read", held)
        assert (answered[name] in CLOSED) is not allowed, f"{name} answers {answered[name]}"


# What a client does to the service, or would: none of it is implemented.
CHANGES = {
    *("RepositoryModelLoad", "RepositoryModelUnload", "HandleReloadConfigRequest", "TraceSetting", "LogSettings"),
    *(f"{kind}SharedMemory{what}" for kind in ("System", "Cuda") for what in ("Status", "Register", "Unregister")),
}


def test_only_what_changes_the_service_is_left_to_admins() -> None:
    assert {method.name for method in METHODS} - {*RPCS, *OPEN_RPCS} == CHANGES
    assert {*RPCS, *OPEN_RPCS} <= {method.name for method in METHODS}


# Where the key is


ACCEPTED: list[Metadata] = [
    [("authorization", "Bearer classify")],
    [("authorization", "bearer classify")],
    [("x-api-key", "classify")],
    [("x-api-key", "classify"), ("authorization", "Basic c29tZTpvdGhlcg==")],
]
REFUSED: list[Metadata] = [
    [("authorization", "classify")],
    [("x-api-key", "wrong"), ("authorization", "Bearer classify")],
    [("x-api-key", "classify"), ("x-api-key", "classify")],
    [("x-api-key-bin", "classify")],
    [("api-key", "classify")],
]


@pytest.mark.parametrize(
    ("metadata", "accepted"), [*((each, True) for each in ACCEPTED), *((each, False) for each in REFUSED)]
)
def test_a_key_is_where_http_has_it(access: AccessControl, metadata: Metadata, accepted: bool) -> None:
    sent = [(key, value.encode() if key.endswith("-bin") else value) for key, value in metadata]

    async def infer(channel: grpc.aio.Channel) -> grpc.StatusCode:
        call = INFERENCE(channel).ModelInfer(images_request(), metadata=sent, timeout=TIMEOUT_S)
        status: grpc.StatusCode = await call.code()
        return status

    assert exchange(access, infer) is (grpc.StatusCode.OK if accepted else grpc.StatusCode.UNAUTHENTICATED)


# Rates


def test_each_request_of_a_stream_counts_and_the_stream_goes_on(tmp_path: Path) -> None:
    access = access_for(tmp_path, Rate(0.001, 2))

    async def stream(channel: grpc.aio.Channel) -> list[str]:
        requests = each([images_request() for _ in range(4)])
        metadata = [("x-api-key", "limited")]
        answers = INFERENCE(channel).ModelStreamInfer(requests, metadata=metadata, timeout=TIMEOUT_S)
        return [answer.error_message async for answer in answers]

    messages = exchange(access, stream)
    assert messages[:2] == ["", ""]
    assert all("over its rate" in message for message in messages[2:])
    assert len(messages) == 4


def test_a_key_over_its_rate_is_exhausted(tmp_path: Path) -> None:
    async def twice(channel: grpc.aio.Channel) -> list[grpc.StatusCode]:
        calls = [
            INFERENCE(channel).ModelInfer(images_request(), metadata=[("x-api-key", "limited")], timeout=TIMEOUT_S)
            for _ in range(2)
        ]
        return [await call.code() for call in calls]

    answered = exchange(access_for(tmp_path, Rate(0.001, 1)), twice)
    assert set(answered) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}


# Without keys


async def ways_of_ending(access: AccessControl, host: str) -> set[grpc.StatusCode]:
    """How all RPCs but those of health end at a server on that address of this machine."""
    server = grpc.aio.server()
    for add in ADD_TO_SERVER:
        add(AllRpcs(BytesPlane(), access), server)
    port = server.add_insecure_port(f"{host}:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
        asked = [await status_of(channel, method) for method in METHODS if method.name not in OPEN_RPCS]
    await server.stop(None)
    return set(asked)


@pytest.mark.parametrize("open_to_all", [False, True])
def test_without_keys_other_machines_are_refused_unless_it_is_open_to_all(open_to_all: bool) -> None:
    """The peer is this machine by another of its addresses, as another machine would be seen."""
    ended_there = asyncio.run(ways_of_ending(AccessControl(Access(open_to_all=open_to_all)), own_address()))
    if open_to_all:
        assert grpc.StatusCode.UNAUTHENTICATED not in ended_there
    else:
        assert ended_there == {grpc.StatusCode.UNAUTHENTICATED}


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_without_keys_this_machine_is_not_asked(host: str) -> None:
    try:
        ended_here = asyncio.run(ways_of_ending(AccessControl(Access()), host))
    except RuntimeError:
        pytest.skip(f"This machine has no {host}.")
    assert grpc.StatusCode.UNAUTHENTICATED not in ended_here
