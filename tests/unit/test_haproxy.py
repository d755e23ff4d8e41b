"""Serve's own configuration of HAProxy with what scripts/haproxy.sh makes of it, and HAProxy itself; no Ray cluster."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import httpx
import pytest
from ray.serve._private.common import RequestProtocol
from ray.serve._private.constants import RAY_SERVE_HAPROXY_TUNE_BUFSIZE
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions, gRPCOptions

from scripts.haproxy import drain
from scripts.ray_env import HAPROXY, production_profile
from tests.awaiting import await_condition, free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
SMALL = b"x" * 100_000
SERVICER = "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server"
SOON_S = 15.0
# Between the parts of a request: long enough for the first one to reach a server that it is passed on to.
PAUSE_S = 0.3

# Answers any call on the port of the first argument with the length of what it got, or dies of the second part of it.
GRPC_SERVER = """
import os, signal, sys, threading
from concurrent.futures import ThreadPoolExecutor
import grpc

class Any(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.stream_unary_rpc_method_handler(answer)

def answer(parts, context):
    length = 0
    for part in parts:
        if sys.argv[2] == "dies" and length:
            os.kill(os.getpid(), signal.SIGKILL)
        length += len(part)
    return b"%d" % length

server = grpc.server(ThreadPoolExecutor(2), handlers=[Any()])
server.add_insecure_port("127.0.0.1:" + sys.argv[1])
server.start()
threading.Event().wait()
"""
CALLS_WITH_IMAGES = (
    "/inference.GRPCInferenceService/ModelInfer",
    "/tensorflow.serving.PredictionService/Predict",
    "/tensorflow.serving.PredictionService/Classify",
)

# What a server does with a request that it has read; False: it dies.
Handle = Callable[[], Awaitable[bool]]


async def answer() -> bool:
    return True


async def die() -> bool:
    return False


@asynccontextmanager
async def server(handle: Handle) -> AsyncIterator[int]:
    """Answers POSTs with the length of their bodies, and everything else; the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(lengths[0])) if lengths else b""
                if head.startswith(b"post") and not await handle():
                    writer.transport.abort()
                    return
                text = b"%d" % len(body)
                writer.write(OK % len(text) + text)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


@asynccontextmanager
async def haproxy(
    ports: Sequence[int], protocol: RequestProtocol = RequestProtocol.HTTP
) -> AsyncIterator[tuple[str, str]]:
    """HAProxy in front of servers on these ports, as Serve starts it: where it listens for HTTP and for gRPC."""
    with TemporaryDirectory(prefix="haproxy") as name:  # A socket needs a short path.
        http_port, grpc_port = free_port(), free_port()
        config = write_config(Path(name), ports, protocol, http_port, grpc_port)
        environment = {**os.environ, "APERTURE_HAPROXY": production_profile(on_one_machine=True)["APERTURE_HAPROXY"]}
        process = await asyncio.create_subprocess_exec(
            str(HAPROXY), "-db", "-f", str(config), "-dR", env=environment, stderr=subprocess.DEVNULL
        )
        try:
            await asyncio.to_thread(await_condition, lambda: listens(http_port), SOON_S, "HAProxy listens")
            yield f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}"
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def write_config(folder: Path, ports: Sequence[int], protocol: RequestProtocol, http_port: int, grpc_port: int) -> Path:
    settings = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=http_port),
        grpc_options=gRPCOptions(port=grpc_port, grpc_servicer_functions=[SERVICER]),
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        metrics_socket_path=str(folder / "metrics.sock"),
        metrics_port=free_port(),
        stats_port=free_port(),
        is_head=True,
    )
    path = folder / "haproxy.cfg"
    api = HAProxyApi(settings, config_file_path=str(path))
    if ports:
        servers = [ServerConfig(f"replica-{port}", "127.0.0.1", port) for port in ports]
        backend = BackendConfig(f"{protocol.value.lower()}-aperture", "/", servers=servers, app_name="aperture")
        backend.protocol = protocol
        api.set_backend_configs({backend.name: backend})
    api._generate_config_file_internal()
    return path


def refuses(url: str) -> bool:
    return httpx.get(url, timeout=SOON_S).status_code == 503


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_a_request_whose_server_dies_is_answered_by_another_one() -> None:
    async def run() -> set[tuple[int, str]]:
        async with (
            server(die) as dying,
            server(answer) as healthy,
            haproxy([dying, healthy]) as (url, _),
            httpx.AsyncClient(base_url=url, timeout=SOON_S) as client,
        ):
            # Headers and body come in pieces, as clients send them; one in two meets the server that dies.
            length = {"content-length": str(len(SMALL))}
            answers = [await client.post("/predict", content=pieces(SMALL), headers=length) for _ in range(6)]
            return {(each.status_code, each.text) for each in answers}

    assert asyncio.run(run()) == {(200, str(len(SMALL)))}


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 30_000):
        await asyncio.sleep(0.01)
        yield body[start : start + 30_000]


