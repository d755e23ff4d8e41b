"""The answer cache's claims: what is the same is computed once, nobody pays for another's deadline, the bound holds."""

import asyncio
import gc
import tracemalloc
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments import answer_cache
from deployments.answer_cache import ENTRY_BYTES, AnswerCache, Outcome
from deployments.answer_keys import MOST_HASHED_ON_LOOP_BYTES, Key, key_of
from deployments.deadlines import after
from deployments.errors import (
    ApertureError,
    CorruptImage,
    DeadlineExceeded,
    InferenceFailed,
    ModelNotReady,
    Overloaded,
)
from deployments.messages import Answer, ImageInput, ModelInfo, Prepared, Stages
from deployments.settings import PreprocessingSpec
from deployments.settings.cache import Cache
from tests.unit.devices import in_loop, turns_of_the_loop

INFO = ModelInfo("shapes", 3, ("a", "b"), PreprocessingSpec(), "resnet18", "dummy", "fp32", "cpu")
KEY = Key(3, b"image")
# Of an entry with two classes.
ENTRY = ENTRY_BYTES + 16
LATE_S = 60.0


def answer_of(value: float, classes: int = 2) -> Answer:
    """A part of a batch, as answers come."""
    batch = np.full((8, classes), value, np.float32)
    return Answer(INFO, batch[3], batch[3] / 2, Stages(preprocess_s=0.5, queue_s=0.125, inference_s=0.25))


class Computations:
    """Each waits until `finish`; the outcomes come in their order, and the last one again and again."""

    def __init__(self, *outcomes: Outcome | BaseException, is_held: bool = True) -> None:
        self.deadlines: list[float] = []
        self.cancelled = 0
        self._outcomes: list[Outcome | BaseException] = list(outcomes or [answer_of(1)])
        self._is_held = is_held
        self._held: list[asyncio.Event] = []

    async def compute(self, deadline: float) -> Outcome:
        outcome = self._outcomes[min(len(self.deadlines), len(self._outcomes) - 1)]
        self.deadlines.append(deadline)
        if self._is_held:
            self._held.append(asyncio.Event())
            try:
                await self._held[-1].wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                await turns_of_the_loop(10)  # A call that is cancelled takes its time to end.
                raise
        if isinstance(outcome, BaseException) and not isinstance(outcome, ApertureError):
            raise outcome
        return outcome

    async def finish(self) -> None:
        """Those that run now, in the order in which they began."""
        await turns_of_the_loop(3)
        for held in self._held:
            held.set()
        self._held.clear()
        await turns_of_the_loop(5)

    @property
    def count(self) -> int:
        return len(self.deadlines)


def cache_of(max_bytes: int = 100 * ENTRY, *, single_flight: bool = True) -> AnswerCache:
    return AnswerCache("shapes", Cache(max_bytes=max_bytes, single_flight=single_flight))


def ask(
    cache: AnswerCache, computations: Computations, key: Key = KEY, budget_s: float = LATE_S
) -> asyncio.Task[Outcome]:
    return asyncio.create_task(cache.answer(key, computations.compute, after(budget_s)))


async def fill(cache: AnswerCache, *names: str, version: int = 3) -> None:
    for name in names:
        await cache.answer(Key(version, name.encode()), Computations(is_held=False).compute, after(LATE_S))


async def has(cache: AnswerCache, name: str, version: int = 3) -> bool:
    """Whether it is kept. Asking makes it the most recently used."""
    marker = InferenceFailed("It was computed.")
    return await cache.answer(Key(version, name.encode()), returning(marker), after(LATE_S)) is not marker


def returning(outcome: Outcome) -> Callable[[float], Awaitable[Outcome]]:
    async def compute(deadline: float) -> Outcome:
        return outcome

    return compute


def answered(outcome: Outcome) -> Answer:
    assert isinstance(outcome, Answer)
    return outcome


def cached_of(outcomes: Sequence[Outcome]) -> list[str | None]:
    return [answered(outcome).cached for outcome in outcomes]


# Keys

PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def test_a_key_tells_apart_all_that_the_answer_depends_on() -> None:
    def info(name: str = "shapes", version: int = 3, spec: PreprocessingSpec | None = None) -> ModelInfo:
        spec = spec or PreprocessingSpec()
        return ModelInfo(name, version, ("a", "b"), spec, "resnet18", "dummy", "fp32", "cpu")

    different: list[tuple[ImageInput, ModelInfo, int]] = [
        (PIXELS.tobytes(), info(), 0),
        (PIXELS.tobytes() + b"\0", info(), 0),
        (b"", info(), 0),
        (PIXELS, info(), 0),
        (PIXELS + 1, info(), 0),
        (PIXELS.reshape(2, 8, 3), info(), 0),
        (PIXELS.reshape(8, 2, 3), info(), 0),
        (PIXELS.view(np.int8), info(), 0),  # What no protocol lets through.
        (PIXELS[:0], info(), 0),
        (Prepared(PIXELS), info(), 0),
        (PIXELS, info(name="others"), 0),
        (PIXELS, info(version=4), 0),
        (PIXELS, info(spec=PreprocessingSpec(crop_size=64)), 0),
        (PIXELS, info(spec=PreprocessingSpec(fidelity="fast")), 0),
        (PIXELS, info(), 1),
    ]

    async def run() -> None:
        assert len({await key_of(*each) for each in different}) == len(different)

    in_loop(run())


def test_equal_images_have_the_same_key_however_they_lie_in_memory() -> None:
    async def run() -> None:
        twice = np.repeat(PIXELS, 2, axis=1)[:, ::2]
        assert not twice.flags.c_contiguous
        assert await key_of(twice, INFO) == await key_of(PIXELS.copy(), INFO) == await key_of(PIXELS, INFO)
        assert await key_of(bytes(100), INFO) == await key_of(bytes(100), INFO)

    in_loop(run())


@pytest.mark.parametrize(("more_bytes", "turns"), [(0, False), (1, True)], ids=["small", "large"])
def test_only_what_is_large_is_hashed_beside_the_loop(more_bytes: int, turns: bool) -> None:
    async def run() -> None:
        turned = asyncio.create_task(asyncio.sleep(0))
        await key_of(bytes(MOST_HASHED_ON_LOOP_BYTES + more_bytes), INFO)
        assert turned.done() == turns

    in_loop(run())


# What is kept


def test_without_settings_everything_is_computed_and_nothing_is_kept() -> None:
    async def run() -> None:
        cache, computations = AnswerCache("shapes"), Computations(is_held=False)
        outcomes = [await ask(cache, computations) for _ in range(3)]
        assert (computations.count, len(cache), cache.is_on) == (3, 0, False)
        assert cached_of(outcomes) == [None] * 3

    in_loop(run())


def test_the_second_time_an_answer_comes_from_the_cache_and_says_so() -> None:
    async def run() -> None:
        cache, computations = cache_of(), Computations(is_held=False)
        first, second = answered(await ask(cache, computations)), answered(await ask(cache, computations))
        assert computations.count == 1
        assert (first.cached, first.stages) == ("miss", answer_of(1).stages)
        assert (second.cached, second.stages) == ("hit", Stages(0.0, 0.0, 0.0))
        assert second.info is INFO
        np.testing.assert_array_equal(second.logits, first.logits)
        np.testing.assert_array_equal(second.probabilities, first.probabilities)

    in_loop(run())


def test_a_kept_answer_is_read_only_and_holds_no_batch() -> None:
    async def run() -> None:
        cache, computations = cache_of(), Computations(is_held=False)
        await ask(cache, computations)
        kept = answered(await ask(cache, computations))
        for numbers in (kept.logits, kept.probabilities):
            assert numbers.base is None
            with pytest.raises(ValueError, match="read-only"):
                numbers[0] = 7.0

    in_loop(run())


@pytest.mark.parametrize("error", [CorruptImage("bad"), InferenceFailed("bad"), Overloaded("full")], ids=type)
def test_an_error_is_never_kept(error: ApertureError) -> None:
    async def run() -> None:
        cache, computations = cache_of(), Computations(error, answer_of(1), is_held=False)
        assert await ask(cache, computations) is error
        assert (await ask(cache, computations), len(cache)) != (error, 0)
        assert computations.count == 2

    in_loop(run())


def test_what_was_used_least_recently_goes_first() -> None:
    async def run() -> None:
        cache = cache_of(3 * ENTRY)
        await fill(cache, "a", "b", "c")
        assert await has(cache, "a")
        await fill(cache, "d")
        assert not await has(cache, "b")
        assert [await has(cache, name) for name in "acd"] == [True, True, True]
        assert cache.held_bytes == 3 * ENTRY

    in_loop(run())


