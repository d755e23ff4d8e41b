"""One service from its start to its end by SIGTERM, with all scenarios in between."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx
import ray
import yaml

from benchmarks.chaos.changes import changes
from benchmarks.chaos.cluster import Cluster, Config, ask, chaos_config, is_settled, until
from benchmarks.chaos.kills import kill_the_only_ingress, kills, random_kills
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.load import Endpoints
from benchmarks.chaos.report import figures
from benchmarks.chaos.scenarios import Promise, Scenario, Stage, play, stopped
from benchmarks.processes import adopt_orphans, descendants, stop_all
from benchmarks.service import ROOT

APPLICATION = "aperture"
MODEL = "shapes"
READY_TIMEOUT_S = 300.0
# For what is in flight (limits.request_timeout_s), and for Serve to stop its processes.
STOP_TIMEOUT_S = 90.0
LEFTOVERS_TIMEOUT_S = 10.0
LOG_TAIL = 4000

Results = dict[str, dict[str, float | bool]]


async def run(args: argparse.Namespace, folder: Path) -> Results:
    """The figures of each scenario, by its name. `folder` takes the config and the service's log."""
    config = chaos_config(yaml.safe_load((ROOT / "configs/local.yaml").read_text()))
    results: Results = {}
    with serving(config, folder, plain=args.plain) as process:
        async with connected(config, process, plain=args.plain) as cluster:
            stage = Stage(cluster, await ask(cluster.endpoints), args.per_second)
            chosen = [each for each in _scenarios(stage.cluster, args) if _is_wanted(each.name, args.only)]
            for number, scenario in enumerate(chosen, 1):
                print(f"[{number} of {len(chosen)}] {scenario.name} ...", flush=True)
                results[scenario.name] = await _played(scenario, stage)
        # `serve run` by itself does not know SIGTERM.
        if _is_wanted("SIGTERM", args.only) and not args.plain:
            print("SIGTERM ...", flush=True)
            ledger, status = await stopped(stage, process, STOP_TIMEOUT_S)
            results["SIGTERM"] = _told(ledger, Promise().is_kept(ledger) and status == 0)
    return results


def _scenarios(cluster: Cluster, args: argparse.Namespace) -> list[Scenario]:
    return [*kills(cluster), kill_the_only_ingress(), *changes(), random_kills(cluster, args.seconds, args.seed)]


def _is_wanted(name: str, only: list[str]) -> bool:
    return not only or any(name.startswith(wanted) for wanted in only)


async def _played(scenario: Scenario, stage: Stage) -> dict[str, float | bool]:
    ledger = await play(scenario, stage)
    return _told(ledger, scenario.promise.is_kept(ledger))


def _told(ledger: Ledger, is_kept: bool) -> dict[str, float | bool]:
    found = figures(ledger, is_kept)
    print(f"    {', '.join(f'{name} {value}' for name, value in found.items())}", flush=True)
    if ledger.problem:
        print(f"    {ledger.problem}", flush=True)
    for example in ledger.examples():
        print(f"    {example}", flush=True)
    return found


@asynccontextmanager
async def connected(
    config: Config, process: "subprocess.Popen[bytes]", *, plain: bool = False
) -> AsyncIterator[Cluster]:
    """This process connected to the cluster of that service, once it is settled."""
    endpoints = Endpoints(
        f"http://127.0.0.1:{config['http_options']['port']}",
        f"127.0.0.1:{config['grpc_options']['port']}",
        MODEL,
    )
    cluster = Cluster(endpoints, APPLICATION, process.pid, config, with_haproxy=not plain)
    ray.init(address="auto", namespace="serve", log_to_driver=False, configure_logging=False)
    try:
        await until(lambda: is_settled(cluster, config), READY_TIMEOUT_S, "every replica runs")
        yield cluster
    finally:
        ray.shutdown()


@contextmanager
def serving(config: Config, folder: Path, *, plain: bool = False) -> Iterator["subprocess.Popen[bytes]"]:
    """What `make serve` starts, or `serve run`, once it is ready; nothing of it is left behind."""
    path, log = folder / "config.yaml", folder / "serve.log"
    path.write_text(yaml.safe_dump(config))
    command = (
        [str(Path(sys.executable).with_name("serve")), "run"] if plain else [sys.executable, "-m", "scripts.serve"]
    )
    # What the killed leave behind would else be out of reach: HAProxy outlives the actor that started it.
    adopt_orphans()
    # SIGINT is ignored in a shell's background jobs, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, str(path)], cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _await_ready(process, f"http://127.0.0.1:{config['http_options']['port']}/v2/health/ready", log)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
        stop_all(descendants(os.getpid()), LEFTOVERS_TIMEOUT_S)


def _await_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.5)
    raise RuntimeError(f"The service is not ready. The end of what it said:\n{log.read_text()[-LOG_TAIL:]}")
