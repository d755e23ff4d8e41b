"""A policy for Serve's autoscaler that keeps a latency: the fewest replicas that let 95 of 100 images through in time.

Replicas report counters of images (`record_autoscaling_stats`), so that a call that carries many counts as many. They
give the arrivals, the queue, and what a batch costs by its size; these give the number of replicas. Up at once, but
only for what is more than chance; down to the most that was needed during `hold_down_s`. Without figures Serve's own
rule decides. docs/decisions/0008 has the reasons, configs/gpu.yaml an example.

Serve pickles this module by value into its controller, so nothing of this project may be imported here.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from ray.serve.autoscaling_policy import replica_queue_length_autoscaling_policy
from ray.serve.config import AutoscalingContext

logger = logging.getLogger("ray.serve")

# What a replica reports, from its start on: images and calls that came, seconds that images have waited, batches, their
# sizes, squared sizes, seconds, and sizes times seconds, each as a sum.
COUNTERS = ("arrived", "calls", "queue_s", "batches", "images", "squares", "busy_s", "cross_s")
# And as it is now: images that wait, batches that may run at once, and their largest size.
FIGURES = (*COUNTERS, "waiting", "runners", "max_batch_size")
# Standard deviations by which a count must differ before that is no chance.
SURE = 3.0
# How much more load must fit into fewer replicas before there may be fewer: service times drift, too.
BAND = 0.15
# In which a queue is to be gone, and how many times the replicas that the arrivals need may be started for that: what
# comes only when the queue has gone has nothing to do.
DRAIN_S = 10.0
MOST_TO_DRAIN = 1.5
# Of what replicas can do; above that, for so many reports on end, callers may be held up whom no figure shows.
SATURATED = 0.9
STUCK_REPORTS = 3
# 95 of 100 values of an exponential distribution are below three times its mean; M/D/1's queue has half of M/M/1's.
TAIL = 3.0 * 0.5
# Where batches alone take longer than the target: what waiting may add, as a share of their time.
SLACK = 0.25

Figures = Mapping[str, float]


@dataclass(frozen=True)
class PolicySettings:
    """`policy_kwargs:`. Raises ValueError with one sentence."""

    # What 95 of 100 images may take in the deployment, waiting and running, in seconds.
    target_latency_s: float
    # Of what a replica can do in full batches.
    max_utilization: float = 0.8
    # For how long fewer replicas must have been enough.
    hold_down_s: float = 60.0

    def __post_init__(self) -> None:
        self._check("target_latency_s", 0.001, 600.0)
        self._check("max_utilization", 0.1, 0.95)
        self._check("hold_down_s", 1.0, 86400.0)

    def _check(self, key: str, least: float, most: float) -> None:
        value = getattr(self, key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise ValueError(f"policy_kwargs.{key} is {value!r}, but must be a number from {least:g} to {most:g}.")

    @classmethod
    def of(cls, kwargs: Mapping[str, Any]) -> "PolicySettings":
        known = [field.name for field in fields(cls)]
        if unknown := [key for key in kwargs if key not in known]:
            raise ValueError(f"policy_kwargs has no key {unknown[0]!r}; LatencyPolicy knows {', '.join(known)}.")
        if "target_latency_s" not in kwargs:
            raise ValueError("policy_kwargs needs the key 'target_latency_s', which is missing.")
        return cls(**kwargs)


@dataclass(frozen=True)
class Server:
    """A replica as the model of the queue sees it: `runners` batches at once, of b images in batch_s + b * image_s."""

    batch_s: float
    image_s: float
    max_batch_size: float
    runners: float

    def run_s(self, size: float) -> float:
        return self.batch_s + size * self.image_s

    @property
    def capacity(self) -> float:
        """Images a second in full batches."""
        return self.runners * self.max_batch_size / self.run_s(self.max_batch_size)

    def latency_s(self, per_second: float) -> float:
        """Of 95 in 100 images at most, when so many arrive a second: an image finds a batch running, waits for it, and
        for what chance has gathered before it, and runs in a batch itself. Infinite if the replica cannot keep up."""
        utilization = per_second / self.capacity
        if utilization >= 1:
            return math.inf
        gathered_s = TAIL / self.capacity * utilization / (1 - utilization)
        return 2 * self.run_s(self._usual_size(per_second / self.runners)) + gathered_s

    def _usual_size(self, per_second: float) -> float:
        """Of the batch in which an image finds itself, where batches gather while one of their own size runs."""
        growth = per_second * self.image_s
        if growth >= 1:
            return self.max_batch_size
        mean = max(1.0, per_second * self.batch_s / (1 - growth))
        # More images are in the larger ones: variance / mean more, of sizes that are Poisson's, each from the last one.
        larger = min(1.0, per_second * self.run_s(mean)) / (1 - growth**2)
        return min(self.max_batch_size, mean + larger)

    def within_reach_s(self, target_s: float) -> float:
        """The target, or what can be kept instead where batches alone take longer."""
        return max(target_s, (1 + SLACK) * self.latency_s(0))

    def needed(self, per_second: float, settings: PolicySettings, most: int) -> int:
        """The fewest replicas for this load; never more than `most` for the latency's sake."""
        count = math.ceil(per_second / (self.capacity * settings.max_utilization))
        target_s = self.within_reach_s(settings.target_latency_s)
        while 0 < count < most and self.latency_s(per_second / count) > target_s:
            count += 1
        return count


