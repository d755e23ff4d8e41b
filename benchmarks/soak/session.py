"""One soak, from the start of the service to its stop: warm-up, quiet, everything at once, quiet."""

import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.chaos.faults import Target, kill_one, targets
from benchmarks.processes import descendants
from benchmarks.service import ROOT, Service, running
from benchmarks.soak.census import Census, Holding, Identity, open_kinds, shared_memory, unused
from benchmarks.soak.clients import CLIENTS
from benchmarks.soak.ledger import FATES, Ledger
from benchmarks.soak.questions import MODEL, Question, questions
from benchmarks.soak.verdict import Check, Grown, grown, leaks, memory_checks, requests_checks
from benchmarks.soak.world import PATIENCE_S, World
from scripts.ray_env import production_profile

REPLICAS = 2  # One may be killed, and the other serves.
APPLICATION = "aperture"
WARM_SHARE, MAX_WARM_S = 0.25, 180.0
# After the warm-up: connections that nobody uses are closed, and threads end.
QUIET_S = 8.0
# At the end the same takes what it takes; what is still held after this has leaked.
SETTLE_S = 60.0
# A replica has started and is warm within this, on a busy machine too.
RECOVERY_S = 120.0
KILLED = ("a classifier", "an Ingress", "a Preprocessor")
MOST_BETWEEN_KILLS_S = 60.0
SAMPLE_S = 1.0
PROGRESS_S = 30.0


@dataclass(frozen=True)
class Plan:
    minutes: float
    http_port: int
    grpc_port: int
    seed: int

    @property
    def warm_s(self) -> float:
        return min(MAX_WARM_S, WARM_SHARE * 60 * self.minutes)

    @property
    def main_s(self) -> float:
        return 60 * self.minutes - self.warm_s

    @property
    def kill_every_s(self) -> float:
        """Long soaks have a kill a minute, and short ones one of each kind."""
        return min(MOST_BETWEEN_KILLS_S, self.main_s / len(KILLED))


@dataclass(frozen=True)
class Kill:
    what: str
    at_s: float
    # Until a successor ran; None if there was none in RECOVERY_S.
    recovery_s: float | None


@dataclass
class Soaked:
    """What one soak has seen; moments are seconds after the start of the load."""

    ledger: Ledger
    census: Census
    kills: list[Kill] = field(default_factory=list)
    warm: Mapping[Identity, Holding] = field(default_factory=dict)
    end: Mapping[Identity, Holding] = field(default_factory=dict)
    # Descriptors of all processes by kind, after the warm-up and at the end.
    descriptors: list[Mapping[str, int]] = field(default_factory=list)
    processes: Sequence[Grown] = ()
    checks: list[Check] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks)


def soak(plan: Plan) -> Soaked:
    """Starts the service, puts everything on it, stops it. Raises RuntimeError if the service does not start."""
    good, broken = questions()
    shared = shared_memory()
    with tempfile.TemporaryDirectory(prefix="soak") as directory:
        with served(plan, Path(directory)) as service:
            found = asyncio.run(_soak(plan, service, Path(directory), good, broken))
        left = unused(shared_memory() - shared)
    found.checks.append(_of_names("nothing stays in shared memory", left))
    return found


@contextmanager
def served(plan: Plan, directory: Path) -> Iterator[Service]:
    """The service on the ports of the plan. Its files, and Ray's, are in `directory`, whose path must be short."""
    temporary = _temporary(directory)
    temporary.mkdir()
    environment = {
        **production_profile(on_one_machine=True),
        # A cluster of its own, and not one that this machine has or had.
        "RAY_ADDRESS": "local",
        "RAY_TMPDIR": str(directory),
        "TMPDIR": str(temporary),
    }
    with running(config(plan), environment, "/v2/health/ready") as service:
        yield service


def _temporary(directory: Path) -> Path:
    return directory / "t"


def config(plan: Plan) -> dict[str, Any]:
    """configs/local.yaml with REPLICAS of each deployment, which together need the CPUs of one."""
    made: dict[str, Any] = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    made["http_options"]["port"], made["grpc_options"]["port"] = plan.http_port, plan.grpc_port
    for deployment in made["applications"][0]["deployments"]:
        deployment["num_replicas"] = REPLICAS
        options = deployment["ray_actor_options"]
        options["num_cpus"] = options["num_cpus"] / REPLICAS
    return made


