"""What is counted of images on their way: waits by place, batches, padding, halves, drops of decoders, lost calls."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deployments import metrics
from deployments.batching import MergeGate
from deployments.engines.base import Images, taken_padding
from deployments.engines.cuda import Lane
from deployments.engines.dummy import DummyEngine
from deployments.engines.parts import run_in_parts
from deployments.gathering import Gatherer
from deployments.instruments import Instrument
from deployments.messages import ModelInfo, VersionStatus
from deployments.preprocessor import Preprocessor
from deployments.served import ServedVersion
from deployments.settings import Limits, ModelSettings, PreprocessingSpec
from deployments.version_metrics import VersionMetrics
from tests.unit.devices import in_loop

PIXELS = np.full((224, 224, 3), 10, np.uint8)
SPEC = PreprocessingSpec(resize_size=8, crop_size=8)


def numbers(instrument: Instrument, **labels: str) -> dict[str, float]:
    """By the end of their names; buckets by their ends."""
    found: dict[str, float] = {}
    for sample in instrument.samples():
        if labels.items() <= sample.labels.items():
            end = sample.name.removeprefix(instrument.name) + sample.labels.get("le", "")
            found[end] = found.get(end, 0.0) + sample.value
    return found


class Padding(DummyEngine):
    """Runs sizes of four, and fails on a batch that has a white image among others."""

    def infer(self, images: Images) -> NDArray[np.float32]:
        if len(images) > 1 and any(image.min() == 255 for image in images):
            raise RuntimeError("The engine failed.")
        infer = super().infer
        return run_in_parts(lambda part: infer(list(part)), images, 4)


def served(name: str) -> ServedVersion:
    settings = ModelSettings(name=name, engine="dummy", max_batch_size=8)
    return ServedVersion(Padding(settings), settings, nullcontext, [])


async def run(version: ServedVersion, images: Sequence[Any]) -> None:
    await asyncio.gather(*(version.gate.submit(image) for image in images))
    version.close()


def test_a_batch_is_counted_with_its_size_fill_time_waits_and_padding() -> None:
    asyncio.run(run(served("padded"), [PIXELS.copy() for _ in range(6)]))
    labels = {"model": "padded", "version": "1"}
    size = numbers(metrics.BATCH_IMAGES, **labels)
    assert (size["_sum"], size["_count"], size["_bucket4"], size["_bucket8"]) == (6, 1, 0, 1)
    assert numbers(metrics.BATCH_FILL, **labels)["_sum"] == 0.75
    assert numbers(metrics.BATCH_DURATION, **labels)["_count"] == 1
    assert numbers(metrics.QUEUE_DURATION, place="classifier", model="padded")["_count"] == 6
    assert numbers(metrics.PADDING, **labels) == {"": 2}


def test_a_blank_image_is_not_counted() -> None:
    async def check() -> None:
        version = served("blank")
        await version.run_blank()
        version.close()

    asyncio.run(check())
    assert numbers(metrics.BATCH_IMAGES, model="blank") == {}
    assert numbers(metrics.QUEUE_DURATION, model="blank") == {}


def test_what_a_mirror_pads_is_not_counted() -> None:
    async def check() -> None:
        version = served("mirrored")
        await version.mirror(PIXELS, niced=False)
        await version.gate.submit(PIXELS.copy())
        version.close()

    asyncio.run(check())
    assert numbers(metrics.PADDING, model="mirrored") == {"": 3}


def test_each_halving_of_a_batch_is_counted() -> None:
    images = [PIXELS.copy() for _ in range(7)]
    images.insert(3, np.full_like(PIXELS, 255))
    asyncio.run(run(served("halved"), images))
    # Eight, four and two.
    assert numbers(metrics.BISECTIONS, model="halved") == {"": 3}


@pytest.mark.parametrize(("count", "padding"), [(1, 0), (3, 1), (4, 0), (5, 3)])
def test_a_lane_notes_the_places_that_it_fills_up(count: int, padding: int) -> None:
    lane = Lane(lambda pixels: torch.zeros(len(pixels), 2), [1, 2, 4, 8], side=8, classes=2)
    taken_padding()
    lane.run([np.zeros((8, 8, 3), np.uint8)] * count)
    assert taken_padding() == padding
    assert taken_padding() == 0


def test_an_item_that_is_gathered_is_timed_until_it_leaves() -> None:
    waits: list[float] = []

    async def check() -> None:
        go = asyncio.Event()

        async def send(items: Sequence[int]) -> Sequence[int]:
            await go.wait()
            return items

        gatherer: Gatherer[int, int] = Gatherer(send, max_calls=1, max_items=8, max_bytes=8, on_wait=waits.append)
        first = asyncio.create_task(gatherer.submit(0, 1))
        while not waits:  # noqa: ASYNC110
            await asyncio.sleep(0)
        others = [asyncio.create_task(gatherer.submit(number, 1)) for number in range(2)]
        await asyncio.sleep(0.05)
        assert len(waits) == 1
        go.set()
        await asyncio.gather(first, *others)

    asyncio.run(check())
    assert len(waits) == 3
    assert min(waits[1:]) >= 0.04


def test_what_is_dropped_is_not_timed_as_having_waited() -> None:
    waits: list[float] = []

    async def check() -> None:
        async def run(items: Sequence[int]) -> Sequence[int]:
            return items

        gate = MergeGate(run, 4, on_wait=lambda item, waited_s: waits.append(waited_s))
        gate.submit(1).cancel()
        await gate.submit(2)

    in_loop(check())
    assert len(waits) == 1


def test_an_image_is_timed_until_it_is_decoded() -> None:
    before = numbers(metrics.QUEUE_DURATION, place="preprocessor").get("_count", 0)
    preprocessor = Preprocessor(Limits(), threads=1)
    asyncio.run(preprocessor.preprocess([(PIXELS, 30.0), (PIXELS, 30.0), (PIXELS, 0.0)], SPEC))
    preprocessor.close()
    # The last one has expired.
    assert numbers(metrics.QUEUE_DURATION, place="preprocessor")["_count"] == before + 2


# Versions


def test_a_version_has_one_state_and_one_engine_at_a_time() -> None:
    told = VersionMetrics("changing")
    info = ModelInfo("changing", 1, ("a",), PreprocessingSpec(), "resnet18", "torch", "fp32", "cpu")
    told.export([VersionStatus(1, "LOADING")], [])
    told.export([VersionStatus(1, "AVAILABLE"), VersionStatus(2, "END", "It is broken.")], [info])

    def states() -> dict[tuple[str, str], float]:
        samples = metrics.VERSION_STATE.samples()
        return {
            (each.labels["version"], each.labels["state"]): each.value
            for each in samples
            if each.labels["model"] == "changing"
        }

    assert states() == {("1", "LOADING"): 0, ("1", "AVAILABLE"): 1, ("2", "END"): 1}
    assert numbers(metrics.ENGINE_INFO, model="changing", engine="torch", precision="fp32", device="cpu") == {"": 1}
    told.export([VersionStatus(2, "END", "It is broken.")], [])
    assert states() == {("1", "LOADING"): 0, ("1", "AVAILABLE"): 0, ("2", "END"): 1}
    assert numbers(metrics.ENGINE_INFO, model="changing") == {"": 0}