def test_an_answer_larger_than_the_bound_is_not_kept_and_drives_nothing_out() -> None:
    async def run() -> None:
        cache = cache_of(2 * ENTRY)
        await fill(cache, "a", "b")
        large = returning(answer_of(1, classes=ENTRY))
        assert answered(await cache.answer(KEY, large, after(LATE_S))).cached == "miss"
        assert [await has(cache, name) for name in "ab"] == [True, True]

    in_loop(run())


def test_a_lowered_bound_evicts_at_once_and_a_raised_one_keeps_all() -> None:
    async def run() -> None:
        cache = cache_of(4 * ENTRY)
        await fill(cache, "a", "b", "c", "d")
        cache.configure(Cache(max_bytes=2 * ENTRY + 1))
        assert (len(cache), cache.held_bytes) == (2, 2 * ENTRY)
        cache.configure(Cache(max_bytes=10 * ENTRY))
        assert [await has(cache, name) for name in "abcd"] == [False, False, True, True]

    in_loop(run())


def test_a_cache_that_is_switched_off_is_empty_when_it_is_switched_on_again() -> None:
    async def run() -> None:
        cache, computations = cache_of(), Computations()
        await fill(cache, "a", "b")
        flight = ask(cache, computations)
        await turns_of_the_loop(2)
        cache.configure(None)
        assert (len(cache), cache.held_bytes, cache.is_on) == (0, 0, False)
        await computations.finish()
        assert answered(await flight).logits[0] == 1
        cache.configure(Cache(max_bytes=10 * ENTRY))
        assert (len(cache), await has(cache, "a")) == (0, False)

    in_loop(run())


def test_an_answer_older_than_its_age_is_computed_anew() -> None:
    async def run() -> None:
        now = 100.0
        cache = AnswerCache("shapes", Cache(max_bytes=10 * ENTRY, max_age_s=5), clock=lambda: now)
        await fill(cache, "a")
        now += 5
        assert await has(cache, "a")
        now += 0.1
        assert not await has(cache, "a")
        assert cache.held_bytes == 0

    in_loop(run())


def test_a_forgotten_version_is_gone_with_what_of_it_is_being_computed() -> None:
    async def run() -> None:
        cache, computations = cache_of(), Computations()
        await fill(cache, "a", "b")
        await fill(cache, "a", version=4)
        flight = ask(cache, computations)
        await turns_of_the_loop(2)
        cache.forget(3)
        later = ask(cache, computations)
        await turns_of_the_loop(2)
        assert computations.count == 2
        cache.forget(3)
        await computations.finish()
        assert cached_of([await flight, await later]) == ["miss", "miss"]
        assert (len(cache), cache.held_bytes) == (1, ENTRY)
        assert await has(cache, "a", version=4)

    in_loop(run())


def test_a_versions_number_that_is_used_again_for_something_else_misses_also_under_keys_made_before() -> None:
    async def run() -> None:
        cache = cache_of()

        async def key() -> Key:
            return await key_of(b"image", INFO, cache.generation(INFO.version))

        old = await key()
        assert cached_of([await cache.answer(old, returning(answer_of(1)), after(LATE_S))]) == ["miss"]
        cache.forget(INFO.version)
        fresh = answered(await cache.answer(await key(), returning(answer_of(2)), after(LATE_S)))
        assert (fresh.cached, fresh.logits[0]) == ("miss", 2)
        # A request of the old version that was still hashing its image.
        late = answered(await cache.answer(old, returning(answer_of(1)), after(LATE_S)))
        assert (late.cached, late.logits[0]) == ("miss", 1)
        again = answered(await cache.answer(await key(), returning(answer_of(3)), after(LATE_S)))
        assert (again.cached, again.logits[0]) == ("hit", 2)

    in_loop(run())


@pytest.mark.parametrize("classes", [2, 1000])
def test_held_bytes_are_what_python_holds(classes: int) -> None:
    async def run() -> None:
        cache = cache_of(2**30)
        await fill(cache, *map(str, range(100)))
        gc.collect()
        tracemalloc.start()
        try:
            began_bytes, began_held = tracemalloc.get_traced_memory()[0], cache.held_bytes
            for number in range(600):
                key = await key_of(number.to_bytes(4), INFO)
                await cache.answer(key, returning(answer_of(number, classes)), after(LATE_S))
            gc.collect()
            real = tracemalloc.get_traced_memory()[0] - began_bytes
        finally:
            tracemalloc.stop()
        assert 0.85 < real / (cache.held_bytes - began_held) <= 1

    in_loop(run())


