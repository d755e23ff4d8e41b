"""The cluster under test, from a process that is connected to it: what is deployed, and whether it is settled."""

import asyncio
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx
from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ServeDeploySchema

from benchmarks.chaos.load import Endpoints
from benchmarks.chaos.questions import Question, apart, candidates

# A serve config, or a part of it, as YAML has it.
Config = dict[str, Any]

REPLICAS = 2
# Small, so that on two cores a rolling update finds room for replicas beside the old ones.
NUM_CPUS = {"Ingress": 0.05, "Preprocessor": 0.1}
MODEL_NUM_CPUS = 0.2
CANDIDATES = 60
# A second Ingress may learn a moment later than the first that a model is warm, even on a busy machine.
QUESTIONS_S = 30.0
POLL_S = 0.1
# The controller begins with a new configuration in one of its next rounds, and until then all seems settled: more than
# two of RAY_SERVE_CONTROL_LOOP_INTERVAL_S in configs/ray.env.
ROUND_S = 1.5


@dataclass(frozen=True)
class Cluster:
    endpoints: Endpoints
    application: str
    # The process below which all others of the cluster are.
    root: int
    # As it is deployed when a scenario begins and ends.
    config: Config
    with_haproxy: bool

    @property
    def model(self) -> str:
        return self.endpoints.model


def chaos_config(config: Config) -> Config:
    """A config of one model with two replicas of each deployment, replaced one by one with no gap."""
    made = copy.deepcopy(config)
    for deployment in made["applications"][0]["deployments"]:
        deployment["num_replicas"] = REPLICAS
        deployment["max_surge_percent"] = 100
        deployment["ray_actor_options"] = {"num_cpus": NUM_CPUS.get(deployment["name"], MODEL_NUM_CPUS)}
    return made


def deployment_of(config: Config, name: str) -> Config:
    """The part of a config that is about this deployment."""
    found: list[Config] = [each for each in config["applications"][0]["deployments"] if each["name"] == name]
    return found[0]


async def deploy(config: Config) -> None:
    """What `serve deploy` does, but for the way over the dashboard."""
    client = _get_global_client()
    assert client is not None
    await asyncio.to_thread(client.deploy_apps, ServeDeploySchema.model_validate(config))


async def ask(endpoints: Endpoints) -> list[Question]:
    """Pictures with the answers that they get from the service while nothing else happens."""
    async with httpx.AsyncClient(base_url=endpoints.url, timeout=60) as client:
        found = await asyncio.gather(*(_asked(client, endpoints.model, each) for each in candidates(CANDIDATES)))
    return apart(found)


async def _asked(client: httpx.AsyncClient, model: str, picture: bytes) -> Question:
    parameters: dict[str, str | int] = {"model": model, "top_k": 1000}
    deadline = time.monotonic() + QUESTIONS_S
    while True:
        response = await client.post("/predict", params=parameters, content=picture)
        if response.status_code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
            break
        await asyncio.sleep(POLL_S)
    if response.status_code != HTTPStatus.OK:
        raise RuntimeError(f"A question has no answer: {response.status_code} {response.text}")
    # In the order of the model's classes, as tensor protocols have them.
    predictions = sorted(response.json()["predictions"], key=lambda each: int(each["index"]))
    return Question(picture, {each["label"]: each["probability"] for each in predictions})


def status(cluster: Cluster) -> str:
    """Of the application; empty while the controller does not answer."""
    try:
        application = serve.status().applications.get(cluster.application)
    except (RayError, RayServeException):
        return ""
    return str(application.status.value) if application is not None else ""


def replicas(cluster: Cluster, deployment: str) -> dict[str, int]:
    """How many there are in each state; empty while the controller does not answer."""
    try:
        states = serve.status().applications[cluster.application].deployments[deployment].replica_states
    except (RayError, RayServeException, KeyError):
        return {}
    return {str(getattr(state, "value", state)): count for state, count in states.items()}


async def deploy_and_settle(cluster: Cluster, config: Config, timeout_s: float) -> None:
    """Raises TimeoutError if not every deployment has its replicas in time."""
    await deploy(config)
    await asyncio.sleep(ROUND_S)
    await until(lambda: is_settled(cluster, config), timeout_s, "every replica of the new configuration runs")


def is_settled(cluster: Cluster, config: Config) -> bool:
    """Whether every deployment has the replicas that the config asks for, and no others."""
    wanted = {each["name"]: each.get("num_replicas", 1) for each in config["applications"][0]["deployments"]}
    return status(cluster) == "RUNNING" and all(
        replicas(cluster, name) == {"RUNNING": count} for name, count in wanted.items()
    )


async def until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Raises TimeoutError if the condition does not hold in time. It may block: it runs on a thread."""
    deadline = time.monotonic() + timeout_s
    while not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            raise TimeoutError(f"Not within {timeout_s:.0f} s: {what}.")
        await asyncio.sleep(POLL_S)
