"""Prints, twice a second, when (time.perf_counter) and how many replicas of a deployment of the local cluster run.

    RAY_AUTH_MODE=token python -m benchmarks.replicas DEPLOYMENT

A process of its own, since Ray reads its environment when it is first imported. It ends with SIGTERM.
"""

import logging
import signal
import sys
import time

import ray
from ray import serve

INTERVAL_S = 0.5
RUNNING = "RUNNING"


def main(deployment: str) -> None:
    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR, namespace="serve")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's own handler would print where it was.
    while True:
        states = serve.status().applications["aperture"].deployments[deployment].replica_states
        print(time.perf_counter(), sum(count for state, count in states.items() if state == RUNNING), flush=True)
        time.sleep(INTERVAL_S)


if __name__ == "__main__":
    main(sys.argv[1])