@dataclass(frozen=True)
class Load:
    """All replicas that report, summed. Rates, of COUNTERS a second, are over the time that all of them have seen."""

    replicas: int
    now: Figures  # of FIGURES
    before: Figures  # the points before the last
    recent: Figures  # rates since then
    recent_s: float
    steady: Figures  # rates over the look-back period
    steady_s: float
    # Images that no replica has taken, as many as ever in the look-back period, and how many more each second.
    held: float
    growth: float

    @property
    def waiting(self) -> float:
        return self.now["waiting"] + self.held

    @property
    def waited_s(self) -> float:
        """Of an image whose batch has ended since the last report, on average."""
        return self.recent["queue_s"] / max(1.0, self.recent["images"])

    @property
    def images_per_call(self) -> float:
        return _images_per_call(self.now)

    def surely(self) -> float:
        """Arrivals a second, less what may be chance."""
        windows = ((self.recent["arrived"] + self.growth, self.recent_s), (self.steady["arrived"], self.steady_s))
        return max(0.0, *(rate - SURE * self._deviation(rate, window_s) for rate, window_s in windows))

    def possibly(self) -> float:
        """Arrivals a second, and what chance and slower batches may make of them."""
        rate = self.steady["arrived"] + self.growth
        return (rate + SURE * self._deviation(rate, self.steady_s)) * (1 + BAND)

    def _deviation(self, rate: float, window_s: float) -> float:
        return math.sqrt(rate * self.images_per_call / window_s)  # Of calls that come at random, each with several.

    def server(self) -> Server:
        """By least squares over all batches so far; the pace is that of the look-back period."""
        count, images, squares, busy_s, cross_s = (self.now[name] for name in COUNTERS[3:])
        spread = count * squares - images**2
        # Where all are of one size, nothing is known of others, and larger ones are not taken to be cheaper.
        slope_s = (count * cross_s - images * busy_s) / spread if spread > 1e-3 * count * squares else math.inf
        image_s = min(max(slope_s, 0.0), busy_s / images)
        batch_s = busy_s / count - image_s * images / count
        expected = batch_s * self.steady["batches"] + image_s * self.steady["images"]
        pace = self.steady["busy_s"] / expected if expected > 0 else 1.0
        size, runners = (max(1.0, self.now[name] / self.replicas) for name in ("max_batch_size", "runners"))
        return Server(batch_s * pace, image_s * pace, size, runners)


@dataclass(frozen=True)
class Wanted:
    at_least: int  # Fewer are not enough for what is surely there.
    at_most: int  # More are not needed, whatever may be there.
    because: str


class LatencyPolicy:
    """For `autoscaling_config.policy`. Never raises, which would stop Serve's control loop: with wrong settings, which
    are logged, Serve's own rule decides."""

    def __init__(self, **kwargs: Any) -> None:
        self._settings: PolicySettings | None = None
        try:
            self._settings = PolicySettings.of(kwargs)
        except ValueError as fault:
            logger.error("LatencyPolicy leaves the number of replicas to Serve's own rule: %s", fault)

    def __call__(self, ctx: AutoscalingContext) -> tuple[int | float, dict[str, Any]]:
        state = dict(ctx.policy_state)
        if ctx.current_num_replicas == 0:  # Starting or asleep; what wakes it is Serve's own.
            return ctx.target_num_replicas, state
        try:
            wanted = self._wanted(ctx, state)
            state["failed"] = False
        except Exception:
            if not state.get("failed"):
                logger.exception("LatencyPolicy cannot make sense of the figures of %s", ctx.deployment_name)
            state["failed"] = True
            wanted = _without_figures(ctx, state)
        hold_down_s = PolicySettings.hold_down_s if self._settings is None else self._settings.hold_down_s
        return _held(ctx, state, wanted, hold_down_s), state

    def _wanted(self, ctx: AutoscalingContext, state: dict[str, Any]) -> Wanted:
        load = None if self._settings is None else read(ctx, state)
        if self._settings is None or load is None:
            return _without_figures(ctx, state)
        state["missing_since"] = None
        if load.now["images"] > 0:
            state["images_per_call"] = load.images_per_call
            return _by_latency(ctx, state, load, self._settings)
        idle = load.now["arrived"] == 0 and ctx.total_num_requests == 0
        return Wanted(0, 0, "nothing has come") if idle else _as_it_is(ctx, "no batch has ended yet")