# What is computed once


def test_a_hundred_identical_images_at_once_are_one_computation() -> None:
    async def run() -> None:
        cache, computations = cache_of(), Computations()
        asking = [ask(cache, computations) for _ in range(100)]
        await computations.finish()
        outcomes = await asyncio.gather(*asking)
        assert computations.count == 1
        assert cached_of(outcomes) == ["miss"] + ["joined"] * 99
        assert {answered(outcome).logits[1] for outcome in outcomes} == {1}
        assert len(cache) == 1

    in_loop(run())


def test_who_joins_has_waited_and_has_computed_nothing() -> None:
    async def run() -> None:
        cache, computations, spared = cache_of(), Computations(), list[str]()
        first = ask(cache, computations)
        await turns_of_the_loop(2)
        second = asyncio.create_task(
            cache.answer(KEY, computations.compute, after(LATE_S), lambda: spared.append("joined"))
        )
        await turns_of_the_loop(2)
        assert spared == ["joined"]
        await computations.finish()
        await first
        stages = answered(await second).stages
        assert (stages.preprocess_s, stages.inference_s) == (0, 0)
        assert 0 < stages.queue_s < LATE_S
        await cache.answer(KEY, computations.compute, after(LATE_S), lambda: spared.append("hit"))
        assert spared == ["joined", "hit"]

    in_loop(run())


def test_different_images_are_different_computations() -> None:
    async def run() -> None:
        cache, computations = cache_of(), Computations()
        asking = [ask(cache, computations, Key(3, bytes([number]))) for number in range(5)]
        await computations.finish()
        assert cached_of(await asyncio.gather(*asking)) == ["miss"] * 5
        assert computations.count == 5

    in_loop(run())


def test_without_single_flight_each_is_computed_and_the_answer_is_kept() -> None:
    async def run() -> None:
        cache, computations = cache_of(single_flight=False), Computations()
        asking = [ask(cache, computations) for _ in range(3)]
        await computations.finish()
        assert cached_of(await asyncio.gather(*asking)) == ["miss"] * 3
        assert (computations.count, len(cache), cache.held_bytes) == (3, 1, ENTRY)
        assert cached_of([await ask(cache, computations)]) == ["hit"]

    in_loop(run())


@pytest.mark.parametrize("leaving", [0, 1, 2], ids=["the first", "one who joined", "the last"])
def test_one_who_is_cancelled_leaves_the_others_unharmed(leaving: int) -> None:
    async def run() -> None:
        cache, computations = cache_of(), Computations()
        asking = [ask(cache, computations) for _ in range(3)]
        await turns_of_the_loop(3)
        asking.pop(leaving).cancel()
        await computations.finish()
        assert [answered(outcome).logits[0] for outcome in await asyncio.gather(*asking)] == [1, 1]
        assert (computations.count, computations.cancelled, len(cache)) == (1, 0, 1)

    in_loop(run())


def test_what_nobody_waits_for_any_more_is_cancelled_and_nobody_joins_it() -> None:
    async def run() -> None:
        cache, computations = cache_of(), Computations()
        asking = [ask(cache, computations) for _ in range(3)]
        await turns_of_the_loop(3)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        later = ask(cache, computations)  # Before the cancelled computation has had its turn to end.
        await computations.finish()
        assert computations.cancelled == 1
        assert cached_of([await later]) == ["miss"]
        assert computations.count == 2

    in_loop(run())


def test_the_answer_that_the_first_had_no_time_for_is_that_of_those_who_joined() -> None:
    async def run() -> None:
        cache, computations = cache_of(), Computations()
        first = ask(cache, computations, budget_s=0.05)
        await turns_of_the_loop(2)
        second = ask(cache, computations)
        assert isinstance(await first, DeadlineExceeded)
        await computations.finish()
        assert cached_of([await second]) == ["joined"]
        assert (computations.count, computations.cancelled) == (1, 0)

    in_loop(run())


def test_who_joins_waits_no_longer_than_its_own_deadline() -> None:
    async def run() -> None:
        cache, computations = cache_of(), Computations()
        first = ask(cache, computations)
        await turns_of_the_loop(2)
        assert isinstance(await ask(cache, computations, budget_s=0.05), DeadlineExceeded)
        assert isinstance(await ask(cache, computations, budget_s=-1), DeadlineExceeded)
        await computations.finish()
        assert cached_of([await first]) == ["miss"]

    in_loop(run())


