"""A service that goes from one candidate to the next on one cluster: Serve replaces what a change concerns, in place.

To be imported when Ray's variables are set, which it reads when it is imported itself (benchmarks.tune.__main__).
"""

import asyncio
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from benchmarks.chaos.cluster import ROUND_S, Cluster, deploy, is_settled, status
from benchmarks.chaos.load import Endpoints
from benchmarks.chaos.session import serving
from benchmarks.http_client import Target
from benchmarks.load import OK, Ended, Outcome, closed_loop, open_loop
from benchmarks.measure import HEADERS, PATH, WARM_UP_CALLERS
from benchmarks.processes import machine_cpu_s
from benchmarks.service import Service
from benchmarks.tune.candidate import Config
from benchmarks.tune.rates import Probe
from deployments.errors import ConfigError

APPLICATION = "aperture"
# As Serve reports what a constructor has raised.
CONFIG_ERROR = f"{ConfigError.__name__}: "
FAILED = ("DEPLOY_FAILED", "UNHEALTHY")
# Of a candidate that is deployed on a busy machine; a new engine may have to be built.
DEPLOY_TIMEOUT_S = 120.0
POLL_S = 0.2
# HAProxy asks one Ingress and another: as many requests in a row as there may be of those, twice.
READY_IN_A_ROW = 8
WARM_UP_S, CAPACITY_S = 1.5, 3.0
# Enough that no replica waits for a caller, and few enough that none is refused.
LEAST_CALLERS, MOST_CALLERS = 16, 128
# What is due at first finds empty queues, and says nothing of the rate.
WARM_UP_SHARE = 0.2
# A request that takes so many goals is as bad as one that is never answered.
TIMEOUT_GOALS, LEAST_TIMEOUT_S, MOST_TIMEOUT_S = 5, 2.0, 30.0


class NotServed(Exception):
    """A candidate that did not get to serve, in a sentence."""


class Place:
    """Where candidates are served, one at a time. Everything that it started ends with the block that it is used in."""

    def __init__(self, folder: Path, model: str, pictures: Sequence[bytes], goal_ms: float) -> None:
        self._folder, self._model, self._pictures = folder, model, pictures
        self._goal_ms = goal_ms
        self._started = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

    def serve(self, config: Config, callers: int, seconds: float) -> "Served":
        """The service of that config, warm. `callers`: of its closed loop; `seconds`: of each open loop.

        Raises NotServed.
        """
        try:
            if self._process is None or self._process.poll() is not None:
                self._start(config)
            cluster = self._cluster(config)
            self._settle(cluster, config)
        except (RayError, RayServeException, RuntimeError, TimeoutError, OSError) as err:
            self._started.close()  # Whatever is wrong with it, the next candidate gets another one.
            raise NotServed(f"{type(err).__name__}: {' '.join(str(err).split())[-300:]}") from err
        loads = Served(
            cluster.endpoints.url,
            self._model,
            self._pictures,
            self._goal_ms,
            seconds,
            min(max(LEAST_CALLERS, callers), MOST_CALLERS),
        )
        loads.warm_up()
        return loads

    def _start(self, config: Config) -> None:
        self._started.close()
        # Whoever starts the service or connects to Ray sets handlers of his own, and Ray's would end this process and
        # leave the service.
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._process = self._started.enter_context(serving(config, self._folder))
        ray.init(address="auto", namespace="serve", log_to_driver=False, configure_logging=False)
        self._started.callback(ray.shutdown)
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def _cluster(self, config: Config) -> Cluster:
        assert self._process is not None
        url = f"http://127.0.0.1:{config['http_options']['port']}"
        endpoints = Endpoints(url, f"127.0.0.1:{config['grpc_options']['port']}", self._model)
        return Cluster(endpoints, APPLICATION, self._process.pid, config, with_haproxy=True)

    def _settle(self, cluster: Cluster, config: Config) -> None:
        asyncio.run(deploy(config))
        time.sleep(ROUND_S)
        deadline = time.monotonic() + DEPLOY_TIMEOUT_S
        while not is_settled(cluster, config):
            if (state := status(cluster)) in FAILED:
                raise NotServed(_reason())
            if time.monotonic() > deadline:
                raise TimeoutError(f"not every replica runs, and the application is {state or 'gone'}")
            time.sleep(POLL_S)
        ready = 0
        while ready < READY_IN_A_ROW:
            ready = ready + 1 if _is_ready(cluster.endpoints.url) else 0
            if time.monotonic() > deadline:
                raise TimeoutError("not every Ingress says that the model is warm")
            if not ready:
                time.sleep(POLL_S)


