"""The whole graph: requests in, latencies out."""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.simulation.cores import Cores, Device, Processor, Station
from benchmarks.simulation.gates import Gate, Gatherer, Returned
from benchmarks.simulation.replicas import Call, ClassifierReplica, Image, PreprocessorReplica, Router
from benchmarks.simulation.service_times import ServiceTimes
from benchmarks.simulation.shape import CLASSIFIER, INGRESS, PREPROCESSOR, PROXY_THREADS, Shape
from benchmarks.simulation.timeline import Timeline

Finished = Callable[[bool], object]
# How long Ray's idle rounds take at a time: an assumption, of which only the sum was measured.
IDLE_ROUND_S = 0.005


class Service:
    """The graph on its nodes, in simulated time."""

    def __init__(self, timeline: Timeline, shape: Shape, times: ServiceTimes, seed: int = 0) -> None:
        self.timeline, self.shape, self.times = timeline, shape, times
        self.processor: Processor = (
            Device(timeline, times.slowdown)
            if shape.shared_cores is None
            else Cores(timeline, shape.shared_cores, times.slowdown)
        )
        self._seeds = itertools.count(1000 * (seed + 1))
        self.routers = {
            PREPROCESSOR: Router(timeline, [self.new_preprocessor() for _ in range(shape.preprocessors)], seed + 1),
            CLASSIFIER: Router(timeline, [self.new_classifier() for _ in range(shape.classifiers)], seed + 2),
        }
        self.ingresses = [Ingress(self) for _ in range(shape.ingresses)]
        proxies = 1 if shape.shared_cores else shape.ingresses
        hops = times.hops
        self.proxy = Station(
            timeline, self.processor, PROXY_THREADS * proxies, wake_s=hops.wake_s, cold_s=hops.cold_wake_s
        )

    def request(self, decode_s: Sequence[float], finished: Finished) -> None:
        """One request of as many images as there are times to decode them; `finished(ok)` is called at its answer."""
        self.proxy.run(self.times.hops.proxy_request_s, partial(self._admit, decode_s, finished))

    def new_preprocessor(self) -> PreprocessorReplica:
        return PreprocessorReplica(self.timeline, self.processor, self.times.hops, self.shape.preprocessor_threads)

    def new_classifier(self) -> ClassifierReplica:
        gate = Gate(
            self.timeline,
            Device(self.timeline) if self.shape.on_gpu else self.processor,
            self.times.batch_s(self.shape.max_batch_size, next(self._seeds)),
            max_batch_size=self.shape.max_batch_size,
            runners=self.shape.runners,
            threads=self.shape.classifier_threads,
        )
        return ClassifierReplica(self.timeline, self.processor, self.times.hops, gate)

    def kill(self, deployment: str) -> None:
        """The first replica of the deployment dies, with everything that it had."""
        router = self.routers[deployment]
        if not router.replicas:
            return
        replica = router.replicas[0]
        router.remove(replica)
        replica.die()

    def load(self, deployment: str) -> int:
        """Images that are with the deployment's replicas, or wait in the Ingress to go there."""
        router = self.routers[deployment]
        waiting = sum(ingress.waiting(deployment) for ingress in self.ingresses)
        return sum(replica.images for replica in router.replicas) + router.waiting + waiting

    def keep_busy(self, cores: float, round_s: float, seed: int) -> None:
        """Puts other work on the node's cores, for ever: `cores` of them on average, in rounds of `round_s`."""
        chance = random.Random(seed)

        def next_round() -> None:
            self.processor.run(chance.expovariate(1 / round_s), lambda: None)
            self.timeline.after(chance.expovariate(cores / round_s), next_round)

        if cores > 0:
            self.timeline.after(chance.expovariate(cores / round_s), next_round)

    def _admit(self, decode_s: Sequence[float], finished: Finished) -> None:
        # HAProxy in front of the Ingress: to the one with the fewest connections.
        min(self.ingresses, key=lambda ingress: ingress.requests).request(decode_s, finished)