def _by_latency(ctx: AutoscalingContext, state: dict[str, Any], load: Load, settings: PolicySettings) -> Wanted:
    server = load.server()
    target_s = server.within_reach_s(settings.target_latency_s)
    because = (
        f"{load.recent['arrived'] + load.growth:.4g} images/s come, {load.waiting:.4g} wait (for "
        f"{load.waited_s:.3g} s), a replica does {server.capacity:.4g}/s in batches of {server.max_batch_size:.4g}, "
        f"and 95 % are to be through in {target_s:.3g} s"
    )
    if target_s > settings.target_latency_s:
        because += f", since batches alone take too long for {settings.target_latency_s:g} s"
    at_least = _at_least(ctx, load, server, settings)
    at_most = server.needed(load.possibly(), settings, ctx.capacity_adjusted_max_replicas)
    if load.replicas < ctx.current_num_replicas:
        at_most = max(at_most, ctx.target_num_replicas)
    elif _is_stuck(ctx, state, load, server, target_s):
        at_least = max(at_least, 2 * ctx.current_num_replicas)
        because += "; the queue does not fall, so that more may be behind it than can be seen"
    return Wanted(at_least, max(at_least, at_most, int(ctx.total_num_requests > 0)), because)


def _at_least(ctx: AutoscalingContext, load: Load, server: Server, settings: PolicySettings) -> int:
    surely, done = load.surely(), load.steady["images"]
    if (
        load.steady_s > _look_back_s(ctx) - 1.5 * _interval_s(ctx)
        and done >= SATURATED * load.replicas * server.capacity
    ):
        surely = max(surely, done)  # No chance: they were busy all the time.
    count = server.needed(surely, settings, ctx.capacity_adjusted_max_replicas)
    beyond_a_batch = max(0.0, load.waiting - load.replicas * server.runners * server.max_batch_size)
    to_drain = math.ceil((surely + beyond_a_batch / DRAIN_S) / server.capacity)
    count = max(count, min(to_drain, math.ceil(MOST_TO_DRAIN * count)))
    # What replicas take out of a queue that does not grow has come before, and they are enough for what comes now.
    return min(count, ctx.target_num_replicas) if load.held > 0 and load.growth <= 0 else count


def _is_stuck(ctx: AutoscalingContext, state: dict[str, Any], load: Load, server: Server, target_s: float) -> bool:
    """Whether all replicas do what they can and images still wait too long, for several reports on end: callers that
    wait for answers, or limits on what is in flight, then hide how many more there are."""
    now, capacity = ctx.current_time or 0.0, load.replicas * server.capacity
    late = max(load.waiting / capacity, load.waited_s) + server.run_s(server.max_batch_size) > target_s
    saturated = load.recent["images"] >= SATURATED * capacity and ctx.current_num_replicas >= ctx.target_num_replicas
    falling = load.now["waiting"] < SATURATED * load.before["waiting"] or load.held != state.get("held")
    if falling or not (late and saturated):
        state["stuck_since"] = now
    state["held"] = load.held
    # What is held is the peak of the look-back period, and falls that much later.
    enough_s = (STUCK_REPORTS - 0.5) * load.recent_s + (_look_back_s(ctx) if load.held > 0 else 0.0)
    return bool(now - state.setdefault("stuck_since", now) >= enough_s)


def _without_figures(ctx: AutoscalingContext, state: dict[str, Any]) -> Wanted:
    """As it is, since replicas that have just started have none; later by Serve's own rule, in images: it is linear in
    the calls in flight, and so in what they carry."""
    now = ctx.current_time or 0.0
    state["missing_since"] = state.get("missing_since") or now
    if now - state["missing_since"] <= _patience_s(ctx):
        return _as_it_is(ctx, "replicas report no figures yet")
    count = math.ceil(replica_queue_length_autoscaling_policy(ctx)[0] * state.get("images_per_call", 1.0))
    if ctx.total_num_requests > 0:
        # What calls carry is unknown until figures come; they must not take replicas away.
        count = max(count, 1 if "images_per_call" in state else ctx.target_num_replicas)
    return Wanted(count, count, f"{ctx.total_num_requests:.4g} calls are in flight and replicas report no figures")


def _as_it_is(ctx: AutoscalingContext, because: str) -> Wanted:
    return Wanted(ctx.target_num_replicas, ctx.target_num_replicas, because)


