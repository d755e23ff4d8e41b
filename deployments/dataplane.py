"""The data plane that every protocol calls: images in, answers out, through the deployments of the graph.

An image goes to the Preprocessor, its pixels to the model's Classifier, and the scores become an answer. A failing
image never fails its neighbours. Each Ingress replica has a data plane of its own.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from ray.serve.exceptions import BackPressureError

from deployments import deadlines
from deployments.admission import Admission, Place, Work
from deployments.deadlines import within
from deployments.dimensions import megapixels_of
from deployments.errors import (
    ApertureError,
    BadRequest,
    DeadlineExceeded,
    InferenceFailed,
    ModelNotReady,
    Overloaded,
    TooManyImages,
    UnknownModel,
)
from deployments.fetching import Fetcher
from deployments.hops import Handle, Hops
from deployments.messages import Answer, ImageInput, Logits, ModelInfo, Pixels, Prepared, Scores, Stages
from deployments.metrics import count_dropped
from deployments.protocols.door import Door
from deployments.protocols.json_bodies import quoted
from deployments.settings import Limits, Settings
from deployments.statistics import BatchStatistics, ModelStatistics, RequestStatistics, summed

logger = logging.getLogger("ray.serve")

Outcome = Answer | ApertureError

# How soon a model that failed to answer is asked again whether it is warm.
DESCRIBE_RETRY_S = 1.0
# When to come again for a model that is still loading: more often costs more than it finds out.
LOADING_RETRY_S = 5.0


class ServeDataPlane:
    """`messages.DataPlane` on Serve's handles."""

    def __init__(
        self,
        settings: Settings,
        preprocessor: Handle,
        classifiers: dict[str, Handle],
        requests_of_all_replicas: Callable[[str], Awaitable[Sequence[RequestStatistics]]],
        request_id: Callable[[], str],
    ) -> None:
        self._limits = settings.limits
        self._preprocessor = _on_this_loop(preprocessor)
        self._classifiers = {name: _on_this_loop(classifier) for name, classifier in classifiers.items()}
        self._hops = {
            model.name: Hops(model, settings, self._preprocessor, self._classifiers[model.name])
            for model in settings.models
        }
        self._models: dict[str, ModelInfo | None] = dict.fromkeys(classifiers)
        self._requests = {name: RequestStatistics() for name in classifiers}
        self._requests_of_all_replicas = requests_of_all_replicas
        self._request_id = request_id
        self._fetcher = Fetcher(settings.image_urls, settings.limits.max_body_bytes)
        self._admission = Admission(settings.admission, classifiers)
        self.door = Door(self._admission, list(classifiers), settings.limits)
        self._watchers: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begins to ask the models whether they are warm. Needs a running event loop."""
        for name in self._classifiers:
            self._watch(name)

    async def await_models(self, timeout_s: float) -> None:
        """Returns once every model is warm, and after that time at the latest."""
        if self._watchers:
            await asyncio.wait(self._watchers, timeout=timeout_s)

    # messages.DataPlane

    @property
    def limits(self) -> Limits:
        return self._limits

    def ready_models(self) -> dict[str, ModelInfo | None]:
        return dict(self._models)

    def info_of(self, model: str | None, version: str | None = None) -> ModelInfo:
        name = next(iter(self._models)) if model is None else model
        if name not in self._models:
            raise UnknownModel(f"There is no model {quoted(name)}; this service has {', '.join(self._models)}.")
        info = self._models[name]
        if info is None:
            raise ModelNotReady(f"The model {name!r} is still loading.", LOADING_RETRY_S)
        if version is not None and version != str(info.version):
            raise UnknownModel(f"The model {name!r} has no version {quoted(version)}; it has {info.version}.")
        return info

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

    async def statistics(self, model: str) -> ModelStatistics:
        name = self.info_of(model).name
        batches: list[BatchStatistics]
        requests, batches = await asyncio.gather(
            self._requests_of_all_replicas(name),
            self._classifiers[name].broadcast("batch_statistics").results_async(),
        )
        return summed(requests, batches)

    def requests_here(self, model: str) -> RequestStatistics:
        """What this replica has counted of that model's requests."""
        return self._requests[model]

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
        hops = self._hops[info.name]
        try:
            started = time.monotonic()
            pixels = await self._pixels(image, info, hops, deadline)
            place.decoded()
            if isinstance(pixels, ApertureError):
                return pixels
            preprocessed = time.monotonic()
            scores = await hops.classify(pixels, deadline)
            if isinstance(scores, ApertureError):
                return scores
            if scores.version != info.version:
                return self._describe_again(info)
            return _answer(info, scores, preprocessed - started, time.monotonic() - preprocessed)
        except ApertureError as refusal:
            return refusal
        except BackPressureError:
            return Overloaded("The service has more requests than it can answer in time; try again.", DESCRIBE_RETRY_S)
        except Exception:
            logger.exception("An image of request %s failed", self._request_id())
            return InferenceFailed("The image could not be classified because of an internal error.")

    async def _pixels(self, image: ImageInput, info: ModelInfo, hops: Hops, deadline: float) -> Pixels | ApertureError:
        if not isinstance(image, Prepared):
            return await hops.preprocess(image, info.preprocessing, deadline)
        side = info.preprocessing.crop_size
        if image.pixels.shape != (side, side, 3):
            return BadRequest(
                f"A preprocessed image for {info.name!r} has {side} x {side} pixels of 3 channels, not the shape "
                f"{image.pixels.shape}."
            )
        return image.pixels

    # What is known of the models

    def _describe_again(self, info: ModelInfo) -> ModelNotReady:
        """A replica that started later found another version on disk, whose labels and preprocessing may differ."""
        if self._models[info.name] is info:
            logger.warning("Model %s has changed from version %d", info.name, info.version)
            self._models[info.name] = None
            self._watch(info.name)
        message = f"The model {info.name!r} has just changed its version; try again."
        return ModelNotReady(message, DESCRIBE_RETRY_S)

    def _watch(self, name: str) -> None:
        watcher = asyncio.create_task(self._await_model(name))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def _await_model(self, name: str) -> None:
        """Returns once the model is warm and the Preprocessor answers, which the first request needs, too."""
        while self._models[name] is None:
            try:
                info: ModelInfo = await self._classifiers[name].describe.remote()
                await self._hops[name].probe(info.preprocessing)
                self._models[name] = info
            except Exception as err:
                logger.warning("Model %s does not answer yet: %r", name, err)
                await asyncio.sleep(DESCRIBE_RETRY_S)

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
        started, complete = time.monotonic(), False
        try:
            yield outcomes
            complete = True
        finally:
            _count(self._requests[info.name], outcomes if complete else [], time.monotonic() - started)


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
