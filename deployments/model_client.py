"""One model as an Ingress replica sees it: what its replicas say that they have, and the way of images to each version.

The replicas are asked once a second. One that does not answer leaves everything as it was known.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from deployments.answer_cache import AnswerCache
from deployments.catalogue import POLL_S, Catalogue
from deployments.errors import ModelNotReady
from deployments.hops import Handle, Hops
from deployments.messages import ModelInfo, Override, ReplicaStatus
from deployments.settings import LiveSettings, ModelSettings, Settings
from deployments.versions import LINGER_S

logger = logging.getLogger("ray.serve")

# Of a broadcast; a replica that hangs is replaced after some seconds.
ANSWER_TIMEOUT_S: Final = 5.0


class ModelClient:
    def __init__(self, model: ModelSettings, settings: Settings, preprocessor: Handle, classifier: Handle) -> None:
        self.catalogue = Catalogue(model.name)
        self.cache = AnswerCache(model.name)
        # Told of each version that has gone.
        self.on_gone: list[Callable[[ModelInfo], None]] = []
        # What every replica has said last.
        self.statuses: Sequence[ReplicaStatus] = ()
        self._model = model
        self._settings = settings
        self._preprocessor = preprocessor
        self._classifier = classifier
        self._hops: dict[int, tuple[ModelInfo, Hops]] = {}
        # Until when, in time.monotonic(), replicas still answer requests that began with a version that is gone.
        self._left: list[tuple[float, tuple[ModelInfo, Hops]]] = []
        self._known = asyncio.Event()
        # So that what was asked first is not taken for what is so now.
        self._refreshing = asyncio.Lock()
        self._follower: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to follow what the replicas say. Needs a running event loop."""
        self._follower = asyncio.create_task(self._follow())

    async def known(self) -> None:
        """Returns once a version answers, and the Preprocessor, which the first request needs, too."""
        await self._known.wait()

    def hops_to(self, info: ModelInfo) -> Hops:
        """The way to a version. Raises ModelNotReady if it has gone."""
        ways = [way for way in (self._hops.get(info.version), *(way for _, way in self._left)) if way is not None]
        for found, hops in ways:
            if found is info:
                return hops
        raise ModelNotReady(f"The model {info.name!r} has just changed its version; try again.", POLL_S)

    def has(self, info: ModelInfo) -> bool:
        """Whether that version is still announced."""
        return self.catalogue.infos.get(info.version) is info

    async def override(self, override: Override) -> Sequence[bool]:
        """What each replica made of it: whether it is in force there."""
        accepted: Sequence[bool] = await self._classifier.broadcast("override", override).results_async()
        return accepted

    async def look_again(self) -> None:
        """Every replica looks at what is on disk, and at versions that have failed."""
        await self._classifier.broadcast("look_again").results_async()

    async def replicas(self) -> Sequence[ReplicaStatus]:
        statuses: Sequence[ReplicaStatus] = await self._classifier.broadcast("status").results_async()
        return statuses

    async def refresh(self) -> None:
        """Asks the replicas now."""
        async with self._refreshing:
            await self._refresh()

    async def _refresh(self) -> None:
        replicas = await self.replicas()
        infos: dict[int, ModelInfo] = {}
        for version in self.catalogue.undescribed(replicas):
            described: Sequence[ModelInfo | None] = await self._classifier.broadcast(
                "describe", version
            ).results_async()
            infos.update({info.version: info for info in described if info is not None})
        self.catalogue.update(replicas, infos)
        self.statuses = replicas or self.statuses
        self._bring_hops_up_to_date()
        self.cache.configure(self.catalogue.live.cache)
        await self._spread_override(replicas)

    async def _follow(self) -> None:
        failed = False
        while True:
            try:
                if not self._known.is_set():
                    await self._await_first()
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await self.refresh()
                if self.catalogue.infos or self.catalogue.is_unloaded:
                    self._known.set()
                failed = False
            except Exception as err:
                if not failed:
                    logger.warning("Model %s does not answer: %r", self._model.name, err)
                failed = True
            await asyncio.sleep(POLL_S)

    async def _await_first(self) -> None:
        info: ModelInfo | None = await self._classifier.describe.remote()
        if info is not None:
            await self._hops_of(info).probe()

    def _bring_hops_up_to_date(self) -> None:
        infos, now = self.catalogue.infos, time.monotonic()
        self._left = [(until, way) for until, way in self._left if until > now]
        for version, (info, _) in list(self._hops.items()):
            if infos.get(version) is not info:
                logger.info("Model %s: version %d is no longer announced", info.name, version)
                self._left.append((now + LINGER_S, self._hops.pop(version)))
                self.cache.forget(version)
                for tell in self.on_gone:
                    tell(info)
        for version, info in infos.items():
            if version not in self._hops:
                logger.info("Model %s: version %d is announced", info.name, version)
                self._hops[version] = (info, self._hops_of(info))

    async def _spread_override(self, replicas: Sequence[ReplicaStatus]) -> None:
        """To replicas that started after it was made."""
        override = self.catalogue.override
        if override is not None and any(replica.override != override for replica in replicas):
            await self.override(override)

    def _hops_of(self, info: ModelInfo) -> Hops:
        return Hops(self._model, self._settings, self._preprocessor, self._classifier, info)

    @property
    def live(self) -> LiveSettings:
        return self.catalogue.live

    @property
    def base(self) -> LiveSettings:
        """The `user_config` itself, whatever is in force in its place."""
        return self.statuses[0].base if self.statuses else self.live
