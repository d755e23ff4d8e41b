"""The versions of a model that one replica has: loaded beside each other, taken on and given up while it serves.

    START      found, and wanted
    LOADING    being verified, built, checked and warmed up, beside what serves
    AVAILABLE  answers
    UNLOADING  still answers, until nobody asks any more
    END        gone, or never came to be; the reason says why

These are TensorFlow Serving's states (tensorflow_serving/apis/get_model_status.proto). What is wanted is a policy: of
`latest: n` these are the n highest versions that pass every step of loading, so that one which fails leaves those
before it where they are. A version is given up only when every replica has all that are wanted. Pure asyncio: this
module knows no Ray and no engine.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from deployments.errors import ConfigError
from deployments.messages import State, VersionStatus
from deployments.settings import VersionPolicy

logger = logging.getLogger("ray.serve")

# How long a version answers after it has been given up: five times as long as Ingress replicas take to hear of it
# (catalogue.POLL_S).
LINGER_S: Final = 5.0
# How often the other replicas are asked whether they have what is wanted, and for how long at most: one that hangs is
# replaced after some seconds.
PEERS_S: Final = 1.0
PEERS_TIMEOUT_S: Final = 5.0
# Versions that have ended are told of for as long as there are not more of them.
MAX_ENDED: Final = 16
# Reasons of several versions, in one sentence after the other.
MAX_REASONS: Final = 3

# What tells whether a version on disk has changed since it failed.
Fingerprint = object


class Served(Protocol):
    async def drained(self) -> None:
        """Returns once nothing waits or runs."""
        ...

    def close(self) -> None:
        """Gives up what it holds. Nothing is asked of it any more."""
        ...


S = TypeVar("S", bound=Served)


@dataclass(slots=True)
class _Version(Generic[S]):
    fingerprint: Fingerprint
    state: State = "START"
    reason: str = ""
    served: S | None = None
    # To be tried once more, though it has failed.
    is_due: bool = False


class VersionSet(Generic[S]):
    """`find`: the versions on disk (blocking). `load` makes one answer, raising ConfigError with the reason why not.

    `peers`: the states in every replica, this one included.
    """

    def __init__(
        self,
        name: str,
        find: Callable[[], Mapping[int, Fingerprint]],
        load: Callable[[int], Awaitable[S]],
        peers: Callable[[], Awaitable[Sequence[Mapping[int, State]]]],
        linger_s: float = LINGER_S,
    ) -> None:
        self._name = name
        self._find = find
        self._load = load
        self._peers = peers
        self._linger_s = linger_s
        self._versions: dict[int, _Version[S]] = {}
        self._policy: VersionPolicy | None = VersionPolicy(latest=1)
        self._poll_s: float | None = None
        self._fault = ""
        self._is_loading = False
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    def load_first(self, policy: VersionPolicy, load: Callable[[int], S]) -> None:
        """Loads what is wanted before anything is served. Blocks; raises ConfigError if no version can be served."""
        self._policy = policy
        found = self._find()
        for version in policy.candidates(tuple(found)):
            if policy.most is not None and len(self.available()) >= policy.most:
                break
            entry = self._versions[version] = _Version(found.get(version), "LOADING")
            try:
                entry.served = load(version)
                entry.state = "AVAILABLE"
            except ConfigError as err:
                self._end(version, str(err))
        failed = [entry.reason for _, entry in sorted(self._versions.items(), reverse=True) if entry.reason]
        if not self.available():
            raise ConfigError(failed[0] if failed else self._nothing())
        self._fault = _sentences(failed)
        self._settled.set()

    def want(self, policy: VersionPolicy | None, poll_s: float | None = None) -> None:
        """From now on; loading goes on in the background. None: no version is wanted. Needs a running event loop."""
        is_new = policy != self._policy
        if is_new or poll_s != self._poll_s:
            self._policy, self._poll_s = policy, poll_s
            self.look_again(retry_failed=is_new)

    def look_again(self, *, retry_failed: bool = True) -> None:
        """At what is on disk; also at versions that have failed before, though they have not changed."""
        for entry in self._versions.values():
            entry.is_due |= retry_failed
        self._is_loading = True
        self._changed.set()
        self._settled.clear()
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())

    async def settled(self) -> None:
        """Returns once what is wanted is there, or has failed, and what is not is gone."""
        await self._settled.wait()

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None

    def get(self, version: int) -> S | None:
        """What answers for that version, if anything does."""
        entry = self._versions.get(version)
        return None if entry is None or entry.state not in ("AVAILABLE", "UNLOADING") else entry.served

    def available(self) -> tuple[int, ...]:
        """Ascending; those that are to be given up are not among them."""
        return tuple(sorted(version for version, entry in self._versions.items() if entry.state == "AVAILABLE"))

    def serving(self) -> tuple[int, ...]:
        """Ascending; what `get` has something for."""
        return tuple(sorted(version for version in self._versions if self.get(version) is not None))

    def statuses(self) -> tuple[VersionStatus, ...]:
        """Ascending; of those that have ended the MAX_ENDED highest."""
        untold = set(self._ended()[:-MAX_ENDED])
        return tuple(
            VersionStatus(version, entry.state, entry.reason)
            for version, entry in sorted(self._versions.items())
            if version not in untold
        )

    @property
    def is_loading(self) -> bool:
        """Whether something that is wanted, or may be, is not loaded yet, and has not failed."""
        return self._is_loading

    @property
    def fault(self) -> str:
        """Why not all is there that was wanted when that was last looked at; else empty."""
        return self._fault

    # The keeper

    async def _keep(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self._settle(self._policy)
            except Exception as err:
                logger.exception("The versions of model %s could not be brought up to date", self._name)
                self._fault = f"The versions of model {self._name!r} could not be looked at: {type(err).__name__}."
            if not self._changed.is_set():
                self._is_loading = False
                self._settled.set()
            await self._pause(self._poll_s)

    async def _settle(self, policy: VersionPolicy | None) -> None:
        for version in [version for version, entry in self._versions.items() if entry.state == "START"]:
            del self._versions[version]
        wanted = set[int]() if policy is None else await self._load_wanted(policy)
        if self._changed.is_set():
            return
        self._is_loading = False
        if policy is None:
            self._fault = ""
        elif len(wanted) < (1 if policy.specific is None else len(policy.specific)):
            # What was there stays if what was asked for failed: a mistake must not end the service.
            for entry in self._versions.values():
                entry.state = "AVAILABLE" if entry.served is not None else entry.state
            return
        await self._give_up_others(wanted)

    async def _load_wanted(self, policy: VersionPolicy) -> set[int]:
        """Those that are wanted, and answer."""
        try:
            found = await asyncio.to_thread(self._find)
        except ConfigError as err:
            self._note(str(err))
            return set()
        candidates = policy.candidates(tuple(found))
        self._forget_all_but(candidates)
        self._announce(candidates[: policy.most], found)
        wanted: set[int] = set()
        failed: list[str] = []
        for version in candidates:
            if len(wanted) == policy.most or self._changed.is_set():
                break
            if await self._is_loaded(version, found.get(version)):
                wanted.add(version)
            else:
                failed.append(self._versions[version].reason)
        self._note(_sentences(failed) if candidates else self._nothing())
        return wanted

    def _announce(self, versions: Sequence[int], found: Mapping[int, Fingerprint]) -> None:
        """What will be wanted if it can be had: these are sure to stay, or their turn comes."""
        for version in versions:
            entry = self._versions.get(version)
            if entry is not None and entry.served is not None:
                entry.state = "AVAILABLE"
            elif entry is None or not entry.reason:
                self._versions[version] = _Version(found.get(version), "START")

    async def _is_loaded(self, version: int, fingerprint: Fingerprint) -> bool:
        entry = self._versions.get(version)
        if entry is not None and entry.served is not None:
            entry.state = "AVAILABLE"
            return True
        if entry is not None and entry.reason and entry.fingerprint == fingerprint and not entry.is_due:
            return False
        entry = self._versions[version] = _Version(fingerprint, "LOADING")
        logger.info("Model %s: version %d is being loaded", self._name, version)
        try:
            entry.served = await self._load(version)
        except ConfigError as err:
            self._end(version, str(err))
            return False
        except Exception as err:
            logger.exception("Model %s: version %d could not be loaded", self._name, version)
            self._end(version, f"It could not be loaded: {type(err).__name__}.")
            return False
        entry.state = "AVAILABLE"
        logger.info("Model %s: version %d is available", self._name, version)
        _flush()
        return True

    async def _give_up_others(self, wanted: set[int]) -> None:
        others = [version for version in self.serving() if version not in wanted]
        if not others or (wanted and not await self._everybody_has(wanted)):
            return
        for version in others:
            self._versions[version].state = "UNLOADING"
            logger.info("Model %s: version %d is being unloaded", self._name, version)
        if await self._pause(self._linger_s):
            return
        for version in others:
            await self._drop(version)

    async def _drop(self, version: int) -> None:
        entry = self._versions[version]
        served, entry.served = entry.served, None
        try:
            if served is not None:
                await served.drained()
                served.close()
        except Exception:
            logger.exception("Model %s: version %d could not be closed", self._name, version)
        self._end(version, "")

    async def _everybody_has(self, wanted: set[int]) -> bool:
        """Returns once that is so, or with False if something else is wanted meanwhile, or it is time to look again."""
        again = None if self._poll_s is None else time.monotonic() + self._poll_s
        while again is None or time.monotonic() < again:
            try:
                async with asyncio.timeout(PEERS_TIMEOUT_S):
                    states = await self._peers()
            except Exception as err:
                logger.warning("The other replicas of model %s do not answer: %r", self._name, err)
                states = []
            if states and all(each.get(version) == "AVAILABLE" for each in states for version in wanted):
                return True
            if await self._pause(PEERS_S):
                return False
        return False

    async def _pause(self, seconds: float | None) -> bool:
        """Whether something changed meanwhile. None: waits until it does."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _end(self, version: int, reason: str) -> None:
        entry = self._versions[version]
        entry.state, entry.reason = "END", reason
        if reason:
            logger.error("Model %s: version %d cannot be served: %s", self._name, version, reason)
        else:
            logger.info("Model %s: version %d is unloaded", self._name, version)
        _flush()

    def _ended(self) -> list[int]:
        return sorted(version for version, entry in self._versions.items() if entry.state == "END")

    def _forget_all_but(self, candidates: Sequence[int]) -> None:
        """Candidates that have failed are remembered, so that they are not tried at every poll."""
        for version in [version for version in self._ended() if version not in candidates][:-MAX_ENDED]:
            del self._versions[version]

    def _note(self, fault: str) -> None:
        if fault and fault != self._fault:
            logger.error("Model %s has not all versions that are wanted: %s", self._name, fault)
        self._fault = fault

    def _nothing(self) -> str:
        return f"Model {self._name!r} has none of the versions that are asked for."


def _sentences(reasons: Sequence[str]) -> str:
    more = len(reasons) - MAX_REASONS
    return " ".join([*reasons[:MAX_REASONS], *([f"{more} more versions failed."] if more > 0 else [])])


def _flush() -> None:
    # Serve's production profile writes the log in blocks of 1000 lines; what became of a model is wanted now.
    for handler in logger.handlers:
        handler.flush()
