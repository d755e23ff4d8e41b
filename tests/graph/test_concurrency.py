"""Many callers at once: each gets its own answer, and one bad image costs nobody else anything."""

import asyncio

import httpx
import pytest

from tests.another_hand import LABELS
from tests.local_graph import Graph
from tests.reference import Reference, picture

CALLERS = 200


def post_all(url: str, bodies: list[bytes]) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=len(bodies))
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
            return await asyncio.gather(*(client.post("/predict?top_k=10", content=body) for body in bodies))

    return asyncio.run(run())


def test_two_hundred_concurrent_callers_each_get_their_own_answer(graph: Graph, reference: Reference) -> None:
    pictures = [picture(LABELS[number % len(LABELS)], number // len(LABELS)) for number in range(CALLERS)]
    responses = post_all(graph.url, pictures)
    assert [response.status_code for response in responses] == [200] * CALLERS
    for response, sent in zip(responses, pictures, strict=True):
        answer = {each["label"]: each["probability"] for each in response.json()["predictions"]}
        # The probabilities of all ten classes tell each of the two hundred pictures from the others.
        assert answer == pytest.approx(reference.probabilities(sent), abs=1e-4)
    assert len({response.json()["request_id"] for response in responses}) == CALLERS


def test_one_corrupt_image_in_a_full_batch_fails_alone(graph: Graph) -> None:
    bodies = [picture(LABELS[number], 50) for number in range(8)]
    bodies[5] = bodies[5][: len(bodies[5]) // 2]
    responses = post_all(graph.url, bodies)
    assert [response.status_code for response in responses] == [200] * 5 + [422] + [200] * 2
