"""Which replica of a model gets the next call: the one that is expected to be done with it first.

Serve's own rule takes of two replicas the one with fewer calls. A slow one gets its share so all the same, whenever the
others are busy, and each call that it gets is as late as it is slow. Here calls in flight count as much as they take.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ray.serve._private.replica_result import ReplicaResult
from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.request_router import PendingRequest, ReplicaID, RunningReplica

# How long what was seen counts. A replica that was slow gets a call again after some three times as long.
MEMORY_S: Final = 10.0
# What a replica does beside its batches: how long it takes says nothing of how soon a batch is done.
ASIDE: Final = frozenset({"explain"})
# How many calls' worth is assumed of a replica of which little or nothing has been seen lately: it is like the fastest.
ASSUMED_CALLS: Final = 0.1


@dataclass(slots=True)
class Pace:
    """How long a replica takes for a call while it has any: seconds with calls in flight, by calls that came back."""

    at: float
    in_flight: int = 0
    busy_s: float = 0.0
    done: float = 0.0

    def sent(self, now: float) -> None:
        self._advance(now)
        self.in_flight += 1

    def returned(self, now: float) -> None:
        self._advance(now)
        self.in_flight = max(0, self.in_flight - 1)
        self.done += 1

    def disregard(self, now: float) -> None:
        """A call that has been sent is none of those that count."""
        self._advance(now)
        self.in_flight = max(0, self.in_flight - 1)

    def call_s(self, now: float, assumed_s: float) -> float:
        """Seconds for a call. `assumed_s` is what has as much weight as ASSUMED_CALLS calls."""
        self._advance(now)
        return (self.busy_s + ASSUMED_CALLS * assumed_s) / (self.done + ASSUMED_CALLS)

    def seen_s(self, now: float) -> float:
        """Seconds for a call by what was seen alone, or infinity while too little was."""
        self._advance(now)
        return self.busy_s / self.done if self.done >= ASSUMED_CALLS else math.inf

    def _advance(self, now: float) -> None:
        kept = math.exp((self.at - now) / MEMORY_S)
        self.done *= kept
        # The integral of what is kept of each moment since then.
        self.busy_s = self.busy_s * kept + (MEMORY_S * (1 - kept) if self.in_flight else 0.0)
        self.at = now


@dataclass(slots=True)
class Paces:
    """Those of all replicas of a deployment, by what the caller calls them."""

    now: Callable[[], float] = time.monotonic
    of: dict[object, Pace] = field(default_factory=dict)

    def sent(self, replica: object) -> None:
        now = self.now()
        self.of.setdefault(replica, Pace(now)).sent(now)

    def returned(self, replica: object) -> None:
        if pace := self.of.get(replica):
            pace.returned(self.now())

    def disregard(self, replica: object) -> None:
        if pace := self.of.get(replica):
            pace.disregard(self.now())

    def forget(self, replica: object) -> None:
        self.of.pop(replica, None)

    def expected_s(self, replica: object) -> float:
        """When a call that is sent now would come back."""
        now = self.now()
        fastest_s = min((pace.seen_s(now) for pace in self.of.values()), default=math.inf)
        assumed_s = fastest_s if fastest_s < math.inf else 1.0
        pace = self.of.get(replica)
        return assumed_s if pace is None else (pace.in_flight + 1) * pace.call_s(now, assumed_s)


class FirstDoneRouter(PowerOfTwoChoicesRequestRouter):
    """Of two replicas chosen by chance, the one that is expected to be done first, unless it is full."""

    def initialize_state(self, **kwargs: Any) -> None:
        self._paces = Paces()
        # By Serve's ids of them, until they are done.
        self._aside: set[str] = set()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        ranks = await super().choose_replicas(having(candidate_replicas, pending_request), pending_request)
        return [[replica] for rank in ranks for replica in self._in_order(rank)]

    def on_send_request(self, replica_id: ReplicaID) -> None:
        super().on_send_request(replica_id)
        self._paces.sent(replica_id)

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        super().on_request_routed(pending_request, replica_id, result)
        if pending_request.metadata.call_method in ASIDE:
            self._aside.add(pending_request.metadata.internal_request_id)
            self._paces.disregard(replica_id)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        super().on_request_completed(replica_id, internal_request_id)
        if internal_request_id in self._aside:
            self._aside.discard(internal_request_id)
        else:
            self._paces.returned(replica_id)

    def on_replica_actor_unavailable(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_unavailable(replica_id)
        # Calls that fail come back quickly.
        self._paces.forget(replica_id)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        for gone in self._paces.of.keys() - self.curr_replicas.keys():
            self._paces.forget(gone)

    def _in_order(self, replicas: list[RunningReplica]) -> list[RunningReplica]:
        available = {replica.replica_id for replica in self.select_available_replicas(replicas)}
        return sorted(
            replicas,
            key=lambda replica: (replica.replica_id not in available, self._paces.expected_s(replica.replica_id)),
        )


def having(replicas: list[RunningReplica], request: PendingRequest | None) -> list[RunningReplica]:
    """Those that have the version that the call names, by what they last said; all of them if none has."""
    version = None if request is None else request.kwargs.get("version")
    return [each for each in replicas if version in each.routing_stats.get("versions", ())] or replicas
