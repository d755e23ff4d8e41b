"""Mirrors: only in free moments, never in anybody's way, bounded, and counted whatever becomes of them."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from deployments import shadowing
from deployments.comparison import Comparison
from deployments.errors import ApertureError, DeadlineExceeded, InferenceFailed, ModelNotReady, Overloaded
from deployments.messages import Answer, ImageInput, ModelInfo, Prepared
from deployments.settings import PreprocessingSpec
from deployments.shadowing import MAX_WAITING_BYTES, MAX_WAITING_IMAGES, Mirrors, Target, image_hash
from tests.unit.answers import answer_of, info_of

STABLE, CANDIDATE = info_of(1), info_of(2)
ANSWER = answer_of(STABLE, 0.7, 0.2, 0.1)
PIXELS = np.zeros((4, 4, 3), np.uint8)

Outcome = Answer | ApertureError | Exception


class World:
    """A candidate that answers each image with `outcome` once `open` is set, and room for it as `free` says."""

    def __init__(self, outcome: Outcome | None = None) -> None:
        self.outcome: Outcome = answer_of(CANDIDATE, 0.1, 0.8, 0.1) if outcome is None else outcome
        self.free, self.asked_whether_free = True, 0
        self.mirrored: list[ImageInput] = []
        self.open = asyncio.Event()
        self.open.set()
        self.comparison = Comparison()
        self.target: Target | None = Target(CANDIDATE, 1, 1.0, self.comparison)
        self.draws = iter([0.0] * 1000)
        self.mirrors = Mirrors(lambda: self.target, self.mirror, self.is_free, lambda: next(self.draws))

    async def mirror(self, image: ImageInput, candidate: ModelInfo) -> Answer | ApertureError:
        assert candidate is CANDIDATE
        self.mirrored.append(image)
        await self.open.wait()
        if isinstance(self.outcome, Answer | ApertureError):
            return self.outcome
        raise self.outcome

    def is_free(self) -> bool:
        self.asked_whether_free += 1
        return self.free

    def offer(self, images: int = 1, size_bytes: int = 1) -> None:
        for _ in range(images):
            self.mirrors.offer(bytes(size_bytes), PIXELS, ANSWER)


def in_a_world(test: Callable[[World], Awaitable[None]], outcome: Outcome | None = None) -> None:
    async def run() -> None:
        world = World(outcome)
        await test(world)
        await world.mirrors.close()

    asyncio.run(run())


async def settle() -> None:
    """Lets every task run until it waits for something that is not there yet."""
    for _ in range(10):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def test_in_a_free_moment_the_candidate_is_asked_and_compared() -> None:
    async def test(world: World) -> None:
        world.offer(3)
        await until(lambda: world.comparison.count == 3)
        assert world.comparison.agreements == 0
        assert world.comparison.differences.greatest == pytest.approx(0.6)

    in_a_world(test)


def test_offering_returns_before_anything_is_mirrored() -> None:
    async def test(world: World) -> None:
        world.offer()
        assert world.mirrored == []
        await until(lambda: len(world.mirrored) == 1)

    in_a_world(test)


def test_what_is_offered_waits_until_there_is_room() -> None:
    async def test(world: World) -> None:
        world.free = False
        world.offer(2)
        await settle()
        assert (world.mirrored, world.mirrors.waiting) == ([], 2)
        world.free = True
        await settle()
        assert world.mirrored == []  # Nobody has said so yet.
        world.mirrors.freed()
        await until(lambda: world.comparison.count == 2)

    in_a_world(test)


def test_while_there_is_no_room_nothing_asks_for_it_over_and_over() -> None:
    async def test(world: World) -> None:
        world.free = False
        world.offer()
        await settle()
        asked = world.asked_whether_free
        await asyncio.sleep(0.05)
        assert world.asked_whether_free == asked

    in_a_world(test)


def test_real_work_that_comes_during_a_mirror_keeps_the_next_one_back() -> None:
    async def test(world: World) -> None:
        world.open.clear()
        world.offer(2)
        await settle()
        world.free = False
        world.open.set()
        await until(lambda: world.comparison.count == 1)
        await settle()
        assert (len(world.mirrored), world.mirrors.waiting) == (1, 1)

    in_a_world(test)


def test_one_image_is_mirrored_at_a_time() -> None:
    async def test(world: World) -> None:
        world.open.clear()
        world.offer(5)
        await settle()
        assert len(world.mirrored) == 1

    in_a_world(test)


def test_a_share_of_the_images_is_mirrored() -> None:
    async def test(world: World) -> None:
        world.target = Target(CANDIDATE, 1, 0.25, world.comparison)
        world.draws = iter([0.0, 0.2499, 0.25, 0.9])
        world.offer(4)
        await settle()
        assert len(world.mirrored) == 2

    in_a_world(test)


def test_nothing_is_mirrored_without_a_candidate_nor_what_others_than_the_stable_version_answered() -> None:
    async def test(world: World) -> None:
        for other in (CANDIDATE, info_of(3)):
            world.mirrors.offer(b"x", PIXELS, answer_of(other, 0.7, 0.2, 0.1))
        world.target = None
        world.offer()
        await settle()
        assert (world.mirrored, world.mirrors.waiting) == ([], 0)

    in_a_world(test)


def test_more_images_than_fit_are_dropped_and_counted() -> None:
    async def test(world: World) -> None:
        world.free = False
        world.offer(MAX_WAITING_IMAGES + 3)
        assert (world.mirrors.waiting, world.comparison.skipped) == (MAX_WAITING_IMAGES, {"full": 3})

    in_a_world(test)


def test_more_bytes_than_fit_are_dropped_and_counted_until_there_is_room_again() -> None:
    async def test(world: World) -> None:
        world.free = False
        world.offer(3, MAX_WAITING_BYTES // 2 - 1000)
        assert (world.mirrors.waiting, world.comparison.skipped) == (2, {"full": 1})
        world.free = True
        world.mirrors.freed()
        await until(lambda: world.comparison.count == 2)
        world.offer(2, MAX_WAITING_BYTES // 2 - 1000)
        assert (world.mirrors.waiting, world.comparison.skipped) == (2, {"full": 1})

    in_a_world(test)


def test_what_waits_too_long_expires_without_anybody_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadowing, "MAX_AGE_S", 0.02)

    async def test(world: World) -> None:
        world.free = False
        world.offer(3)
        await until(lambda: world.comparison.skipped == {"expired": 3})
        assert (world.mirrors.waiting, world.mirrored) == (0, [])

    in_a_world(test)


def test_a_candidate_that_hangs_keeps_no_mirror_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadowing, "MAX_AGE_S", 0.02)

    async def test(world: World) -> None:
        world.open.clear()
        world.offer()
        await until(lambda: world.comparison.skipped == {"expired": 1})

    in_a_world(test)


@pytest.mark.parametrize(
    "refusal", [Overloaded("no"), ModelNotReady("no"), DeadlineExceeded("no")], ids=lambda e: e.code
)
def test_a_replica_with_real_work_is_no_error_and_is_asked_again_later(
    refusal: ApertureError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadowing, "REFUSED_S", 0.01)

    async def test(world: World) -> None:
        world.offer(2)
        await until(lambda: world.comparison.skipped == {"busy": 2})
        assert world.comparison.errors == 0

    in_a_world(test, refusal)


@pytest.mark.parametrize("failure", [InferenceFailed("no"), RuntimeError("no")], ids=["refused", "raised"])
def test_what_the_candidate_fails_on_is_counted_and_the_next_image_mirrored(failure: Exception) -> None:
    async def test(world: World) -> None:
        world.offer(2)
        await until(lambda: world.comparison.errors == 2)
        assert (world.comparison.count, world.comparison.skipped) == (0, {})

    in_a_world(test, failure)


def test_versions_with_the_same_preprocessing_share_their_pixels() -> None:
    async def test(world: World) -> None:
        world.offer()
        await until(lambda: world.comparison.count == 1)
        (mirrored,) = world.mirrored
        assert isinstance(mirrored, Prepared)
        assert mirrored.pixels is PIXELS

    in_a_world(test)


def test_versions_with_other_preprocessing_get_the_image_and_nothing_that_was_prepared_for_others() -> None:
    async def test(world: World) -> None:
        other = answer_of(info_of(1, preprocessing=PreprocessingSpec()), 0.7, 0.2, 0.1)
        world.mirrors.offer(Prepared(PIXELS), PIXELS, other)
        world.mirrors.offer(b"picture", PIXELS, other)
        await until(lambda: world.comparison.count == 1)
        assert world.mirrored == [b"picture"]

    in_a_world(test)


def test_the_worst_disagreements_are_known_by_the_hash_of_their_file() -> None:
    async def test(world: World) -> None:
        world.mirrors.offer(b"a picture", PIXELS, ANSWER)
        await until(lambda: len(world.comparison.worst) == 1)
        (worst,) = world.comparison.worst
        assert worst.image == hashlib.sha256(b"a picture").hexdigest()
        assert (worst.difference.stable_label, worst.difference.candidate_label) == ("cat", "dog")

    in_a_world(test)


def test_pixels_are_hashed_row_by_row_however_they_lie_in_memory() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert (
        image_hash(np.asfortranarray(pixels))
        == image_hash(Prepared(pixels))
        == hashlib.sha256(bytes(range(48))).hexdigest()
    )


def test_an_offer_raises_nothing_whatever_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    async def test(world: World) -> None:
        world.draws = iter(())
        world.offer()
        assert "could not be offered" in caplog.text

    in_a_world(test)


def test_closing_gives_up_what_waits_and_what_is_on_its_way() -> None:
    async def test(world: World) -> None:
        world.open.clear()
        world.offer(3)
        await settle()
        await world.mirrors.close()
        assert (world.mirrors.waiting, len(asyncio.all_tasks())) == (0, 1)

    in_a_world(test)
