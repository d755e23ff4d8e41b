"""What the scenarios ask of the service besides what the load asks: its states, and who answers."""

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import httpx

from benchmarks.chaos.cluster import Cluster, Config, deploy, deployment_of

# Serve's controller takes up a configuration within a second, and each Ingress asks once a second what there is; what
# takes its time, on two cores that are busy, is loading.
TIMEOUT_S: Final = 240.0
POLL_S: Final = 0.25
# So many requests in a row, each on a connection of its own: HAProxy asks one Ingress and another.
IN_A_ROW: Final = 8


class Broken(Exception):
    """A promise that was not kept, in a sentence."""


class Service:
    """`picture`: what is sent where only the version that answers matters."""

    def __init__(self, cluster: Cluster, picture: bytes) -> None:
        self.cluster = cluster
        self._picture = picture

    @property
    def model(self) -> str:
        return self.cluster.model

    async def deploy(self, user_config: Mapping[str, Any]) -> None:
        config: Config = copy.deepcopy(self.cluster.config)
        deployment_of(config, self.model)["user_config"] = dict(user_config)
        await deploy(config)

    async def states(self) -> dict[int, tuple[str, str]]:
        """The state and the reason of each version, as TensorFlow Serving tells them."""
        found = await self.get(f"/v1/models/{self.model}")
        return {
            int(each["version"]): (each["state"], each["status"]["error_message"])
            for each in found["model_version_status"]
        }

    async def reason(self, version: int) -> str:
        """Why a version is not served, as Triton's repository index tells it."""
        async with self._client() as client:
            index = (await client.post("/v2/repository/index")).json()
        found = [each["reason"] for each in index if (each["name"], each["version"]) == (self.model, str(version))]
        return str(found[0]) if found else ""

    async def comparison(self) -> Any:
        return await self.get(f"/v2/models/{self.model}/comparison")

    async def get(self, path: str) -> Any:
        async with self._client() as client:
            response = await client.get(path)
        if response.status_code != 200:
            raise Broken(f"GET {path} is answered with {response.status_code}: {response.text[:200]}")
        return response.json()

    async def answering(self, parameters: Mapping[str, str] = {}, headers: Mapping[str, str] = {}) -> int | None:
        """The version that answers who asks so; None if none does."""
        async with self._client() as client:
            response = await client.post(
                "/predict",
                params={"model": self.model, **parameters},
                headers=dict(headers),
                content=self._picture,
            )
        return int(response.headers["x-model-version"]) if response.status_code == 200 else None

    async def until_state(self, version: int, state: str) -> str:
        """The reason, which is empty for most states."""
        found = ("", "")

        async def is_so() -> bool:
            nonlocal found
            found = (await self.states()).get(version, ("", ""))
            return found[0] == state

        await self.until(is_so, f"version {version} is {state}")
        # Of the same answer: another Ingress may hear of it a second later.
        return found[1]

    async def until_answered_by(self, version: int, **asked: Mapping[str, str]) -> None:
        """`asked`: as `answering` takes it."""

        async def is_so() -> bool:
            for _ in range(IN_A_ROW):
                if await self.answering(**asked) != version:
                    return False
            return True

        await self.until(is_so, f"version {version} answers who asks with {asked or 'nothing'}")

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            with suppress(httpx.TransportError):
                if await condition():
                    return
            if time.monotonic() > deadline:
                raise Broken(f"Not within {TIMEOUT_S:.0f} s: {what}. The states: {await self.states()}")
            await asyncio.sleep(POLL_S)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.cluster.endpoints.url, timeout=60)
