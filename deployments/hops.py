"""The way of images to one version of a model through the deployments behind the Ingress, in gathered calls.

A deadline is of this process's clock; what travels is the budget, the seconds that are left (deadlines.py).

What a replica had when it died is asked of another one: nothing that the graph does changes anything, so that twice is
as good as once. An image may be what killed it. So the images of a lost call to a Classifier are suspects; each is sent
by itself, and run while nothing else runs. A replica that dies of that has shown whose fault it is. One that dies
before it came to it has not, and the image goes to the next one, for as long as its deadline lets it.
"""

import asyncio
import hashlib
import logging
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Literal, TypeVar, cast

import grpc
import numpy as np
from numpy.typing import NDArray
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from deployments.deadlines import after, budget_s, within
from deployments.errors import ApertureError, InferenceFailed, ModelNotReady
from deployments.gathering import Gatherer
from deployments.messages import ModelInfo, Pixels, Scores
from deployments.metrics import LOST_CALLS, count_dropped, observe_queue
from deployments.settings import Gathering, ModelSettings, Settings
from deployments.tracing import ImageTrace, call, traces_of

logger = logging.getLogger("ray.serve")

Handle = DeploymentHandle[Any]
Item = TypeVar("Item")
Result = TypeVar("Result")
# What is called for, until when its caller waits in time.monotonic(), and its trace.
Job = tuple[Item, float, ImageTrace | None]

# Images that ended a replica, by 16 bytes each. An attacker has as many as he likes; a client that tries again has one.
MAX_CONVICTED: Final = 4096


# By value, Serve makes an ActorUnavailableError of the first, and lets the second pass: a server that is told to stop
# cancels what it has.
LOST: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class ReplicaLost(Exception):
    """A call's replica ended, or cannot be reached any more, after it had taken the call."""


