"""The end of processes, one of each kind, one after the other, and at random."""

import asyncio
import copy
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from benchmarks.chaos import faults
from benchmarks.chaos.cluster import Cluster, deploy_and_settle, deployment_of, is_settled, until
from benchmarks.chaos.faults import Target, kill_one
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.scenarios import RECOVERY_TIMEOUT_S, Promise, Scenario, Stage

# Between two kills at random.
SHORTEST_S, LONGEST_S = 2.0, 8.0
INGRESS, AN_INGRESS = "Ingress", "an Ingress"


def kills(cluster: Cluster) -> list[Scenario]:
    """One process of each kind."""
    return [
        Scenario(f"kill {name}", _kill(target), Promise(_holds_connections(name)))
        for name, target in _targets(cluster).items()
    ]


def kill_the_only_ingress() -> Scenario:
    """As in configs/local.yaml, which has one: until it is back, there is none."""

    async def run(stage: Stage, ledger: Ledger) -> None:
        cluster, config = stage.cluster, copy.deepcopy(stage.cluster.config)
        deployment_of(config, INGRESS)["num_replicas"] = 1
        await deploy_and_settle(cluster, config, RECOVERY_TIMEOUT_S)
        target = _targets(cluster)[AN_INGRESS]
        assert await _kill_now(target, cluster, ledger, random.Random(0)) is not None
        await until(lambda: bool(target.processes(cluster.root)), RECOVERY_TIMEOUT_S, "what was killed is replaced")
        await until(lambda: is_settled(cluster, config), RECOVERY_TIMEOUT_S, "all replicas run")
        await deploy_and_settle(cluster, cluster.config, RECOVERY_TIMEOUT_S)

    # HAProxy has nobody else to ask, and ends calls over gRPC without an answer that it gives up.
    return Scenario("kill the only Ingress", run, Promise(may_lose_what_was_in_flight=True))


def kill_each(cluster: Cluster, names: Sequence[str], pause_s: float) -> Scenario:
    """One process after the other, without waiting until it is replaced."""

    async def run(stage: Stage, ledger: Ledger) -> None:
        for name in names:
            assert await _kill_now(_targets(cluster)[name], cluster, ledger, random.Random(0)) is not None
            await asyncio.sleep(pause_s)
        await until(lambda: is_settled(cluster, cluster.config), RECOVERY_TIMEOUT_S, "all replicas run")

    return Scenario(f"kill {', '.join(names)}", run, Promise(any(map(_holds_connections, names))))


def random_kills(cluster: Cluster, seconds: float, seed: int) -> Scenario:
    """Any of them, again and again, and before the last one is replaced as well as after."""

    async def run(stage: Stage, ledger: Ledger) -> None:
        choose, ends = random.Random(seed), time.monotonic() + seconds
        while time.monotonic() < ends:
            await _kill_now(choose.choice(list(_targets(cluster).values())), cluster, ledger, choose)
            await asyncio.sleep(choose.uniform(SHORTEST_S, LONGEST_S))
        await until(lambda: is_settled(cluster, cluster.config), RECOVERY_TIMEOUT_S, "all replicas run")

    return Scenario(f"kill at random for {seconds:.0f} s", run, Promise(may_lose_what_was_in_flight=True))


def _targets(cluster: Cluster) -> Mapping[str, Target]:
    return faults.targets(cluster.application, cluster.model, with_haproxy=cluster.with_haproxy)


def _holds_connections(name: str) -> bool:
    # HAProxy does not outlive its manager.
    return name in ("HAProxy", "HAProxy's manager", "the proxy")


def _kill(target: Target) -> Callable[[Stage, Ledger], Awaitable[None]]:
    async def run(stage: Stage, ledger: Ledger) -> None:
        cluster, before = stage.cluster, target.processes(stage.cluster.root)
        killed = await _kill_now(target, cluster, ledger, random.Random(0))
        assert killed is not None, f"nothing runs that is {target}"

        def is_replaced() -> bool:
            now = target.processes(cluster.root)
            return killed not in now and len(now) >= len(before) and is_settled(cluster, cluster.config)

        await until(is_replaced, RECOVERY_TIMEOUT_S, "what was killed is replaced")

    return run


async def _kill_now(target: Target, cluster: Cluster, ledger: Ledger, choose: random.Random) -> int | None:
    done = await asyncio.to_thread(kill_one, target, cluster.root, choose)
    if done is None:
        return None
    process_id, killed = done
    ledger.faults.append(killed)
    return process_id
