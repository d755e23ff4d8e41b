"""How many of what there is, and how it is set."""

import math
import sys
from dataclasses import dataclass, replace
from typing import Self

from deployments.settings import Gathering

INGRESS, PREPROCESSOR, CLASSIFIER = "Ingress", "Preprocessor", "Classifier"
DEPLOYMENTS = (INGRESS, PREPROCESSOR, CLASSIFIER)
# Threads of HAProxy on each node with an Ingress (Serve's default, RAY_SERVE_HAPROXY_NBTHREAD).
PROXY_THREADS = 4
USUAL_GATHERING = Gathering()


@dataclass(frozen=True)
class Shape:
    """The graph of one model. With `shared_cores`, everything runs on one node of that many cores, and idle processes
    with it; without, every thread has a core of its own, which is what `num_cpus` equal to the threads reserves."""

    ingresses: int = 1
    preprocessors: int = 1
    classifiers: int = 1
    preprocessor_threads: int = 1
    classifier_threads: int = 1
    runners: int = 1
    max_batch_size: int = 8
    gathering: Gathering | None = USUAL_GATHERING
    # Calls that all Ingress replicas together may have in flight for each replica behind, if that is more than
    # gathering.max_calls gives. With fewer than one, replicas idle while images wait.
    calls_a_replica: int = 0
    request_timeout_s: float = 30.0
    shared_cores: int | None = None
    # The engine takes no core of its node.
    on_gpu: bool = False

    def count(self, deployment: str) -> int:
        return {INGRESS: self.ingresses, PREPROCESSOR: self.preprocessors, CLASSIFIER: self.classifiers}[deployment]

    def with_count(self, deployment: str, count: int) -> Self:
        if deployment == INGRESS:
            return replace(self, ingresses=count)
        if deployment == PREPROCESSOR:
            return replace(self, preprocessors=count)
        return replace(self, classifiers=count)

    @property
    def max_calls(self) -> int:
        """Of each Ingress replica and hop, as gathering.max_calls is to be set."""
        if self.gathering is None:
            return sys.maxsize
        behind = max(self.preprocessors, self.classifiers)
        return max(self.gathering.max_calls, math.ceil(self.calls_a_replica * behind / self.ingresses))

    @property
    def counts(self) -> dict[str, int]:
        return {deployment: self.count(deployment) for deployment in DEPLOYMENTS}

    @property
    def cores(self) -> dict[str, int]:
        """Of one replica of each deployment: a core for each thread that works, the event loop included; the loops of
        replicas with other threads idle while those work."""
        classifier = 1 if self.on_gpu else self.classifier_threads * self.runners
        return {INGRESS: 1, PREPROCESSOR: self.preprocessor_threads, CLASSIFIER: classifier}
