"""What an Ingress replica knows of one model's versions, and which of them is to answer a request.

Every replica of the model says what it has. A version is announced once every replica has it, and for as long as any
does. What requests ask for is resolved here, on what is announced alone: a label moves to a version once that is
announced, and a default that is not there gives way to the highest. This module knows no Ray.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from deployments.errors import BadRequest, ModelNotReady, UnknownModel
from deployments.messages import ModelInfo, Override, ReplicaStatus, State, VersionStatus
from deployments.settings import LiveSettings

# How often the replicas are asked: a change is announced within that time.
POLL_S: Final = 1.0
# When to come again for a model that is still loading: more often costs more than it finds out.
LOADING_RETRY_S: Final = 5.0
# Of what a client sent, in a message.
MAX_QUOTED: Final = 64

# Of states that replicas disagree on, the one that the model is in.
FURTHEST: Final[Sequence[State]] = ("LOADING", "START", "UNLOADING", "AVAILABLE", "END")


class Catalogue:
    """Of one model. Empty until `update` was called with what describes its versions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.live = LiveSettings()
        self.labels: Mapping[str, int] = {}
        # The latest that any replica had, for those that start after it was made.
        self.override: Override | None = None
        self._infos: dict[int, ModelInfo] = {}
        self._statuses: tuple[VersionStatus, ...] = ()
        self._is_live_known = False

    @property
    def infos(self) -> Mapping[int, ModelInfo]:
        """Of the versions that are announced, ascending."""
        return self._infos

    @property
    def is_unloaded(self) -> bool:
        """Whether an administrator has given up all versions."""
        return self.override is not None and self.override.unloaded

    def statuses(self) -> tuple[VersionStatus, ...]:
        """Ascending, as a whole: of all replicas together."""
        return self._statuses

    def undescribed(self, replicas: Sequence[ReplicaStatus]) -> set[int]:
        """The versions for which `update` needs an info that it has not got."""
        return set(self._announced(replicas)) - set(self._infos)

    def update(self, replicas: Sequence[ReplicaStatus], infos: Mapping[int, ModelInfo]) -> None:
        """With what every replica says now. `infos`: of what was `undescribed`, as far as it could be had."""
        if not replicas:
            return
        self.override = self.latest_override(replicas)
        known = self._infos | dict(infos)
        self._infos = {version: known[version] for version in self._announced(replicas) if version in known}
        self._statuses = tuple(self._merged(replicas))
        if not self._is_live_known or all(replica.live == replicas[0].live for replica in replicas):
            self.live, self._is_live_known = replicas[0].live, True
        kept = {label: version for label, version in self.labels.items() if version in self._infos}
        moved = {label: version for label, version in self.live.labels.items() if version in self._infos}
        self.labels = {label: version for label, version in (kept | moved).items() if label in self.live.labels}

    def choose(self, version: str | None, label: str | None, key: str) -> ModelInfo:
        """What is to answer. Raises UnknownModel, BadRequest or ModelNotReady."""
        if version is not None and label is not None:
            raise BadRequest("A request may name a version or a label, and not both.")
        if self.is_unloaded:
            raise UnknownModel(f"The model {self.name!r} is unloaded until an administrator loads it again.")
        if version is not None:
            return self._pinned(version)
        if label is not None:
            return self._labelled(label)
        if not self._infos:
            raise ModelNotReady(f"The model {self.name!r} is still loading.", LOADING_RETRY_S)
        return self._infos[self._routed(key)]

    def latest_override(self, replicas: Sequence[ReplicaStatus]) -> Override | None:
        """What is to be in force in all replicas: one whose base none of them has any more is forgotten."""
        known = [self.override, *(replica.override for replica in replicas)]
        bases = [replica.base for replica in replicas]
        in_force = [override for override in known if override is not None and override.base in bases]
        return max(in_force, key=lambda override: override.sequence, default=None)

    def default(self) -> ModelInfo | None:
        """What answers most of those who ask for nothing; None while nothing does."""
        if not self._infos:
            return None
        shares = self._shares()
        return self._infos[max(shares, key=lambda share: share[1])[0] if shares else self._undivided()]

    def info_under(self, reference: str) -> ModelInfo | None:
        """Of the version that a number or a label leads to; None while that is not announced."""
        version = self._resolved(reference)
        return None if version is None else self._infos[version]

    def _pinned(self, version: str) -> ModelInfo:
        number = int(version) if version.isascii() and version.isdecimal() and len(version) <= 18 else None
        if number in self._infos:
            return self._infos[number]
        state = next((status.state for status in self._statuses if status.version == number), None)
        if state in ("START", "LOADING") or (number is not None and not self._statuses):
            raise ModelNotReady(f"Version {number} of the model {self.name!r} is still loading.", LOADING_RETRY_S)
        known = ", ".join(map(str, self._infos)) or "none"
        raise UnknownModel(f"The model {self.name!r} has no version {_quoted(version)}; it has {known}.")

    def _labelled(self, label: str) -> ModelInfo:
        if label in self.labels:
            return self._infos[self.labels[label]]
        if label in self.live.labels or not self._statuses:
            raise ModelNotReady(f"The label {_quoted(label)} of {self.name!r} is not available yet.", LOADING_RETRY_S)
        known = ", ".join(self.live.labels) or "none"
        raise UnknownModel(f"The model {self.name!r} has no label {_quoted(label)}; it has {known}.")

    def _routed(self, key: str) -> int:
        shares = self._shares()
        if not shares:
            return self._undivided()
        point = share_of(key, self.name) * sum(weight for _, weight in shares)
        for version, weight in shares:
            point -= weight
            if point < 0:
                return version
        return shares[-1][0]

    def _shares(self) -> list[tuple[int, float]]:
        """Of traffic, for the versions that are there."""
        resolved = [(self._resolved(reference), weight) for reference, weight in self.live.shares.items()]
        return [(version, weight) for version, weight in resolved if version is not None]

    def _undivided(self) -> int:
        version = self._resolved(self.live.default)
        return max(self._infos) if version is None else version

    def _resolved(self, reference: str | None) -> int | None:
        if reference is None:
            return None
        version = int(reference) if reference.isdecimal() else self.labels.get(reference)
        return version if version in self._infos else None

    def _announced(self, replicas: Sequence[ReplicaStatus]) -> Iterable[int]:
        override = self.latest_override(replicas)
        if override is not None and override.unloaded:
            return ()
        having = [{each.version for each in replica.versions if each.state == "AVAILABLE"} for replica in replicas]
        by_any, by_all = set[int]().union(*having), set.intersection(*having) if having else set()
        # Who has just come knows of none that was announced before.
        return sorted(by_all | (by_any & set(self._infos)) or by_any)

    def _merged(self, replicas: Sequence[ReplicaStatus]) -> Iterable[VersionStatus]:
        found: dict[int, list[VersionStatus]] = {}
        for replica in replicas:
            for status in replica.versions:
                found.setdefault(status.version, []).append(status)
        for version, statuses in sorted(found.items()):
            reason = next((status.reason for status in statuses if status.reason), "")
            state = min((status.state for status in statuses), key=FURTHEST.index)
            if version in self._infos:
                state, reason = "AVAILABLE", ""
            elif self.is_unloaded:
                state = "END" if state == "END" else "UNLOADING"
            elif state == "AVAILABLE":
                # Some replicas have it. The others are about to, unless it has failed there.
                state = "END" if reason else "LOADING"
            yield VersionStatus(version, state, reason)


def share_of(key: str, salt: str) -> float:
    """A number in [0, 1) that follows from the key: evenly spread, and another one for another salt."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, person=_person(salt)).digest()
    # No more bits than a float has: rounded up, the highest would be 1.
    return (int.from_bytes(digest) >> 11) / 2**53


def _person(salt: str) -> bytes:
    return hashlib.blake2b(salt.encode(), digest_size=16).digest()


def _quoted(text: str) -> str:
    return repr(text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "...")