class Hops:
    """The calls of one Ingress replica for one version of a model."""

    def __init__(
        self, model: ModelSettings, settings: Settings, preprocessor: Handle, classifier: Handle, info: ModelInfo
    ) -> None:
        self._classifier = classifier
        # Looked up once: a handle makes another one of itself for each method that it is asked for.
        self._remote_preprocess = preprocessor.preprocess
        self._remote_classify = classifier.classify
        # A replica that hangs must not keep one of the calls in flight for ever.
        self._call_timeout_s = settings.limits.request_timeout_s
        bounds = settings.gathering or Gathering(max_calls=sys.maxsize, max_images=1)
        limits = {"max_calls": bounds.max_calls, "max_bytes": bounds.max_bytes}
        self._info = info
        self._preprocess: Gatherer[Job[bytes | Pixels], Pixels | ApertureError] = Gatherer(
            self._call_preprocessor,
            max_items=bounds.max_images,
            on_drop=_count_dropped,
            on_wait=partial(observe_queue, "before_preprocessor", model.name),
            **limits,
        )
        # A call returns as a whole: with more than a batch in it, the first images would wait for a second batch.
        self._classify: Gatherer[Job[Pixels], Scores | ApertureError] = Gatherer(
            self._call_classifier,
            max_items=min(bounds.max_images, model.max_batch_size),
            on_drop=_count_dropped,
            on_wait=partial(observe_queue, "before_classifier", model.name),
            **limits,
        )
        self._suspect_at_large = asyncio.Lock()
        self._convicted: OrderedDict[bytes, None] = OrderedDict()

    async def preprocess(self, image: bytes | Pixels, deadline: float) -> Pixels | ApertureError:
        with call("preprocess") as traced:
            job = (image, deadline, traced.trace)
            return traced.returned(await self._preprocess.submit(job, _size_bytes(image), deadline))

    async def classify(self, pixels: Pixels, deadline: float) -> Scores | ApertureError:
        if self._convicted and _digest(pixels) in self._convicted:
            return _refusal()
        with call("classify") as traced:
            return traced.returned(await self._classified((pixels, deadline, traced.trace)))

    async def mirror(self, pixels: Pixels, deadline: float, *, niced: bool) -> Scores | ApertureError:
        """As `classify`, in a call of its own, on a replica that has nothing else to do; Overloaded if it has.

        Raises ReplicaLost.
        """
        async with within(min(budget_s(deadline), self._call_timeout_s)):
            return await _unless_lost(
                self._classifier.mirror.remote((pixels, budget_s(deadline)), version=self._info.version, niced=niced)
            )

    async def explain(self, pixels: Pixels, index: int, deadline: float) -> NDArray[np.float32] | ApertureError:
        """Where the class `index` was found: float32 (h, w). In a call of its own. Raises ReplicaLost."""
        with call("explain") as traced:
            return traced.returned(await self._explained((pixels, budget_s(deadline)), index))

    async def probe(self) -> None:
        """Returns once the Preprocessor answers."""
        await self._call_preprocessor([(np.zeros((1, 1, 3), np.uint8), after(self._call_timeout_s), None)])

    async def _explained(self, job: tuple[Pixels, float], index: int) -> NDArray[np.float32] | ApertureError:
        async with within(min(job[1], self._call_timeout_s)):
            return await _unless_lost(self._classifier.explain.remote(job, index, version=self._info.version))

    async def _call_preprocessor(self, jobs: Sequence[Job[bytes | Pixels]]) -> Sequence[Pixels | ApertureError]:
        traces = traces_of([trace for _, _, trace in jobs])

        def preprocess() -> Awaitable[Sequence[Pixels | ApertureError]]:
            return self._remote_preprocess.remote(_with_budgets(jobs), self._info.preprocessing, **traces)

        async with within(self._call_timeout_s):
            return await _repeated_once(preprocess)

    async def _classified(self, job: Job[Pixels]) -> Scores | ApertureError:
        pixels, deadline, _ = job
        try:
            return await self._classify.submit(job, pixels.nbytes, deadline)
        except ReplicaLost:
            async with self._suspect_at_large:
                return await self._classify_suspect(job)

    async def _call_classifier(self, jobs: Sequence[Job[Pixels]]) -> Sequence[Scores | ApertureError]:
        traces = traces_of([trace for _, _, trace in jobs])
        async with within(self._call_timeout_s):
            # By its name, where the router finds it (routing.py).
            return await _unless_lost(
                self._remote_classify.remote(_with_budgets(jobs), version=self._info.version, **traces)
            )

    async def _classify_suspect(self, job: Job[Pixels]) -> Scores | ApertureError:
        while True:
            started = asyncio.Event()
            try:
                return await _unless_lost(self._call_for_suspect(job, started))
            except ReplicaLost:
                if started.is_set():
                    self._convict(job[0])
                    return _refusal()

    async def _call_for_suspect(self, job: Job[Pixels], started: asyncio.Event) -> Scores | ApertureError:
        pixels, deadline, trace = job
        outcomes = self._classifier.options(stream=True).classify_alone.remote(
            (pixels, budget_s(deadline)), version=self._info.version, **traces_of([trace])
        )
        outcome: Scores | ApertureError | None = None
        async for outcome in cast(AsyncIterator[Scores | ApertureError | None], outcomes):
            if outcome is None:
                started.set()
        return _refusal() if outcome is None else outcome

    def _convict(self, pixels: Pixels) -> None:
        digest = _digest(pixels)
        logger.error("An image ended two replicas, the second one alone, and is refused from now on: %s", digest.hex())
        self._convicted[digest] = None
        if len(self._convicted) > MAX_CONVICTED:
            self._convicted.popitem(last=False)


async def _repeated_once(call: Callable[[], Awaitable[Result]]) -> Result:
    try:
        return await _unless_lost(call(), "preprocessor")
    except ReplicaLost:
        pass
    try:
        return await _unless_lost(call(), "preprocessor")
    except ReplicaLost:
        raise ModelNotReady("The service has lost two replicas in a row; try again.", retry_after_s=1.0) from None


async def _unless_lost(call: Awaitable[Result], place: Literal["preprocessor", "classifier"] = "classifier") -> Result:
    """Raises ReplicaLost. What a replica had not accepted, Serve itself asks of another one."""
    try:
        return await call
    except (RayActorError, grpc.aio.AioRpcError) as err:
        if isinstance(err, grpc.aio.AioRpcError) and err.code() not in LOST:
            raise
        LOST_CALLS.add(1, place)
        logger.warning("A call has lost its replica and is repeated: %s", type(err).__name__)
        raise ReplicaLost from err


def _digest(pixels: Pixels) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()


def _refusal() -> InferenceFailed:
    return InferenceFailed("The model failed on this image.")


def _count_dropped(job: Job[Any]) -> None:
    # Whoever waits for an image leaves at its deadline, too.
    count_dropped("gathering", "abandoned" if budget_s(job[1]) else "expired")


def _with_budgets(jobs: Sequence[Job[Item]]) -> list[tuple[Item, float]]:
    return [(item, budget_s(deadline)) for item, deadline, _ in jobs]


def _size_bytes(image: bytes | Pixels) -> int:
    return len(image) if isinstance(image, bytes) else image.nbytes
