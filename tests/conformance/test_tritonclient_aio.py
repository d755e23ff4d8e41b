"""tritonclient.http.aio and tritonclient.grpc.aio."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from tests.another_hand import LABELS
from tests.conformance.images import encoded, of_classes, of_row, pixels
from tests.conformance.triton import tensor
from tests.local_graph import Graph
from tests.reference import picture

CLIENTS: dict[str, Any] = {
    "http": tritonclient.http.aio.InferenceServerClient,
    "grpc": tritonclient.grpc.aio.InferenceServerClient,
}
APIS: dict[str, Any] = {"http": tritonclient.http, "grpc": tritonclient.grpc}
Exchange = Callable[[Any, Any], Awaitable[None]]
Run = Callable[[Exchange], None]


@pytest.fixture(params=["http", "grpc"])
def run(graph: Graph, request: pytest.FixtureRequest) -> Run:
    """Calls a coroutine function with a connected client and the module of its tensors."""

    async def with_client(exchange: Exchange) -> None:
        address = graph.address if request.param == "http" else graph.grpc_address
        async with CLIENTS[request.param](address) as client:
            await exchange(client, APIS[request.param])

    return lambda exchange: asyncio.run(with_client(exchange))


def test_health_and_metadata(run: Run) -> None:
    async def exchange(client: Any, api: Any) -> None:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("shapes")
        metadata = await client.get_model_metadata("shapes")
        assert (metadata["name"] if isinstance(metadata, dict) else metadata.name) == "shapes"
        assert await client.get_server_metadata()
        assert await client.get_model_config("shapes")
        assert await client.get_model_repository_index()

    run(exchange)


def test_many_at_once_keep_their_answers(run: Run) -> None:
    async def exchange(client: Any, api: Any) -> None:
        outputs = [api.InferRequestedOutput("PROBABILITIES", class_count=1)]
        results = await asyncio.gather(
            *(
                client.infer("shapes", [tensor(api, "IMAGE", encoded(picture(each)))], outputs=outputs)
                for each in LABELS
            )
        )
        best = [next(iter(of_classes(result.as_numpy("PROBABILITIES")[0]))) for result in results]
        assert best == list(LABELS)

    run(exchange)


def test_pixels_are_classified(run: Run, heart: bytes, expected: dict[str, float]) -> None:
    async def exchange(client: Any, api: Any) -> None:
        result = await client.infer("shapes", [tensor(api, "PIXELS", pixels(heart))])
        assert of_row(result.as_numpy("PROBABILITIES")[0]) == pytest.approx(expected, abs=1e-6)

    run(exchange)


def test_a_refusal_carries_the_servers_sentence(run: Run) -> None:
    async def exchange(client: Any, api: Any) -> None:
        with pytest.raises(InferenceServerException, match=r"shape \[-1, -1, -1, 3\]"):
            await client.infer("shapes", [tensor(api, "PIXELS", pixels(picture("star"))[0])])

    run(exchange)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_http_bodies_may_be_compressed_either_way(
    graph: Graph, heart: bytes, expected: dict[str, float], algorithm: str
) -> None:
    async def exchange() -> None:
        async with tritonclient.http.aio.InferenceServerClient(graph.address) as client:
            result = await client.infer(
                "shapes",
                [tensor(tritonclient.http, "PIXELS", pixels(heart))],
                request_compression_algorithm=algorithm,
                response_compression_algorithm=algorithm,
            )
            assert of_row(result.as_numpy("PROBABILITIES")[0]) == pytest.approx(expected, abs=1e-6)

    asyncio.run(exchange())


def test_a_grpc_stream_answers_every_request(graph: Graph) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for label in LABELS:
            yield {
                "model_name": "shapes",
                "inputs": [tensor(tritonclient.grpc, "IMAGE", encoded(picture(label)))],
                "request_id": label,
                "outputs": [tritonclient.grpc.InferRequestedOutput("PROBABILITIES", class_count=1)],
            }

    async def exchange() -> None:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(tritonclient.grpc.aio.InferenceServerClient(graph.grpc_address))
            found = {}
            async for result, error in client.stream_infer(requests()):
                assert error is None
                found[result.get_response().id] = next(iter(of_classes(result.as_numpy("PROBABILITIES")[0])))
                if len(found) == len(LABELS):
                    break
            assert found == {label: label for label in LABELS}

    asyncio.run(exchange())