@pytest.mark.parametrize("method", CALLS_WITH_IMAGES)
def test_a_call_that_arrives_in_parts_and_whose_server_dies_is_answered_by_another_one(method: str) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield SMALL
        await asyncio.sleep(PAUSE_S)
        yield SMALL

    async def run() -> tuple[set[bytes], int | None]:
        ports = free_port(), free_port()
        servers = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", GRPC_SERVER, str(port), fate)
            for port, fate in zip(ports, ("dies", "lives"), strict=True)
        ]
        try:
            for port in ports:
                await asyncio.to_thread(await_condition, partial(listens, port), SOON_S, "a server listens")
            async with (
                haproxy(ports, RequestProtocol.GRPC) as (_, address),
                grpc.aio.insecure_channel(address) as channel,
            ):
                call = channel.stream_unary(method)
                answers = {bytes(await call(parts(), timeout=SOON_S)) for _ in range(4)}
            return answers, servers[0].returncode
        finally:
            for server in servers:
                if server.returncode is None:
                    server.kill()
                await server.wait()

    answers, fate = asyncio.run(run())
    assert answers == {b"%d" % (2 * len(SMALL))}
    assert fate == -signal.SIGKILL


def test_what_cannot_be_sent_again_is_answered_503_with_retry_after() -> None:
    large = b"x" * (2 * RAY_SERVE_HAPROXY_TUNE_BUFSIZE)

    async def run() -> httpx.Response:
        async with server(die) as dying, haproxy([dying]) as (url, _), httpx.AsyncClient(timeout=SOON_S) as client:
            return await client.post(f"{url}/predict", content=large)

    assert_unavailable(asyncio.run(run()))


def test_a_larger_buffer_lets_no_longer_headers_in() -> None:
    async def run(length: int) -> int:
        async with server(answer) as port, haproxy([port]) as (url, _), httpx.AsyncClient(timeout=SOON_S) as client:
            return (await client.get(url, headers={"x-long": "y" * length})).status_code

    assert (asyncio.run(run(10_000)), asyncio.run(run(20_000))) == (200, 431)


def test_no_server_at_all_is_503_with_retry_after() -> None:
    async def run() -> httpx.Response:
        async with haproxy([free_port()]) as (url, _), httpx.AsyncClient(timeout=SOON_S) as client:
            return await client.post(f"{url}/predict", content=SMALL)

    assert_unavailable(asyncio.run(run()))


def test_before_any_application_is_known_everything_is_503_with_retry_after() -> None:
    async def run() -> tuple[httpx.Response, grpc.StatusCode]:
        async with (
            haproxy([]) as (url, address),
            httpx.AsyncClient(timeout=SOON_S) as client,
            grpc.aio.insecure_channel(address) as channel,
        ):
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(b"", timeout=SOON_S)
            return await client.post(f"{url}/predict", content=SMALL), error.value.code()

    response, code = asyncio.run(run())
    assert_unavailable(response)
    assert code is grpc.StatusCode.UNAVAILABLE


def assert_unavailable(response: httpx.Response) -> None:
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json() == {"error": "No replica could answer; send the request again.", "code": "unavailable"}


def test_draining_answers_what_is_in_flight_and_lets_nothing_in() -> None:
    async def run() -> None:
        began, go_on = asyncio.Event(), asyncio.Event()

        async def wait() -> bool:
            began.set()
            await go_on.wait()
            return True

        async with server(wait) as port, haproxy([port]) as (url, _), httpx.AsyncClient(timeout=SOON_S) as client:
            answering = asyncio.create_task(client.post(f"{url}/predict", content=SMALL))
            await began.wait()
            draining = asyncio.create_task(asyncio.to_thread(drain, os.getpid(), SOON_S))
            # Whatever is new is told to come again, be it on a new connection or on the one that is open.
            await asyncio.to_thread(await_condition, lambda: refuses(url), SOON_S, "HAProxy takes nothing new")
            assert_unavailable(await client.post(f"{url}/predict", content=SMALL))
            assert not draining.done()
            go_on.set()
            assert (await answering).status_code == 200
            assert await draining
            await asyncio.to_thread(await_condition, lambda: not listens(port_of(url)), SOON_S, "its port is closed")

    asyncio.run(run())


def test_draining_ends_when_its_time_is_over() -> None:
    async def run() -> bool:
        began = asyncio.Event()

        async def hang() -> bool:
            began.set()
            await asyncio.Event().wait()
            return True

        async with server(hang) as port, haproxy([port]) as (url, _), httpx.AsyncClient(timeout=SOON_S) as client:
            answering = asyncio.create_task(client.post(f"{url}/predict", content=SMALL))
            await began.wait()
            is_empty = await asyncio.to_thread(drain, os.getpid(), 0.3)
            answering.cancel()
            return is_empty

    assert not asyncio.run(run())


def test_draining_without_haproxy_has_nothing_to_wait_for() -> None:
    assert drain(os.getpid(), 0.0)
