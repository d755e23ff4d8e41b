"""One simulated run and what it found: an open loop of requests at given moments, or callers that wait for answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulation.service import IDLE_ROUND_S, Service, batch_sizes, group_sizes, occupation, wake_ups
from benchmarks.simulation.service_times import ServiceTimes
from benchmarks.simulation.shape import CLASSIFIER, PREPROCESSOR, Shape
from benchmarks.simulation.timeline import Timeline

# Other programs run for a while once they run; an assumption.
OTHERS_ROUND_S = 0.05
DECODE_SEED = 1000
# Of an open loop, before the queues have found their lengths.
WARM_UP_SHARE = 0.1
SHORTEST_S = 1e-9  # Of a run with a single request, which is over before it has begun.


@dataclass(frozen=True)
class Found:
    """Of one run. Latencies are of requests that were answered, in the order of their answers."""

    latencies_s: NDArray[np.float64]
    begun_s: NDArray[np.float64]  # the moment at which each of them was due
    elapsed_s: float
    images: int
    failed: int
    cpu_s: float  # of the service, without other programs
    occupation: dict[str, float] = field(default_factory=dict)
    mean_batch: float = 0.0
    mean_group: dict[str, float] = field(default_factory=dict)
    wake_ups: int = 0

    @property
    def per_second(self) -> float:
        return len(self.latencies_s) / self.elapsed_s

    def percentile_ms(self, percent: float) -> float:
        """Infinity if nothing was answered."""
        return float(np.percentile(self.latencies_s, percent)) * 1000 if len(self.latencies_s) else float("inf")


class Recorder:
    """Takes down when requests were due and answered. Ends the run early once more than `most_late` of them have been
    answered after `late_s`, or not at all."""

    def __init__(self, timeline: Timeline, late_s: float = float("inf"), most_late: float = float("inf")) -> None:
        self._timeline, self._late_s, self._most_late = timeline, late_s, most_late
        self._late = 0
        self.latencies_s: list[float] = []
        self.begun_s: list[float] = []
        self.failed = 0

    def note(self, due_s: float, ok: bool) -> None:
        if not ok or self._timeline.now - due_s > self._late_s:
            self._late += 1
            if self._late > self._most_late:
                self._timeline.stop()
        if ok:
            self.latencies_s.append(self._timeline.now - due_s)
            self.begun_s.append(due_s)
        else:
            self.failed += 1


def open_loop(
    shape: Shape,
    times: ServiceTimes,
    moments_s: Sequence[float] | NDArray[np.float64],
    *,
    images: int = 1,
    seed: int = 0,
    others_cores: float = 0.0,
    warm_up_share: float = WARM_UP_SHARE,
    late_s: float = float("inf"),
    most_late: float = float("inf"),
) -> Found:
    """Requests of `images` each at `moments_s`, whatever became of the earlier ones, until all are answered.

    Ends early once more than `most_late` requests have been answered later than `late_s`; the others count as failed.
    """
    timeline = Timeline()
    service = _service(timeline, shape, times, seed, others_cores)
    recorder = Recorder(timeline, late_s, most_late)
    feed(service, recorder, moments_s, images, seed)
    end_s = float(moments_s[-1])
    timeline.run(end_s)
    end_s = max(SHORTEST_S, min(end_s, timeline.now))
    busy_s, shares = service.processor.busy_s, occupation(service, end_s)
    while len(recorder.latencies_s) + recorder.failed < len(moments_s) and not timeline.stopped:
        timeline.run(timeline.now + 0.25)
    unanswered = len(moments_s) - len(recorder.latencies_s) - recorder.failed
    found = _found(service, recorder, end_s, images, busy_s - others_cores * end_s, shares, unanswered)
    return without_warm_up(found, warm_up_share * end_s)


def closed_loop(
    shape: Shape,
    times: ServiceTimes,
    callers: int,
    duration_s: float,
    *,
    seed: int = 0,
    others_cores: float = 0.0,
) -> Found:
    """As benchmarks.load.closed_loop: each caller sends its next image when it has the answer to its last one."""
    timeline = Timeline()
    service = _service(timeline, shape, times, seed, others_cores)
    recorder = Recorder(timeline)
    decode_s = times.decode_s(100_000, DECODE_SEED + seed)
    sent = 0

    def send() -> None:
        nonlocal sent
        due_s = timeline.now
        if due_s < duration_s:
            one_s = float(decode_s[sent % len(decode_s)])
            sent += 1
            service.request([one_s], partial(answered, due_s))

    def answered(due_s: float, ok: bool) -> None:
        recorder.note(due_s, ok)
        send()

    for _ in range(callers):
        timeline.after(0.0, send)
    timeline.run(duration_s)
    busy_s, shares = service.processor.busy_s, occupation(service, duration_s)
    while len(recorder.latencies_s) + recorder.failed < sent:
        timeline.run(timeline.now + 0.05)
    elapsed_s = max(duration_s, max((b + t for b, t in zip(recorder.begun_s, recorder.latencies_s, strict=True))))
    busy_s = (busy_s / duration_s - others_cores) * elapsed_s
    return _found(service, recorder, elapsed_s, 1, busy_s, shares, 0)


def feed(
    service: Service,
    recorder: Recorder,
    moments_s: Sequence[float] | NDArray[np.float64],
    images: int,
    seed: int,
) -> None:
    """Puts the requests on the service's timeline; image n takes as long to decode in every run of the same seed."""
    timeline = service.timeline
    decode_s = service.times.decode_s(len(moments_s) * images, DECODE_SEED + seed).tolist()

    def arrive(number: int) -> None:
        due_s = timeline.now
        mine = decode_s[number * images : (number + 1) * images]
        service.request(mine, lambda ok: recorder.note(due_s, ok))
        if number + 1 < len(moments_s):
            timeline.at(float(moments_s[number + 1]), arrive, number + 1)

    timeline.at(float(moments_s[0]), arrive, 0)


