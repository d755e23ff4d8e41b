"""The same three deployments as Serve's documentation would have one write them: what `overhead` compares with.

Default proxy, handles as they come, arrays by reference, one call per image and hop. No limits, deadlines or errors.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.serve import Application
from starlette.requests import Request

SIDE = 224


@serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.3})
class Preprocessor:
    async def __call__(self, image: bytes) -> NDArray[np.uint8]:
        return np.full((SIDE, SIDE, 3), image[-1], dtype=np.uint8)


@serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.5})
class Model:
    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.005)
    async def __call__(self, pixels: list[NDArray[np.uint8]]) -> list[float]:
        return [float(each[::16, ::16].mean()) for each in pixels]


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1})
class Ingress:
    def __init__(self, preprocessor: Any, model: Any) -> None:
        self._preprocessor, self._model = preprocessor, model

    async def __call__(self, request: Request) -> dict[str, float]:
        if request.method == "GET":
            return {}
        pixels = self._preprocessor.remote(await request.body())
        return {"mean": await self._model.remote(pixels)}


def build(args: dict[str, str]) -> Application:
    return Ingress.bind(Preprocessor.bind(), Model.bind())  # type: ignore[attr-defined, no-any-return]
