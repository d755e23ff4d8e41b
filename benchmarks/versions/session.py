"""One service from its start to its end, with every change in between, under a load that never stops."""

import argparse
import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import yaml

from benchmarks.chaos.cluster import Cluster, Config, chaos_config, deployment_of
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.load import closed_loop
from benchmarks.chaos.session import connected, serving
from benchmarks.service import ROOT
from benchmarks.versions.files import FIRST, SECOND, SLOW, ModelFiles, one_thread
from benchmarks.versions.references import VersionedQuestion
from benchmarks.versions.references import questions as questions_of
from benchmarks.versions.report import Row, window
from benchmarks.versions.scenarios import Scenario, Stage, live, scenarios
from benchmarks.versions.service import Broken, Service

QUESTIONS: Final = 24
# One more caller over gRPC for so many over HTTP.
GRPC_SHARE: Final = 4
# The first requests open connections.
WARM_UP_S: Final = 2.0
# A change that takes long is compared with so much of the time after it.
MOST_AFTER_S: Final = 30.0


def run(args: argparse.Namespace, folder: Path) -> list[Row]:
    """The figures of each change. `folder` takes the models, the config and the service's log."""
    files = ModelFiles(folder)
    config = with_versions(chaos_config(yaml.safe_load((ROOT / "configs/local.yaml").read_text())), files, args.engine)
    questions = asked(files, QUESTIONS)
    # Outside of the event loop: the service is stopped however that ends.
    with serving(config, folder) as process:
        return asyncio.run(_run(args, files, questions, config, process))


async def _run(
    args: argparse.Namespace,
    files: ModelFiles,
    questions: Sequence[VersionedQuestion],
    config: Config,
    process: "subprocess.Popen[bytes]",
) -> list[Row]:
    callers = (args.callers, max(1, args.callers // GRPC_SHARE))
    chosen = [each for each in scenarios() if not args.only or any(each.name.startswith(name) for name in args.only)]
    async with (
        connected(config, process) as cluster,
        under_load(cluster, files, questions, callers, args.answers) as stage,
    ):
        rows = [await _told(scenario, stage, args.seconds / len(chosen) / 2) for scenario in chosen]
    for example in stage.ledger.examples():
        print(f"    {example}", flush=True)
    return rows


async def _told(scenario: Scenario, stage: Stage, least_s: float) -> Row:
    print(f"{scenario.name} ...", flush=True)
    row = await played(scenario, stage, least_s)
    print(f"    {row.problem or dict(row.found)}", flush=True)
    return row


def with_versions(config: Config, files: ModelFiles, engine: str) -> Config:
    """The config with those versions in place of the bundled model's, and the first of them for everybody."""
    (model,) = config["applications"][0]["args"]["models"]
    model.update(path=str(files.root), engine=engine, device="cpu")
    deployment_of(config, model["name"])["user_config"] = live({"latest": 1})
    return config


def asked(files: ModelFiles, count: int) -> list[VersionedQuestion]:
    """What the callers ask."""
    with one_thread():
        return questions_of({version: files.directory(version) for version in (FIRST, SECOND, SLOW)}, count)


@asynccontextmanager
async def under_load(
    cluster: Cluster, files: ModelFiles, asked: Sequence[VersionedQuestion], callers: tuple[int, int], least: int
) -> AsyncIterator[Stage]:
    """`callers`: over HTTP, and over gRPC."""
    service, ledger = Service(cluster, asked[0].picture), Ledger()
    async with closed_loop(cluster.endpoints, asked, *callers, ledger) as active:
        await asyncio.sleep(WARM_UP_S)
        yield Stage(service, files, asked, ledger, active, least)


async def played(scenario: Scenario, stage: Stage, least_s: float, most_after_s: float = MOST_AFTER_S) -> Row:
    """A change lasts at least so many seconds, and the time after it as many, up to `most_after_s`."""
    began, problem, found = time.monotonic(), "", {}
    try:
        found = dict(await scenario.play(stage))
    except (Broken, TimeoutError, httpx.TransportError, KeyError) as err:
        problem = f"{type(err).__name__}: {err}"
    await asyncio.sleep(began + least_s - time.monotonic())
    ended = time.monotonic()
    await asyncio.sleep(min(ended - began, most_after_s))
    after, entries = time.monotonic(), stage.ledger.entries
    return Row(
        scenario.name, scenario.is_swap, window(entries, began, ended), window(entries, ended, after), problem, found
    )
