"""The data plane that every protocol calls: images in, answers out, through the deployments of the graph.

An image goes to the Preprocessor, its pixels to the model's Classifier, and the scores become an answer. A failing
image never fails its neighbours. Each Ingress replica has a data plane of its own.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from deployments import deadlines, tracing
from deployments.admission import Admission, Place, Work
from deployments.candidacy import Candidacy
from deployments.comparison import Comparisons
from deployments.deadlines import within
from deployments.errors import (
    ApertureError,
    BadRequest,
    DeadlineExceeded,
    Overloaded,
    TooManyImages,
    UnknownModel,
)
from deployments.fetching import Fetcher
from deployments.hops import Handle
from deployments.image_way import ImageWay, Outcome, megapixels_in, size_bytes
from deployments.messages import (
    Answer,
    Explanation,
    ImageInput,
    ModelInfo,
    Stages,
    VersionStatus,
    routing_key,
)
from deployments.metrics import count_dropped
from deployments.model_client import ModelClient
from deployments.promotion import Report
from deployments.protocols.door import Door
from deployments.protocols.json_bodies import quoted
from deployments.recent import RecentRequests
from deployments.records import current
from deployments.settings import Limits, Settings
from deployments.statistics import BatchStatistics, ModelStatistics, RequestStatistics, summed


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
        # What this replica has answered in the last minute.
        self.recent = RecentRequests()
        self._requests_of_all_replicas = requests_of_all_replicas
        self._fetcher = Fetcher(settings.image_urls, settings.limits.max_body_bytes)
        self._admission = Admission(settings.admission, classifiers)
        self._candidacies: dict[str, Candidacy] = {}
        self._way = ImageWay(self._models, self._candidacies, settings.limits, request_id)
        for name, model in self._models.items():
            self._candidacies[name] = Candidacy(
                model, self._way.mirrored, lambda: self._admission.images, comparisons_of_all_replicas, is_first
            )
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
        with tracing.call("fetch") as traced:
            return traced.returned(await self._fetcher.fetch(url))

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

    async def explain(
        self, image: bytes, info: ModelInfo, index: int | None, timeout_s: float | None = None
    ) -> Explanation:
        timeout_s = self._timeout(timeout_s, 1)
        deadline = deadlines.after(timeout_s)
        # An answer like any other, which may come from the cache; what is made on top of it counts for nothing.
        (answer,) = await self.classify([image], info, timeout_s)
        if isinstance(answer, ApertureError):
            raise answer
        index = int(answer.probabilities.argmax()) if index is None else index
        if index >= len(info.labels):
            raise BadRequest(f"The model {info.name!r} has the classes 0 to {len(info.labels) - 1}, and no {index}.")
        left_s = deadlines.budget_s(deadline)
        with self._admission.work(info.name, left_s, [megapixels_in(image, self._limits)], len(image)) as (place,):
            # It has its room, and is in nobody's way: a heat map says nothing of how soon images are answered.
            place.end()
            async with within(left_s):
                heat = await self._way.heat(image, info, index, deadline)
        if isinstance(heat, ApertureError):
            raise heat
        return Explanation(answer, index, heat)

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
        sizes_bytes = [size_bytes(image) for image in images]
        megapixels = [megapixels_in(image, self._limits) for image in images]
        current().admitted(sizes_bytes, megapixels)
        return self._admission.work(info.name, timeout_s, megapixels, sum(sizes_bytes))

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
        outcome = image if isinstance(image, ApertureError) else await self._way.outcome(image, info, deadline, place)
        place.end(answered=isinstance(outcome, Answer), late=isinstance(outcome, DeadlineExceeded | Overloaded))
        return outcome

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
            total_s = time.monotonic() - started
            is_answered = _count(requests, outcomes if complete else [], total_s)
            current().answered(outcomes)
            self.recent.add(total_s, failed=not is_answered)
            self._candidacies[info.name].freed()


def _count(statistics: RequestStatistics, outcomes: Sequence[Outcome], total_s: float) -> bool:
    """Whether the request has not failed."""
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    statistics.last_ms = round(time.time() * 1000)
    if not answers or len(answers) < len(outcomes):
        statistics.fail.add(total_s)
        return False
    slowest = max((answer.stages for answer in answers), key=Stages.total_s)
    statistics.success.add(total_s)
    statistics.queue.add(slowest.queue_s)
    sources = {answer.cached for answer in answers}
    if sources <= {"hit", "joined"}:
        statistics.cache_hit.add(total_s - slowest.queue_s)
        return True
    if "miss" in sources:
        # What it takes to look, some microseconds, is not told from the rest of the output.
        statistics.cache_miss.add(0.0)
    statistics.compute_input.add(slowest.preprocess_s)
    statistics.compute_infer.add(slowest.inference_s)
    statistics.compute_output.add(total_s - slowest.total_s())
    return True


def _on_this_loop(handle: Handle) -> Handle:
    # Routing on a loop of its own, the default, is there for callers without one and costs two thread switches a call.
    handle._init(_run_router_in_separate_loop=False)  # type: ignore[no-untyped-call]
    return handle