def pooled(found: Sequence[Found]) -> Found:
    """Runs of the same shape at the same load as one."""
    first, count = found[0], len(found)
    return Found(
        np.concatenate([one.latencies_s for one in found]),
        np.concatenate([one.begun_s for one in found]),
        sum(one.elapsed_s for one in found),
        sum(one.images for one in found),
        sum(one.failed for one in found),
        sum(one.cpu_s for one in found),
        {name: sum(one.occupation[name] for one in found) / count for name in first.occupation},
        sum(one.mean_batch for one in found) / count,
        {name: sum(one.mean_group[name] for one in found) / count for name in first.mean_group},
        sum(one.wake_ups for one in found),
    )


def without_warm_up(found: Found, warm_up_s: float) -> Found:
    """Without the requests that were due before `warm_up_s`; rates and shares stay those of the whole run."""
    kept = found.begun_s >= warm_up_s
    return Found(**{**vars(found), "latencies_s": found.latencies_s[kept], "begun_s": found.begun_s[kept]})


def _service(timeline: Timeline, shape: Shape, times: ServiceTimes, seed: int, others_cores: float) -> Service:
    service = Service(timeline, shape, times, seed)
    if shape.shared_cores is not None:
        service.keep_busy(times.idle_cores, IDLE_ROUND_S, seed + 3)
        service.keep_busy(others_cores, OTHERS_ROUND_S, seed + 4)
    return service


def _found(
    service: Service,
    recorder: Recorder,
    elapsed_s: float,
    images: int,
    cpu_s: float,
    shares: dict[str, float],
    unanswered: int,
) -> Found:
    latencies_s, begun_s = np.array(recorder.latencies_s), np.array(recorder.begun_s)
    batches = batch_sizes(service)
    groups = {deployment: group_sizes(service, deployment) for deployment in (PREPROCESSOR, CLASSIFIER)}
    return Found(
        latencies_s,
        begun_s,
        elapsed_s,
        images * len(latencies_s),
        recorder.failed + unanswered,
        cpu_s,
        shares,
        _mean(batches),
        {deployment: _mean(sizes) for deployment, sizes in groups.items()},
        wake_ups(service),
    )


def _mean(sizes: dict[int, int]) -> float:
    return sum(size * count for size, count in sizes.items()) / max(1, sum(sizes.values()))
