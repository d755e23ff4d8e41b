"""The data plane that every protocol calls: images in, answers out, through the deployments of the graph.

An image goes to the Preprocessor, its pixels to the model's Classifier, and the scores become an answer. A failing
image never fails its neighbours. Each Ingress replica has a data plane of its own.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import numpy as np
from ray.serve.exceptions import BackPressureError

from deployments import deadlines
from deployments.admission import Admission, Place, Work
from deployments.answer_keys import key_of
from deployments.candidacy import Candidacy
from deployments.comparison import Comparisons
from deployments.deadlines import within
from deployments.dimensions import megapixels_of
from deployments.errors import (
    ApertureError,
    BadRequest,
    DeadlineExceeded,
    InferenceFailed,
    Overloaded,
    TooManyImages,
    UnknownModel,
    VersionAbsent,
)
from deployments.fetching import Fetcher
from deployments.hops import Handle, Hops
from deployments.messages import (
    Answer,
    ImageInput,
    Logits,
    ModelInfo,
    Pixels,
    Prepared,
    Scores,
    Stages,
    VersionStatus,
    routing_key,
)
from deployments.metrics import count_dropped
from deployments.model_client import ModelClient
from deployments.promotion import Report
from deployments.protocols.door import Door
from deployments.protocols.json_bodies import quoted
from deployments.settings import Limits, Settings
from deployments.statistics import BatchStatistics, ModelStatistics, RequestStatistics, summed

logger = logging.getLogger("ray.serve")

Outcome = Answer | ApertureError

# When to come again if Serve holds no more calls: a batch or two later.
BACK_PRESSURE_RETRY_S = 1.0
# How soon a version that a replica lacks is asked of a replica again.
ABSENT_RETRY_S = 0.1


class ServeDataPlane:
    """`messages.DataPlane` on Serve's handles."""

    def __init__(
        self,
        settings: Settings,
        preprocessor: Handle,
        classifiers: dict[str, Handle],
        requests_of_all_replicas: Callable[[str], Awaitable[Sequence[Mapping[int, RequestStatistics]]]],
        request_id: Callable[[], str],
        comparisons_of_all_replicas: Callable[[str], Awaitable[Sequence[Comparisons]]],
        is_first: Callable[[], bool],
    ) -> None:
        """`is_first`: whether this replica is the one that looks after promotions."""
        self._limits = settings.limits
        preprocessor = _on_this_loop(preprocessor)
        self._classifiers = {name: _on_this_loop(classifier) for name, classifier in classifiers.items()}
        self._models = {
            model.name: ModelClient(model, settings, preprocessor, self._classifiers[model.name])
            for model in settings.models
        }
        self._requests: dict[str, dict[int, RequestStatistics]] = {name: {} for name in classifiers}
        self._requests_of_all_replicas = requests_of_all_replicas
        self._request_id = request_id
        self._fetcher = Fetcher(settings.image_urls, settings.limits.max_body_bytes)
        self._admission = Admission(settings.admission, classifiers)
        self._candidacies = {
            name: Candidacy(
                model, self._mirrored, lambda: self._admission.images, comparisons_of_all_replicas, is_first
            )
            for name, model in self._models.items()
        }
        self.door = Door(self._admission, list(classifiers), settings.limits)

    def start(self) -> None:
        """Begins to follow the models. Needs a running event loop."""
        for model in self._models.values():
            model.start()
        for candidacy in self._candidacies.values():
            candidacy.start()

    @property
    def models(self) -> Mapping[str, ModelClient]:
        return self._models

    async def await_models(self, timeout_s: float) -> None:
        """Returns once every model is warm, and after that time at the latest."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for model in self._models.values():
                    await model.known()

    # messages.DataPlane

    @property
    def limits(self) -> Limits:
        return self._limits

    def is_ready(self) -> bool:
        return all(model.catalogue.infos or model.catalogue.is_unloaded for model in self._models.values())

    def ready_models(self) -> dict[str, ModelInfo | None]:
        return {name: model.catalogue.default() for name, model in self._models.items()}

    def info_of(self, model: str | None, version: str | None = None, label: str | None = None) -> ModelInfo:
        return self._model(model).catalogue.choose(version, label, routing_key.get())

    def versions_of(self, model: str | None) -> tuple[VersionStatus, ...]:
        return self._model(model).catalogue.statuses()

    def labels_of(self, model: str | None) -> Mapping[str, int]:
        return self._model(model).catalogue.labels

    def check_count(self, images: int) -> None:
        if images > self._limits.max_images:
            raise TooManyImages(f"The request has {images} images; at most {self._limits.max_images} are allowed.")

    async def fetch(self, url: str) -> bytes | ApertureError:
        return await self._fetcher.fetch(url)

    async def classify(
        self, images: Sequence[ImageInput | ApertureError], info: ModelInfo, timeout_s: float | None = None
    ) -> list[Outcome]:
        self.check_count(len(images))
        with self._counted(info) as outcomes:
            timeout_s = self._timeout(timeout_s, len(images))
            deadline = deadlines.after(timeout_s)
            with self._admitted(images, info, timeout_s) as places:
                async with within(timeout_s):
                    outcomes += await asyncio.gather(
                        *(
                            self._classify_one(image, info, deadline, place)
                            for image, place in zip(images, places, strict=True)
                        )
                    )
        return outcomes

    async def classify_each(
        self, images: Sequence[ImageInput | ApertureError], info: ModelInfo, timeout_s: float | None = None
    ) -> AsyncGenerator[tuple[int, Outcome], None]:
        self.check_count(len(images))
        timeout_s = self._timeout(timeout_s, len(images))
        deadline = deadlines.after(timeout_s)
        with self._counted(info) as outcomes, self._admitted(images, info, timeout_s) as places:
            running = [
                asyncio.create_task(self._classify_numbered(index, image, info, deadline, place))
                for index, (image, place) in enumerate(zip(images, places, strict=True))
            ]
            try:
                for next_done in asyncio.as_completed(running):
                    index, outcome = await next_done
                    outcomes.append(outcome)
                    yield index, outcome
            finally:
                for task in running:
                    task.cancel()

    async def statistics(self, model: str) -> Mapping[int, ModelStatistics]:
        name = self._model(model).catalogue.name
        batches: list[Mapping[int, BatchStatistics]]
        requests, batches = await asyncio.gather(
            self._requests_of_all_replicas(name),
            self._classifiers[name].broadcast("batch_statistics").results_async(),
        )
        return summed(requests, batches)

    def requests_here(self, model: str) -> Mapping[int, RequestStatistics]:
        """What this replica has counted of that model's requests, by version."""
        return self._requests[model]

    async def comparison(self, model: str) -> Report:
        """What all replicas have counted of the model's versions. Raises UnknownModel."""
        return await self._candidacies[self._model(model).catalogue.name].report()

    def comparisons_here(self, model: str) -> Comparisons:
        return self._candidacies[model].counted.copy()

    def _model(self, name: str | None) -> ModelClient:
        """The model of that name, or the first. Raises UnknownModel."""
        name = next(iter(self._models)) if name is None else name
        if name not in self._models:
            raise UnknownModel(f"There is no model {quoted(name)}; this service has {', '.join(self._models)}.")
        return self._models[name]

    # One image

    def _admitted(self, images: Sequence[ImageInput | ApertureError], info: ModelInfo, timeout_s: float) -> Work:
        """A place for each image. Raises Overloaded."""
        total_bytes = sum(_size_bytes(image) for image in images)
        return self._admission.work(info.name, timeout_s, [_megapixels(image) for image in images], total_bytes)

    async def _classify_numbered(
        self, index: int, image: ImageInput | ApertureError, info: ModelInfo, deadline: float, place: Place
    ) -> tuple[int, Outcome]:
        try:
            async with within(deadlines.budget_s(deadline)):
                return index, await self._classify_one(image, info, deadline, place)
        except DeadlineExceeded as expired:
            place.end(late=True)
            return index, expired

    async def _classify_one(
        self, image: ImageInput | ApertureError, info: ModelInfo, deadline: float, place: Place
    ) -> Outcome:
        outcome = image if isinstance(image, ApertureError) else await self._outcome(image, info, deadline, place)
        place.end(answered=isinstance(outcome, Answer), late=isinstance(outcome, DeadlineExceeded | Overloaded))
        return outcome

    async def _outcome(self, image: ImageInput, info: ModelInfo, deadline: float, place: Place) -> Outcome:
        cache = self._models[info.name].cache
        try:
            hops = self._models[info.name].hops_to(info)
            if not cache.is_on:
                return await self._computed(image, info, hops, place, deadline)
            key = await key_of(image, info, cache.generation(info.version))
            # What costs nothing says nothing of the model's rate, and is ahead of nobody.
            return await cache.answer(key, partial(self._computed, image, info, hops, place), deadline, place.end)
        except ApertureError as refusal:
            return refusal
        except Exception:
            logger.exception("An image of request %s failed", self._request_id())
            return InferenceFailed("The image could not be classified because of an internal error.")

    async def _computed(self, image: ImageInput, info: ModelInfo, hops: Hops, place: Place, deadline: float) -> Outcome:
        """Raises ApertureError as well."""
        try:
            started = time.monotonic()
            pixels = await self._pixels(image, info, hops, deadline)
            place.decoded()
            if isinstance(pixels, ApertureError):
                return pixels
            preprocessed = time.monotonic()
            scores = await self._scores(pixels, info, hops, deadline)
            if isinstance(scores, ApertureError):
                self._candidacies[info.name].failed(info, scores)
                return scores
            answer = _answer(info, scores, preprocessed - started, time.monotonic() - preprocessed)
            self._candidacies[info.name].answered(image, pixels, answer)
            return answer
        except BackPressureError:
            raise Overloaded(
                "The service has more requests than it can answer in time; try again.", BACK_PRESSURE_RETRY_S
            ) from None

    async def _mirrored(self, image: ImageInput, info: ModelInfo, niced: bool) -> Outcome:
        """As `_computed`, for the copy of an image, in a moment that real requests leave free. Raises ReplicaLost."""
        hops, deadline = self._models[info.name].hops_to(info), deadlines.after(self._limits.request_timeout_s)
        pixels = await self._pixels(image, info, hops, deadline)
        if isinstance(pixels, ApertureError):
            return pixels
        try:
            scores = await hops.mirror(pixels, deadline, niced=niced)
        except BackPressureError:
            return Overloaded("The service has requests to answer.")
        return scores if isinstance(scores, ApertureError) else _answer(info, scores, 0.0, scores.inference_s)

    async def _pixels(self, image: ImageInput, info: ModelInfo, hops: Hops, deadline: float) -> Pixels | ApertureError:
        if not isinstance(image, Prepared):
            return await hops.preprocess(image, deadline)
        side = info.preprocessing.crop_size
        if image.pixels.shape != (side, side, 3):
            return BadRequest(
                f"A preprocessed image for {info.name!r} has {side} x {side} pixels of 3 channels, not the shape "
                f"{image.pixels.shape}."
            )
        return image.pixels

    async def _scores(self, pixels: Pixels, info: ModelInfo, hops: Hops, deadline: float) -> Scores | ApertureError:
        while True:
            scores = await hops.classify(pixels, deadline)
            if not isinstance(scores, VersionAbsent) or not self._models[info.name].has(info):
                return scores
            # Another replica has it, and the router is about to hear which.
            await asyncio.sleep(ABSENT_RETRY_S)

    def _timeout(self, timeout_s: float | None, images: int) -> float:
        """Seconds for so many images. Raises DeadlineExceeded if none are left."""
        if timeout_s is not None and timeout_s <= 0:
            count_dropped("ingress", "expired", images)
            raise DeadlineExceeded("The deadline passed before the request was complete.")
        most = self._limits.request_timeout_s
        asked = self._limits.default_timeout_s if timeout_s is None else timeout_s
        return most if asked is None else min(asked, most)

    @contextmanager
    def _counted(self, info: ModelInfo) -> Iterator[list[Outcome]]:
        """Counts the request, whose outcomes the block appends; one that did not get them all has failed."""
        outcomes: list[Outcome] = []
        requests = self._requests[info.name].setdefault(info.version, RequestStatistics())
        started, complete = time.monotonic(), False
        try:
            yield outcomes
            complete = True
        finally:
            _count(requests, outcomes if complete else [], time.monotonic() - started)
            self._candidacies[info.name].freed()


