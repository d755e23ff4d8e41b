"""Engines that fail, crash and hang in live replicas: the culprit alone is refused, and everybody else is answered."""

import base64
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from ray import serve

from tests.awaiting import await_condition, is_ready
from tests.faulty_graph import fault_floats, picture_of, png
from tests.graph.test_config_failures import answers_grpc
from tests.local_graph import DEPLOY_TIMEOUT_S, Graph, deploy, graph_config, local_config

NAME = "faulty"
PICTURES = {"red": png((250, 0, 0)), "green": png((0, 250, 0)), "blue": png((0, 0, 250))}
# Noticed and replaced; starting a process takes seconds on a busy machine.
RECOVERY_S = 30.0


@pytest.fixture(scope="module")
def url(graph: Graph) -> Iterator[str]:
    """A second application with two replicas of a model whose engine has faults on demand."""
    application = {**local_config()["applications"][0], "name": NAME, "route_prefix": f"/{NAME}"}
    application["import_path"] = "tests.faulty_graph:build"
    application["args"]["models"] = [{"name": "faulty", "engine": "dummy", "hang_timeout_s": 2}]
    application["deployments"] = [
        {"name": "Ingress", "max_ongoing_requests": 64, "ray_actor_options": {"num_cpus": 0.1}},
        {"name": "Preprocessor", "max_ongoing_requests": 64, "ray_actor_options": {"num_cpus": 0.1}},
        {"name": "faulty", "max_ongoing_requests": 64, "ray_actor_options": {"num_cpus": 0.1}, "num_replicas": 2},
    ]
    config = graph_config()
    config["applications"].append(application)
    deploy(config)
    url = f"{graph.url}/{NAME}"
    await_condition(lambda: is_ready(url), DEPLOY_TIMEOUT_S, "the faulty model is warm")
    yield url
    deploy(graph_config())
    await_condition(lambda: NAME not in serve.status().applications, DEPLOY_TIMEOUT_S, "it is deleted")
    await_condition(lambda: answers_grpc(graph.grpc_address), DEPLOY_TIMEOUT_S, "gRPC has one application")


def ask(url: str, images: Sequence[bytes]) -> dict[str, Any]:
    """Each image's label, or its error's code, under "outcomes"; and the body's other keys."""
    body = {"images": [base64.b64encode(image).decode() for image in images]}
    response = httpx.post(f"{url}/predict?top_k=1", json=body, timeout=RECOVERY_S)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return {**answer, "outcomes": [_outcome(result) for result in answer["results"]]}


def _outcome(result: dict[str, Any]) -> str:
    return str(result["code"] if "code" in result else result["predictions"][0]["label"])


@contextmanager
def steady_load(url: str) -> Iterator[None]:
    """Asks one thing after the other meanwhile; every answer must be there and right."""
    ended, outcomes = threading.Event(), set()

    def load() -> None:
        while not ended.is_set():
            try:
                outcomes.add(tuple(ask(url, list(PICTURES.values()))["outcomes"]))
            except Exception as err:
                outcomes.add((repr(err),))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert outcomes == {tuple(PICTURES)}


def test_what_fails_in_a_batch_fails_alone_and_what_fails_for_once_succeeds(url: str) -> None:
    faults = {
        "throw": "inference_failed",
        "not a number": "inference_failed",
        "wrong shape": "inference_failed",
        "throw once": "red",
        "out of memory": "red",
    }
    for fault, expected in faults.items():
        outcomes = ask(url, [PICTURES["green"], picture_of(fault), PICTURES["blue"]])["outcomes"]
        assert outcomes == ["green", expected, "blue"], fault


def test_an_image_on_which_the_model_fails_is_answered_with_500_and_the_requests_id(url: str) -> None:
    response = httpx.post(f"{url}/predict", content=picture_of("throw"), headers={"x-request-id": "one-of-mine"})
    assert response.status_code == 500
    assert response.json() == {
        "error": "The model failed on this image.",
        "code": "inference_failed",
        "request_id": "one-of-mine",
    }


def test_a_replica_that_gets_sigsegv_is_dead_at_once_and_nobody_loses_an_answer(url: str) -> None:
    pid = process_of_a_replica(url)
    with steady_load(url):
        os.kill(pid, signal.SIGSEGV)
        await_condition(lambda: not is_running(pid), 5, "the process is gone")
        await_condition(lambda: len(processes(url) - {pid}) == 2, RECOVERY_S, "it is replaced")


@pytest.mark.parametrize("fault", ["read null", "hang with the GIL", "break"])
def test_an_image_that_ends_replicas_is_refused_and_everybody_else_is_answered(url: str, fault: str) -> None:
    images = [PICTURES["green"], picture_of(fault), PICTURES["blue"]]
    with steady_load(url):
        assert ask(url, images)["outcomes"] == ["green", "inference_failed", "blue"]
        before = process_of_a_replica(url)
        # Known by now: it does not get another replica.
        assert ask(url, images)["outcomes"] == ["green", "inference_failed", "blue"]
        assert is_running(before)


def test_a_slow_replica_is_hardly_asked(url: str) -> None:
    # Last, because from now on one of the two is.
    ask(url, [picture_of("slow down")])
    slow = 0
    for _ in range(40):
        response = httpx.post(f"{url}/predict", content=PICTURES["red"], timeout=RECOVERY_S)
        timing = dict(stage.split(";dur=") for stage in response.headers["server-timing"].split(", "))
        slow += float(timing["inference"]) > 190
    assert slow <= 8


def process_of_a_replica(url: str) -> int:
    body = {"input_data": fault_floats("name the process")}
    response = httpx.post(f"{url}/predict", json=body, timeout=RECOVERY_S)
    (logits,) = response.json()["output"]
    return int(logits[0])


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def processes(url: str) -> set[int]:
    """Those that answer, of which each is likely to be among ten."""
    return {process_of_a_replica(url) for _ in range(10)}
