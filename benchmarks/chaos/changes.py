"""New configurations, among them some that cannot be served."""

import asyncio
import copy
import os
import time
from collections.abc import Awaitable, Callable

from benchmarks.chaos.cluster import Config, deploy, deploy_and_settle, deployment_of, status, until
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.scenarios import Scenario, Stage

CHANGE_TIMEOUT_S = 120.0
NO_SUCH_MODEL = "models/absent"


def changes() -> list[Scenario]:
    """Each ends with the configuration that it began with."""
    return [
        Scenario("scale down and up", _deployed_in_turn(_with_replicas(1), dict)),
        Scenario("rolling update, code", _deployed_in_turn(_new_version, dict)),
        Scenario("rolling update, config", _deployed_in_turn(_new_args, dict)),
        Scenario("user_config, live", _deployed_in_turn(_smaller_batches, dict)),
        *broken_configs(),
    ]


def broken_configs() -> list[Scenario]:
    """What was deployed before keeps serving."""
    return [
        Scenario("deploy a wrong key", _refused(_misspelt)),
        Scenario("deploy a model that is not there", _refused(_absent_model)),
    ]


def all_changes() -> Scenario:
    """Fewer replicas and smaller batches, then another version, then the first configuration again."""

    def fewer(config: Config) -> Config:
        return _smaller_batches(_with_replicas(1)(config))

    return Scenario("all changes", _deployed_in_turn(fewer, _new_version, dict))


def _deployed_in_turn(*edits: Callable[[Config], Config]) -> Callable[[Stage, Ledger], Awaitable[None]]:
    async def run(stage: Stage, ledger: Ledger) -> None:
        for edit in edits:
            config = edit(copy.deepcopy(stage.cluster.config))
            ledger.faults.append(time.monotonic())
            await deploy_and_settle(stage.cluster, config, CHANGE_TIMEOUT_S)

    return run


def _refused(edit: Callable[[Config], Config]) -> Callable[[Stage, Ledger], Awaitable[None]]:
    async def run(stage: Stage, ledger: Ledger) -> None:
        cluster = stage.cluster
        ledger.faults.append(time.monotonic())
        await deploy(edit(copy.deepcopy(cluster.config)))
        await until(lambda: status(cluster) == "DEPLOY_FAILED", CHANGE_TIMEOUT_S, "the deployment fails")
        # The old one goes on serving, and not only until the failure is noticed.
        await asyncio.sleep(stage.well_s)
        ledger.faults.append(time.monotonic())
        await deploy_and_settle(cluster, cluster.config, CHANGE_TIMEOUT_S)

    return run


def _with_replicas(count: int) -> Callable[[Config], Config]:
    def edit(config: Config) -> Config:
        for deployment in config["applications"][0]["deployments"]:
            deployment["num_replicas"] = count
        return config

    return edit


def _new_version(config: Config) -> Config:
    """Other code comes with another runtime_env; a variable of it is enough for Serve to replace every replica."""
    for deployment in config["applications"][0]["deployments"]:
        options = deployment["ray_actor_options"]
        options["runtime_env"] = {"env_vars": {"APERTURE_CHAOS_VERSION": f"{os.getpid()}"}}
    return config


def _new_args(config: Config) -> Config:
    limits = config["applications"][0]["args"].setdefault("limits", {})
    limits["max_images"] = 32
    return config


def _smaller_batches(config: Config) -> Config:
    model = config["applications"][0]["args"]["models"][0]["name"]
    deployment_of(config, model)["user_config"] = {"max_batch_size": 2}
    return config


def _misspelt(config: Config) -> Config:
    config["applications"][0]["args"]["models"][0]["treads"] = 2
    return config


def _absent_model(config: Config) -> Config:
    config["applications"][0]["args"]["models"][0]["path"] = NO_SUCH_MODEL
    return config