async def _soak(
    plan: Plan, service: Service, directory: Path, good: Sequence[Question], broken: Sequence[Question]
) -> Soaked:
    soaked = Soaked(Ledger(), Census(service.parent_id))
    world = World(service.url, f"127.0.0.1:{plan.grpc_port}", good, broken, soaked.ledger, asyncio.Event())
    async with _repeated(soaked.census.take, SAMPLE_S), _repeated(lambda: _tell(soaked), PROGRESS_S):
        await _load(world, plan.warm_s, plan.seed)
        await asyncio.sleep(QUIET_S)
        soaked.warm = soaked.census.take()
        soaked.descriptors.append(open_kinds(descendants(service.parent_id)))
        files = set(_temporary(directory).iterdir())
        async with asyncio.TaskGroup() as together:
            together.create_task(_load(world, plan.main_s, plan.seed + 1))
            together.create_task(_kill_now_and_then(plan, soaked))
        held = await _settled(soaked)
        held.append(
            _of_names("no temporary file stays", {each.name for each in {*_temporary(directory).iterdir()} - files})
        )
    soaked.descriptors.append(open_kinds(descendants(service.parent_id)))
    soaked.processes = grown(soaked.census.series)
    soaked.checks = [*requests_checks(soaked.ledger), *memory_checks(soaked.processes), *held]
    soaked.checks.append(
        _of_names("who is killed is replaced", {kill.what for kill in soaked.kills if kill.recovery_s is None})
    )
    return soaked


def _of_names(what: str, broken: Iterable[str]) -> Check:
    """A check that names what breaks it."""
    names = sorted(broken)
    return Check(what, not names, ", ".join(names) or "yes")


async def _load(world: World, seconds: float, seed: int) -> None:
    """All clients for so many seconds, and until each has its last answer."""
    world.stopped.clear()
    async with asyncio.timeout(seconds + 2 * PATIENCE_S), asyncio.TaskGroup() as clients:
        for number, client in enumerate(CLIENTS):
            clients.create_task(client(world, random.Random(1000 * seed + number)))
        await asyncio.sleep(seconds)
        world.stopped.set()


async def _kill_now_and_then(plan: Plan, soaked: Soaked) -> None:
    """One replica at a time, each kind in turn, and the next only when there is a successor."""
    named, choose = targets(APPLICATION, MODEL, with_haproxy=True), random.Random(plan.seed)
    # The last one early enough that there is load on its successor.
    started, number = time.monotonic() - 0.75 * plan.kill_every_s, 1
    while number * plan.kill_every_s <= plan.main_s:
        await asyncio.sleep(started + number * plan.kill_every_s - time.monotonic())
        what = KILLED[len(soaked.kills) % len(KILLED)]
        soaked.kills.append(await _kill(what, named[what], soaked, choose))
        number += 1


async def _kill(what: str, target: Target, soaked: Soaked, choose: random.Random) -> Kill:
    root, killed = soaked.census.root, time.monotonic()
    before = target.processes(root)
    kill_one(target, root, choose)
    at_s = killed - soaked.ledger.started
    while time.monotonic() < killed + RECOVERY_S:
        await asyncio.sleep(SAMPLE_S / 2)
        now = await asyncio.to_thread(target.processes, root)
        if set(now) - set(before) and len(now) >= len(before):
            return Kill(what, at_s, time.monotonic() - killed)
    return Kill(what, at_s, None)


async def _settled(soaked: Soaked) -> list[Check]:
    """The checks for leaks, once they hold or have had SETTLE_S to."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        soaked.end = await asyncio.to_thread(soaked.census.take)
        checks = leaks(soaked.warm, soaked.end)
        if all(check.holds for check in checks) or time.monotonic() > deadline:
            return checks
        await asyncio.sleep(SAMPLE_S)


@asynccontextmanager
async def _repeated(action: Any, every_s: float) -> AsyncIterator[None]:
    """`action` on a thread, over and over until the block ends."""

    async def repeat() -> None:
        while True:
            await asyncio.to_thread(action)
            await asyncio.sleep(every_s)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _tell(soaked: Soaked) -> None:
    ledger = soaked.ledger
    counts = ", ".join(f"{ledger.count(fate)} {fate}" for fate in FATES if ledger.count(fate))
    print(f"[{time.monotonic() - ledger.started:5.0f} s] {counts}; {len(soaked.kills)} killed", flush=True)
