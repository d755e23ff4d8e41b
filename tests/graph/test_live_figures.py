"""GET /playground/live on the running graph: what was just asked stands in the figures of the last minute."""

from typing import Any

import httpx

from tests.awaiting import await_condition
from tests.local_graph import graph_config
from tests.reference import picture

SEEN_TIMEOUT_S = 20.0


def test_requests_and_batches_of_the_last_seconds_are_counted_and_so_are_the_replicas(client: httpx.Client) -> None:
    def figures() -> dict[str, Any]:
        live: dict[str, Any] = client.get("/playground/live").raise_for_status().json()
        return live

    for _ in range(3):
        client.post("/predict", content=picture("star")).raise_for_status()
    assert client.post("/predict", content=b"no image").status_code == 415
    files = [("file", (f"{number}.png", picture("star"))) for number in range(4)]
    client.post("/predict", files=files).raise_for_status()
    await_condition(
        lambda: counted(figures(), "requests") >= 5 and counted(figures(), "failed") >= 1,
        SEEN_TIMEOUT_S,
        "five requests",
    )
    live = figures()
    assert len(live["seconds"]) == 60
    assert 0 < live["p50_ms"] <= live["p99_ms"] < 60_000
    assert sum(int(size) * count for size, count in live["batch_sizes"].items()) >= 7
    models = {model["name"] for model in graph_config()["applications"][0]["args"]["models"]}
    assert live["replicas"].keys() == {"Ingress", "Preprocessor", *models}
    assert all(count >= 1 for count in live["replicas"].values())


def counted(figures: dict[str, Any], what: str) -> int:
    return sum(second[what] for second in figures["seconds"])