def _held(ctx: AutoscalingContext, state: dict[str, Any], wanted: Wanted, hold_down_s: float) -> int:
    """Up to what is needed at least, at once; down to the most that was needed during the hold-down."""
    now, target = ctx.current_time or 0.0, ctx.target_num_replicas
    higher = [(at, count) for at, count in state.get("peaks", ()) if at >= now - hold_down_s and count > wanted.at_most]
    state["peaks"] = [*higher, (now, wanted.at_most)]
    decided = max(target, wanted.at_least)
    if decided == target and now - state.setdefault("since", now) >= hold_down_s:
        decided = min(target, state["peaks"][0][1])
    decided = max(ctx.capacity_adjusted_min_replicas, min(ctx.capacity_adjusted_max_replicas, decided))
    if decided not in (target, state.get("decided")):
        why = wanted.because if decided > target else f"no more were needed for {hold_down_s:g} s, and {wanted.because}"
        logger.info("%s goes from %d to %d replicas: %s", ctx.deployment_name, target, decided, why)
    state["decided"] = decided
    return decided


def read(ctx: AutoscalingContext, state: dict[str, Any]) -> Load | None:
    """The load of the running replicas whose figures are complete, sensible and of late; None if there are none."""
    now, metrics = ctx.current_time or 0.0, ctx.raw_metrics or {}
    known, state["seen"], found = state.get("seen", {}), {}, []
    for replica in ctx.running_replicas:
        series = [metrics.get(name, {}).get(replica, ()) for name in FIGURES]
        last = series[0][-1].timestamp if series[0] else None
        if replica not in known or known[replica][0] != last:
            known[replica] = (last, now, _points(series))  # By our clock, since that of another machine may differ.
        state["seen"][replica] = (_, since, points) = known[replica]
        if points and now - since <= _patience_s(ctx):
            found.append(points)
    return _summed(found, *_held_back(ctx, state)) if found else None


def _held_back(ctx: AutoscalingContext, state: dict[str, Any]) -> tuple[float, float]:
    """Calls that wait for a replica to take them, since each takes a bounded number, and how many more each second."""
    now, held, interval_s = ctx.current_time or 0.0, ctx.total_queued_requests, _interval_s(ctx)
    earlier = [(at, calls) for at, calls in state.get("held_back", ()) if at >= now - 2 * interval_s]
    state["held_back"] = [*earlier, (now, held)]
    at, calls = state["held_back"][0]
    return held, max(0.0, held - calls) / max(now - at, interval_s)


def _points(series: Sequence[Sequence[Any]]) -> list[Figures]:
    """What one replica has reported, oldest first; nothing if that is not as it must be."""
    if any(len(one) != len(series[0]) for one in series):
        return []
    points: list[Figures] = [
        {"time": together[0].timestamp, **{name: point.value for name, point in zip(FIGURES, together, strict=True)}}
        for together in zip(*series, strict=True)
    ]
    sane = all(0 <= point[name] < math.inf for point in points for name in FIGURES)
    growing = all(
        early["time"] < late["time"] and all(early[name] <= late[name] for name in COUNTERS)
        for early, late in pairwise(points)
    )
    return points if sane and growing and len(points) > 1 else []


def _summed(replicas: Sequence[Sequence[Figures]], held_calls: float, more_calls: float) -> Load:
    # Where one has started just now, the others still have what came before it took its share.
    steady_s = min(points[-1]["time"] - points[0]["time"] for points in replicas)
    first = [
        next(point for point in reversed(points) if point["time"] <= points[-1]["time"] - 0.999 * steady_s)
        for points in replicas
    ]
    last, before = [points[-1] for points in replicas], [points[-2] for points in replicas]
    recent_s = min(late["time"] - early["time"] for early, late in zip(before, last, strict=True))
    now = _total(last)
    return Load(
        replicas=len(replicas),
        now=now,
        before=_total(before),
        recent=_rates(before, last),
        recent_s=recent_s,
        steady=_rates(first, last),
        steady_s=steady_s,
        held=held_calls * _images_per_call(now),
        growth=more_calls * _images_per_call(now),
    )


def _images_per_call(total: Figures) -> float:
    return total["arrived"] / max(1.0, total["calls"])


def _total(points: Sequence[Figures]) -> Figures:
    return {name: sum(point[name] for point in points) for name in FIGURES}


def _rates(early: Sequence[Figures], late: Sequence[Figures]) -> Figures:
    pairs = list(zip(early, late, strict=True))
    return {name: sum((b[name] - a[name]) / (b["time"] - a["time"]) for a, b in pairs) for name in COUNTERS}


def _patience_s(ctx: AutoscalingContext) -> float:
    """How old figures may be."""
    return max(3 * _interval_s(ctx), _look_back_s(ctx))


def _look_back_s(ctx: AutoscalingContext) -> float:
    config: Any = ctx.config
    return float(config.look_back_period_s)


def _interval_s(ctx: AutoscalingContext) -> float:
    config: Any = ctx.config
    return float(config.metrics_interval_s)
