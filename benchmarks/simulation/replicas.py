"""The replicas of the deployments, and the router that chooses among them."""

import random
from collections.abc import Callable, Sequence

from benchmarks.simulation.cores import Processor, Station
from benchmarks.simulation.gates import Gate
from benchmarks.simulation.service_times import HopTimes
from benchmarks.simulation.timeline import Timeline


class Image:
    """One image on its way. `answered(ok)` is called once."""

    __slots__ = ("answered", "deadline_s", "decode_s", "next_hop")

    def __init__(self, decode_s: float, deadline_s: float, answered: Callable[[bool], object]) -> None:
        self.decode_s, self.deadline_s, self.answered = decode_s, deadline_s, answered
        self.next_hop: Callable[[Image], object] = lambda image: image.answered(True)


class Call:
    """Images that travel together to one replica and back. `returned(call, ok)` is called once, whatever happens."""

    __slots__ = ("_returned", "images", "is_open", "left", "refused")

    def __init__(self, images: Sequence[Image], returned: Callable[["Call", bool], object]) -> None:
        self.images, self._returned = images, returned
        self.left = len(images)
        self.refused: set[Image] = set()  # whose deadline passed
        self.is_open = True

    def end(self, ok: bool) -> None:
        if self.is_open:
            self.is_open = False
            self._returned(self, ok)


class Replica:
    """What preprocessors and classifiers have in common: one event loop, and calls that die with the process."""

    def __init__(
        self, timeline: Timeline, processor: Processor, hops: HopTimes, *, image_s: float, call_s: float
    ) -> None:
        self.loop = Station(timeline, processor, wake_s=hops.wake_s, cold_s=hops.cold_wake_s)
        self.is_alive = True
        self.images = 0  # of the calls that are here
        self._open: dict[Call, None] = {}  # In their order, so that every run is alike.
        self._image_s, self._call_s = image_s, call_s

    @property
    def calls(self) -> int:
        return len(self._open)

    def receive(self, call: Call) -> None:
        if not self.is_alive:
            call.end(False)
            return
        self._open[call] = None
        self.images += len(call.images)
        self.loop.run(self._call_s / 2 + self._image_s * len(call.images), lambda: self._work(call))

    def die(self) -> None:
        """All calls that are here fail at once, as their connections break."""
        self.is_alive = False
        for call in list(self._open):
            self._close(call, False)

    def _work(self, call: Call) -> None:
        raise NotImplementedError

    def _one_done(self, call: Call) -> None:
        call.left -= 1
        if call.left == 0:
            self.loop.run(self._call_s / 2, lambda: self._close(call, True))

    def _close(self, call: Call, ok: bool) -> None:
        if call in self._open:
            del self._open[call]
            self.images -= len(call.images)
            call.end(ok)


class PreprocessorReplica(Replica):
    def __init__(self, timeline: Timeline, processor: Processor, hops: HopTimes, threads: int) -> None:
        super().__init__(timeline, processor, hops, image_s=hops.preprocessor_image_s, call_s=hops.preprocessor_call_s)
        self.decoders = Station(timeline, processor, threads)

    def _work(self, call: Call) -> None:
        for image in call.images:
            self.decoders.run(image.decode_s, lambda: self._one_done(call))


class ClassifierReplica(Replica):
    def __init__(self, timeline: Timeline, processor: Processor, hops: HopTimes, gate: Gate) -> None:
        super().__init__(timeline, processor, hops, image_s=hops.classifier_image_s, call_s=hops.classifier_call_s)
        self.gate = gate

    def _work(self, call: Call) -> None:
        for image in call.images:
            self.gate.submit(self._outcome_of(call, image), image.deadline_s)

    def _outcome_of(self, call: Call, image: Image) -> Callable[[bool], object]:
        def ran(in_time: bool) -> None:
            if not in_time:
                call.refused.add(image)
            self._one_done(call)

        return ran


class Router:
    """The power of two choices, as Serve routes: of two replicas at random, the one with fewer calls in flight.

    Serve knows the others' queues by probes and by what its own calls report; here the figures are always fresh.
    """

    def __init__(self, timeline: Timeline, replicas: Sequence[Replica], seed: int) -> None:
        self._timeline = timeline
        self._replicas = list(replicas)
        self._random = random.Random(seed)
        self._waiting: list[Call] = []  # while there is no replica

    @property
    def replicas(self) -> Sequence[Replica]:
        return self._replicas

    @property
    def waiting(self) -> int:
        """Images that wait for a replica to come."""
        return sum(len(call.images) for call in self._waiting)

    def send(self, call: Call) -> None:
        if not self._replicas:
            self._waiting.append(call)
            return
        self._choose().receive(call)

    def add(self, replica: Replica) -> None:
        self._replicas.append(replica)
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            self.send(call)

    def remove(self, replica: Replica) -> None:
        """Sends it nothing more; what it has, it finishes."""
        self._replicas.remove(replica)

    def _choose(self) -> Replica:
        count = len(self._replicas)
        if count == 1:
            return self._replicas[0]
        first = int(self._random.random() * count)
        second = (first + 1 + int(self._random.random() * (count - 1))) % count
        one, other = self._replicas[first], self._replicas[second]
        return one if one.calls <= other.calls else other