def test_a_computation_that_misses_its_only_callers_deadline_is_cancelled() -> None:
    async def run() -> None:
        cache, computations = cache_of(), Computations()
        assert isinstance(await ask(cache, computations, budget_s=0.05), DeadlineExceeded)
        await turns_of_the_loop(2)
        assert (computations.cancelled, len(cache)) == (1, 0)

    in_loop(run())


def test_who_has_waited_until_its_deadline_begins_nothing_new() -> None:
    async def run() -> None:
        cache, computations = cache_of(), Computations()
        first = ask(cache, computations, budget_s=0.05)
        await turns_of_the_loop(2)
        second = ask(cache, computations, budget_s=0.1)
        assert isinstance(await first, DeadlineExceeded)
        assert isinstance(await second, DeadlineExceeded)
        await turns_of_the_loop(2)
        assert (computations.count, computations.cancelled) == (1, 1)

    in_loop(run())


def test_those_with_more_time_than_the_first_compute_once_more_under_the_latest_deadline() -> None:
    async def run() -> None:
        cache = cache_of()
        computations = Computations(DeadlineExceeded("dropped"), answer_of(2))
        budgets_s = [20.0, 10.0, 30.0, 50.0, 40.0]
        asking = []
        for budget_s in budgets_s:
            asking.append(ask(cache, computations, budget_s=budget_s))
            await turns_of_the_loop(2)
        await computations.finish()
        await computations.finish()
        outcomes = await asyncio.gather(*asking)
        assert [isinstance(outcome, DeadlineExceeded) for outcome in outcomes] == [True, True, False, False, False]
        assert cached_of(outcomes[2:]) == ["miss", "joined", "joined"]
        assert computations.count == 2
        assert computations.deadlines[1] - computations.deadlines[0] == pytest.approx(50 - 20, abs=5)

    in_loop(run())


@pytest.mark.parametrize("refusal", [Overloaded("full", 1.0), ModelNotReady("lost", 1.0)], ids=type)
def test_what_was_refused_for_want_of_room_is_tried_once_more_by_those_who_joined(refusal: Overloaded) -> None:
    async def run() -> None:
        cache, computations = cache_of(), Computations(refusal, answer_of(2))
        asking = [ask(cache, computations) for _ in range(4)]
        await computations.finish()
        await computations.finish()
        first, *others = await asyncio.gather(*asking)
        assert first is refusal
        assert cached_of(others) == ["miss", "joined", "joined"]
        assert computations.count == 2

    in_loop(run())


def test_what_is_refused_twice_is_refused() -> None:
    async def run() -> None:
        cache, computations = cache_of(), Computations(Overloaded("full", 1.5))
        asking = [ask(cache, computations) for _ in range(4)]
        for _ in range(3):
            await computations.finish()
        outcomes = await asyncio.gather(*asking)
        assert [(type(outcome), vars(outcome)["retry_after_s"]) for outcome in outcomes] == [(Overloaded, 1.5)] * 4
        assert computations.count == 2

    in_loop(run())


def test_who_has_time_does_not_try_again_with_one_who_has_less() -> None:
    async def run() -> None:
        cache = cache_of()
        computations = Computations(Overloaded("full"), DeadlineExceeded("dropped"), answer_of(3))
        asking = [ask(cache, computations), ask(cache, computations)]
        await turns_of_the_loop(3)

        async def hurry(deadline: float) -> Outcome:
            return await computations.compute(deadline)

        # It comes when the first computation has failed, and before who joined that has noticed.
        for held in computations._held:
            held.set()
        await turns_of_the_loop(1)
        hurried = asyncio.create_task(cache.answer(KEY, hurry, after(5.0)))
        await computations.finish()
        await computations.finish()
        assert isinstance(await asking[0], Overloaded)
        outcomes = await asyncio.gather(asking[1], hurried)
        assert isinstance(outcomes[0], Answer)

    in_loop(run())