def _count(statistics: RequestStatistics, outcomes: Sequence[Outcome], total_s: float) -> None:
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    statistics.last_ms = round(time.time() * 1000)
    if not answers or len(answers) < len(outcomes):
        statistics.fail.add(total_s)
        return
    slowest = max((answer.stages for answer in answers), key=Stages.total_s)
    statistics.success.add(total_s)
    statistics.queue.add(slowest.queue_s)
    statistics.compute_input.add(slowest.preprocess_s)
    statistics.compute_infer.add(slowest.inference_s)
    statistics.compute_output.add(total_s - slowest.total_s())


def _size_bytes(image: ImageInput | ApertureError) -> int:
    if isinstance(image, bytes):
        return len(image)
    return 0 if isinstance(image, ApertureError) else _pixels_of(image).nbytes


def _megapixels(image: ImageInput | ApertureError) -> float:
    """That are to be decoded, or resized."""
    if isinstance(image, bytes):
        return megapixels_of(image)
    return 0.0 if isinstance(image, ApertureError) else _pixels_of(image).size / 3e6


def _pixels_of(image: Pixels | Prepared) -> Pixels:
    return image.pixels if isinstance(image, Prepared) else image


def _on_this_loop(handle: Handle) -> Handle:
    # Routing on a loop of its own, the default, is there for callers without one and costs two thread switches a call.
    handle._init(_run_router_in_separate_loop=False)  # type: ignore[no-untyped-call]
    return handle


def _answer(info: ModelInfo, scores: Scores, preprocess_s: float, classify_s: float) -> Answer:
    stages = Stages(preprocess_s, queue_s=classify_s - scores.inference_s, inference_s=scores.inference_s)
    return Answer(info, scores.logits, _softmax(scores.logits), stages)


def _softmax(logits: Logits) -> Logits:
    exponentials = np.exp(logits - logits.max())
    probabilities: Logits = exponentials / exponentials.sum()
    return probabilities
