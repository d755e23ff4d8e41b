"""What an administrator's requests do to the models: they are loaded again, unloaded, or get other versions.

What changes is an override of a model's `user_config` in all its replicas (messages.Override). It holds until the next
`user_config` that differs from the one that it was made for; replicas that start later hear of it from the Ingress.
One that no process remembers, since all of the model's and of the Ingress's have ended, is gone.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, TypeVar

from deployments.catalogue import Catalogue
from deployments.errors import (
    AdministrationOff,
    ApertureError,
    BadRequest,
    ConfigError,
    DeadlineExceeded,
    LoadFailed,
    ModelNotReady,
    UnknownModel,
)
from deployments.messages import ModelConfig, Override, ReplicaStatus
from deployments.settings import LiveSettings

logger = logging.getLogger("ray.serve")

# How often replicas that load are asked how far they are.
POLL_S: Final = 0.2
# Of the time that a request has, so that there is some left for the answer.
SHARE_OF_TIMEOUT: Final = 0.9
# When to try again what something else has changed meanwhile.
CONFLICT_RETRY_S: Final = 1.0

# Of what a client sent, in a message.
MAX_QUOTED: Final = 200

Result = TypeVar("Result")


class Model(Protocol):
    """What is asked of a ModelClient."""

    catalogue: Catalogue

    async def replicas(self) -> Sequence[ReplicaStatus]: ...
    async def override(self, override: Override) -> Sequence[bool]: ...
    async def look_again(self) -> None: ...


class ModelAdmin:
    """`messages.Administrator`; each Ingress replica has one.

    `paths`: where the versions of each model are. `tell`: lets all Ingress replicas hear what a model's replicas have.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        paths: Mapping[str, str | None],
        tell: Callable[[str], Awaitable[Any]],
        *,
        enabled: bool,
    ) -> None:
        self._models = models
        self._paths = paths
        self._tell = tell
        self._enabled = enabled
        self._turn = asyncio.Lock()

    async def load(self, model: str, who: str, timeout_s: float) -> None:
        async with self._action(f"load of {_quoted(model)}", who, timeout_s):
            client = self._client(model)
            override = client.catalogue.latest_override(await _replicas(client))
            has_begun = override is not None and override.unloaded and await self._change(client, lambda live: live)
            await self._load(client, has_begun=has_begun)

    async def unload(self, model: str, who: str, timeout_s: float) -> None:
        async with self._action(f"unload of {_quoted(model)}", who, timeout_s):
            await self._unload(self._client(model))

    async def reload(self, wanted: Mapping[str, ModelConfig], who: str, timeout_s: float) -> None:
        async with self._action(f"configuration {_quoted(_described(wanted))}", who, timeout_s):
            for name, config in wanted.items():
                self._check(name, config)
            begun: dict[str, bool] = {}
            for name, client in self._models.items():
                if name in wanted:
                    begun[name] = await self._change(client, _changed_to(wanted[name]))
                else:
                    await self._unload(client)
            for name, has_begun in begun.items():
                await self._load(self._models[name], has_begun=has_begun)

    @asynccontextmanager
    async def _action(self, what: str, who: str, timeout_s: float) -> AsyncIterator[None]:
        """One after another in this replica, each a line in the log with what became of it."""
        if not self._enabled:
            raise AdministrationOff(
                "Models are loaded and unloaded by request only where administration.enabled is true in args."
            )
        outcome, started = "failed", time.monotonic()
        try:
            async with asyncio.timeout(timeout_s * SHARE_OF_TIMEOUT), self._turn:
                yield
            outcome = "done"
        except TimeoutError:
            outcome = "not done yet"
            raise DeadlineExceeded(
                f"This is not done within {timeout_s:.3g} s; what has begun goes on, and the repository index tells "
                f"how far it is."
            ) from None
        except asyncio.CancelledError:
            outcome = "left by its caller"
            raise
        except ApertureError as err:
            outcome = f"refused: {err}"
            raise
        finally:
            logger.info("By %s, in %.1f s: %s: %s", who, time.monotonic() - started, what, outcome)
            # Serve's production profile writes the log in blocks of 1000 lines.
            for handler in logger.handlers:
                handler.flush()

    def _client(self, model: str) -> Model:
        if model not in self._models:
            raise UnknownModel(f"There is no model {_quoted(model)}; this service has {', '.join(self._models)}.")
        return self._models[model]

    async def _load(self, client: Model, *, has_begun: bool) -> None:
        """Returns once it has ended. `has_begun`: because of something else."""
        if not has_begun:
            await _answered(client.look_again)
        replicas = await _replicas(client)
        while any(replica.is_loading for replica in replicas):
            await asyncio.sleep(POLL_S)
            replicas = await _replicas(client)
        await self._told(client)
        faults = sorted({replica.fault for replica in replicas if replica.fault})
        if faults:
            answering = ", ".join(map(str, client.catalogue.infos)) or "none"
            raise LoadFailed(f"{' '.join(faults)} Of {client.catalogue.name!r} these versions answer: {answering}.")

    async def _unload(self, client: Model) -> None:
        await self._change(client, lambda live: live, unloaded=True)
        await self._told(client)

    async def _change(
        self, client: Model, change: Callable[[LiveSettings], LiveSettings], *, unloaded: bool = False
    ) -> bool:
        """Overrides what is in force in every replica; whether they load because of it.

        Raises BadRequest, or ModelNotReady if something else changes it, too.
        """
        replicas = await _replicas(client)
        latest = client.catalogue.latest_override(replicas)
        base = replicas[0].base
        live = base if latest is None else latest.live
        # Later than what is in force, whatever the clock of the machine that made that.
        sequence = max(time.time_ns(), 0 if latest is None else latest.sequence + 1)
        override = Override(base, sequence, change(live), unloaded)
        if not all(await _answered(lambda: client.override(override))):
            raise ModelNotReady(
                f"Something else is just changing the model {client.catalogue.name!r}; try again.", CONFLICT_RETRY_S
            )
        was_unloaded = latest is not None and latest.unloaded
        return not unloaded and (was_unloaded or override.live.versions != live.versions)

    async def _told(self, client: Model) -> None:
        await _answered(lambda: self._tell(client.catalogue.name))

    def _check(self, name: str, config: ModelConfig) -> None:
        """Raises UnknownModel, BadRequest, or LoadFailed for a label of a version that does not answer yet."""
        catalogue, path = self._client(name).catalogue, self._paths[name]
        if config.base_path and (path is None or os.path.abspath(config.base_path) != os.path.abspath(path)):
            raise BadRequest(f"The base_path of the model {name!r} cannot be changed by request; leave it out.")
        for label, version in config.labels.items():
            # As in TensorFlow Serving, which moves a label only to a version that is there.
            if version not in catalogue.infos or version not in (config.versions.specific or catalogue.infos):
                raise LoadFailed(
                    f"The label {_quoted(label)} cannot be given to version {version} of the model {name!r}, which is "
                    f"not available, or will not be; load it first."
                )
        _changed_to(config)(catalogue.live)


def _changed_to(config: ModelConfig) -> Callable[[LiveSettings], LiveSettings]:
    def change(live: LiveSettings) -> LiveSettings:
        content = live.model_dump() | {"versions": config.versions.model_dump(), "labels": dict(config.labels)}
        try:
            return LiveSettings.model_validate(content)
        except ConfigError as err:
            raise BadRequest(str(err)) from None

    return change


def _described(wanted: Mapping[str, ModelConfig]) -> str:
    return ", ".join(
        f"{name}: {config.versions.model_dump(exclude_none=True)} {dict(config.labels)}"
        for name, config in wanted.items()
    )


async def _replicas(client: Model) -> Sequence[ReplicaStatus]:
    """At least one."""
    while not (replicas := await _answered(client.replicas)):  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)
    return replicas


async def _answered(ask: Callable[[], Awaitable[Result]]) -> Result:
    """What all replicas answer. One that ends meanwhile is replaced, and all are asked again."""
    while True:
        try:
            return await ask()
        except Exception as err:
            logger.warning("Not all replicas answer an administrator's request: %r", err)
            await asyncio.sleep(POLL_S)


def _quoted(text: str) -> str:
    return ascii(text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}...")