def test_an_error_of_the_image_is_computed_once_and_each_gets_one_of_its_own() -> None:
    async def run() -> None:
        cache, computations = cache_of(), Computations(CorruptImage("It ends early."))
        asking = [ask(cache, computations) for _ in range(3)]
        await computations.finish()
        outcomes = await asyncio.gather(*asking)
        assert [(type(outcome), str(outcome)) for outcome in outcomes] == [(CorruptImage, "It ends early.")] * 3
        assert len({id(outcome) for outcome in outcomes}) == 3
        assert (computations.count, len(cache)) == (1, 0)

    in_loop(run())


@pytest.mark.parametrize(
    ("failure", "raised"),
    [(ZeroDivisionError(), ZeroDivisionError), (asyncio.CancelledError(), ConnectionError)],
    ids=["an exception", "a cancellation from below"],
)
def test_what_a_computation_raises_is_raised_to_all_and_cancels_nobody(
    failure: BaseException, raised: type[Exception]
) -> None:
    async def run() -> None:
        cache, computations = cache_of(), Computations(failure, answer_of(1))
        asking = [ask(cache, computations) for _ in range(3)]
        await computations.finish()
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [raised] * 3
        again = ask(cache, computations)
        await computations.finish()
        assert cached_of([await again]) == ["miss"]

    in_loop(run())


def test_an_aperture_error_that_is_raised_is_returned() -> None:
    async def refuse(deadline: float) -> Outcome:
        raise CorruptImage("It ends early.")

    async def run() -> None:
        assert isinstance(await cache_of().answer(KEY, refuse, after(LATE_S)), CorruptImage)

    in_loop(run())


REQUEST: ContextVar[str] = ContextVar("REQUEST", default="none")


def test_a_computation_is_in_no_requests_context() -> None:
    seen = []

    async def compute(deadline: float) -> Outcome:
        seen.append(REQUEST.get())
        return answer_of(1)

    async def run() -> None:
        REQUEST.set("of the first")
        await cache_of().answer(KEY, compute, after(LATE_S))
        assert seen == ["none"]

    in_loop(run())


def test_what_the_cache_does_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: dict[str, float] = {}

    def count(model: str, outcome: str, images: int = 1, saved_s: float = 0.0) -> None:
        counted[outcome] = counted.get(outcome, 0) + images
        counted["saved"] = counted.get("saved", 0) + saved_s

    monkeypatch.setattr(answer_cache, "count_cached", count)
    monkeypatch.setattr(answer_cache, "set_cache_bytes", lambda model, size: counted.update(bytes=size))

    async def run() -> None:
        cache, computations = cache_of(2 * ENTRY), Computations()
        asking = [ask(cache, computations) for _ in range(3)]
        await computations.finish()
        await asyncio.gather(*asking)
        await ask(cache, computations)
        await fill(cache, "a", "b")
        # Preprocessing and inference of an answer take 0.75 s together; its wait is nothing that could be saved.
        assert counted == {"misses": 3, "joined": 2, "hits": 1, "evictions": 1, "saved": 2.25, "bytes": 2 * ENTRY}

    in_loop(run())


# Against a plain model of it

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 2), st.integers(0, 5), st.integers(1, 300)),
        st.tuples(st.just("bound"), st.integers(0, 6 * ENTRY), st.just(0), st.just(0)),
        st.tuples(st.just("forget"), st.integers(1, 2), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(OPERATIONS)
def test_it_keeps_what_a_plain_list_in_order_of_use_would_keep(
    operations: Sequence[tuple[str, int, int, int]],
) -> None:
    async def run() -> None:
        cache, bound = cache_of(3 * ENTRY), 3 * ENTRY
        expected: OrderedDict[Key, int] = OrderedDict()
        for operation, number, image, classes in operations:
            key = Key(number, bytes([image]))
            if operation == "ask":
                outcome = await cache.answer(key, returning(answer_of(1, classes)), after(LATE_S))
                is_off = bound == 0
                assert answered(outcome).cached == (None if is_off else "hit" if key in expected else "miss")
                size = expected.pop(key, ENTRY_BYTES + 8 * classes)
                if size <= bound:
                    expected[key] = size
            elif operation == "bound":
                bound = number
                cache.configure(Cache(max_bytes=bound) if bound else None)
            else:
                cache.forget(number)
                expected = OrderedDict((key, size) for key, size in expected.items() if key.version != number)
            while sum(expected.values()) > bound:
                expected.popitem(last=False)
            assert cache.held_bytes == sum(expected.values()) <= bound
            assert list(cache._entries) == list(expected)

    in_loop(run())