class Served:
    """The loads that rates.find_rate asks for, on a service at `url`; every process below this one is the service."""

    def __init__(
        self, url: str, model: str, pictures: Sequence[bytes], goal_ms: float, seconds: float, callers: int
    ) -> None:
        self._url, self._model, self._pictures = url, model, pictures
        self._target = Target(f"{url}{PATH}?model={model}", HEADERS)
        self._seconds, self._callers = seconds, callers
        self._timeout_s = min(max(LEAST_TIMEOUT_S, TIMEOUT_GOALS * goal_ms / 1000), MOST_TIMEOUT_S)
        self._service = Service(url, os.getpid())

    def warm_up(self) -> None:
        asyncio.run(closed_loop(self._target, self._pictures, WARM_UP_CALLERS, WARM_UP_S))

    def capacity(self) -> float:
        return asyncio.run(closed_loop(self._target, self._pictures, self._callers, CAPACITY_S)).per_second

    def offer(self, per_second: float, number: int) -> Probe:
        load = open_loop(
            self._target, self._pictures, per_second, self._seconds, seed=number, timeout_s=self._timeout_s
        )
        outcome, others_cores = self._beside_others(lambda: load)
        return _probe(per_second, outcome, WARM_UP_SHARE * self._seconds, others_cores)

    def runs_on(self) -> tuple[str, str]:
        """The engine and the precision that the model came to. Raises NotServed."""
        try:
            with urllib.request.urlopen(f"{self._url}/v2/models/{self._model}", timeout=30) as response:
                metadata = json.load(response)
        except (OSError, ValueError) as err:
            raise NotServed(f"the service does not say what model {self._model!r} runs on: {err}") from err
        # The platform is ENGINE_ARCHITECTURE.
        return str(metadata["platform"]).partition("_")[0], str(metadata["precision"])

    def _beside_others(self, load: Callable[[], Coroutine[Any, Any, Outcome]]) -> tuple[Outcome, float]:
        """What came of it, and how many cores other programs took meanwhile."""
        before_s = self._others_s()
        outcome = asyncio.run(load())
        return outcome, max(0.0, self._others_s() - before_s) / outcome.elapsed_s

    def _others_s(self) -> float:
        return machine_cpu_s() - self._service.cpu_s() - time.process_time()


def _reason() -> str:
    """Why the application does not serve: the project's own sentence, if there is one."""
    application = serve.status().applications[APPLICATION]
    messages = [application.message, *(each.message for each in application.deployments.values())]
    lines = [line for message in messages for line in message.splitlines() if CONFIG_ERROR in line]
    return lines[-1].partition(CONFIG_ERROR)[2] if lines else " ".join(messages[0].split()) or "Serve gives no reason"


def _probe(per_second: float, outcome: Outcome, warm_up_s: float, others_cores: float) -> Probe:
    counted = [request for request in outcome.ended if request.due_s >= warm_up_s]
    latencies_ms = [1000 * request.took_s if request.status == OK else float("inf") for request in counted]
    # "higher": between a finite one and infinity there is nothing to interpolate.
    p50_ms, p99_ms = (
        (float(np.percentile(latencies_ms, share, method="higher")) for share in (50, 99))
        if latencies_ms
        else (float("inf"), float("inf"))
    )
    return Probe(per_second, p50_ms, p99_ms, len(counted), sum(map(_has_failed, counted)), others_cores)


def _has_failed(request: Ended) -> bool:
    return request.status != OK


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=2) as response:
            return int(response.status) == 200
    except (urllib.error.HTTPError, OSError):
        return False