class Ingress:
    """One replica: an event loop, and what gathers in front of each hop."""

    def __init__(self, service: Service) -> None:
        self._service, self._timeline = service, service.timeline
        self._hops = service.times.hops
        self.loop = Station(
            service.timeline, service.processor, wake_s=self._hops.wake_s, cold_s=self._hops.cold_wake_s
        )
        self.requests = 0  # in flight
        shape = service.shape
        max_calls, most = shape.max_calls, shape.gathering.max_images if shape.gathering else 1
        self.gatherers = {
            PREPROCESSOR: self._gatherer(PREPROCESSOR, max_calls, most),
            CLASSIFIER: self._gatherer(CLASSIFIER, max_calls, min(most, shape.max_batch_size)),
        }

    def request(self, decode_s: Sequence[float], finished: Finished) -> None:
        self.requests += 1
        self.loop.run(self._hops.ingress_request_s / 2, partial(self._begin, decode_s, finished))

    def waiting(self, deployment: str) -> int:
        return self.gatherers[deployment].waiting

    def _begin(self, decode_s: Sequence[float], finished: Finished) -> None:
        left, failed = len(decode_s), False

        def answered(ok: bool) -> None:
            nonlocal left, failed
            left -= 1
            failed = failed or not ok
            if left == 0:
                self.loop.run(self._hops.ingress_request_s / 2, partial(self._end, not failed, finished))

        deadline_s = self._timeline.now + self._service.shape.request_timeout_s
        for one_s in decode_s:
            image = Image(one_s, deadline_s, answered)
            image.next_hop = self._to_classifier
            self.gatherers[PREPROCESSOR].submit(image)

    def _end(self, ok: bool, finished: Finished) -> None:
        self.requests -= 1
        finished(ok)

    def _to_classifier(self, image: Image) -> None:
        image.next_hop = lambda classified: classified.answered(True)
        self.gatherers[CLASSIFIER].submit(image)

    def _gatherer(self, deployment: str, max_calls: int, max_items: int) -> Gatherer[Image]:
        return Gatherer(self._timeline, partial(self._send, deployment), max_calls=max_calls, max_items=max_items)

    def _send(self, deployment: str, images: Sequence[Image], returned: Returned) -> None:
        router, network_s = self._service.routers[deployment], self._service.times.network_s
        call = Call(images, lambda call, ok: self._timeline.after(network_s, self._receive, call, ok, returned))
        half_s = self._hops.ingress_call_s / 2
        self.loop.run(half_s, lambda: self._timeline.after(network_s, router.send, call))

    def _receive(self, call: Call, ok: bool, returned: Returned) -> None:
        self.loop.run(self._hops.ingress_call_s / 2, partial(self._deliver, call, ok, returned))

    def _deliver(self, call: Call, ok: bool, returned: Returned) -> None:
        returned()
        for image in call.images:
            if ok and image not in call.refused:
                image.next_hop(image)
            else:
                image.answered(False)


def wake_ups(service: Service) -> int:
    """Of all processes."""
    replicas = [replica for router in service.routers.values() for replica in router.replicas]
    loops = [service.proxy, *(one.loop for one in service.ingresses), *(one.loop for one in replicas)]
    return sum(loop.wake_ups for loop in loops)


def batch_sizes(service: Service) -> Counter[int]:
    """Of all classifiers: size to number of batches."""
    found: Counter[int] = Counter()
    for replica in service.routers[CLASSIFIER].replicas:
        assert isinstance(replica, ClassifierReplica)
        found += replica.gate.sizes
    return found


def group_sizes(service: Service, deployment: str) -> Counter[int]:
    """Images to a call, of all Ingress replicas: size to number of calls."""
    found: Counter[int] = Counter()
    for ingress in service.ingresses:
        found += ingress.gatherers[deployment].sizes
    return found


def occupation(service: Service, elapsed_s: float) -> dict[str, float]:
    """What share of their time the parts were occupied, the wait for a core included: by name, 1 is always."""
    preprocessors = [one for one in service.routers[PREPROCESSOR].replicas if isinstance(one, PreprocessorReplica)]
    classifiers = [one for one in service.routers[CLASSIFIER].replicas if isinstance(one, ClassifierReplica)]
    stations = {
        "proxy threads": [service.proxy],
        f"{INGRESS} event loop": [ingress.loop for ingress in service.ingresses],
        f"{PREPROCESSOR} event loop": [replica.loop for replica in preprocessors],
        f"{PREPROCESSOR} decoders": [replica.decoders for replica in preprocessors],
        f"{CLASSIFIER} event loop": [replica.loop for replica in classifiers],
    }
    shares = {
        name: sum(one.occupied_s for one in found) / max(1, sum(one.servers for one in found)) / elapsed_s
        for name, found in stations.items()
    }
    runners = sum(replica.gate.runners for replica in classifiers)
    shares[f"{CLASSIFIER} engine"] = sum(one.gate.occupied_s for one in classifiers) / max(1, runners) / elapsed_s
    if service.shape.shared_cores is not None:
        assert isinstance(service.processor, Cores)
        shares["cores of the node"] = service.processor.busy_s / service.shape.shared_cores / elapsed_s
    return shares
