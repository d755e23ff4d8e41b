"""Lanes: batches that share nothing, on the CPU; with streams and CUDA graphs, where there is a GPU."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deployments.engines.artefacts import Artefacts
from deployments.engines.cuda import Lane, Lanes
from deployments.engines.network import Normalized
from deployments.engines.registry import Build
from deployments.engines.torch_engine import TorchEngine
from deployments.settings import Precision
from tests.unit.checkpoints import SPEC
from tests.unit.kinds import settings

Logits = NDArray[np.float32]

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

# On the CPU: buffers, padding, and who has which lane


def brightness(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (N, H, W, 3) to float32 (N, 2): the mean and the greatest value."""
    values = pixels.flatten(1).float()
    return torch.stack([values.mean(dim=1), values.amax(dim=1)], dim=1)


def expected_brightness(images: NDArray[np.uint8]) -> Logits:
    flat = images.reshape(len(images), -1)
    return np.stack([flat.mean(axis=1), flat.max(axis=1)], axis=1).astype(np.float32)


@pytest.mark.parametrize("count", range(1, 7))
def test_a_padded_batch_gets_the_answers_of_its_images_alone(count: int, pixels: NDArray[np.uint8]) -> None:
    sizes: list[int] = []

    def network(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return brightness(batch)

    lane = Lane(network, (1, 2, 4, 6), side=64, classes=2)
    lane.run(pixels[:6])  # What it leaves behind must not show.
    for images in (pixels[8 - count :], list(pixels[8 - count :])):
        answer = lane.run(images)
        np.testing.assert_allclose(answer, expected_brightness(pixels[8 - count :]), rtol=1e-5)
    assert sizes[1:] == [{1: 1, 2: 2, 3: 4, 4: 4, 5: 6, 6: 6}[count]] * 2


def test_an_answer_stays_when_the_lane_runs_again(pixels: NDArray[np.uint8]) -> None:
    lane = Lane(brightness, (4,), side=64, classes=2)
    first = lane.run(pixels[:4])
    lane.run(pixels[4:])
    np.testing.assert_allclose(first, expected_brightness(pixels[:4]), rtol=1e-5)


def test_as_many_batches_run_at_once_as_there_are_lanes_and_each_gets_its_own_answer(
    pixels: NDArray[np.uint8],
) -> None:
    meeting = threading.Barrier(2, timeout=20)

    def network(batch: torch.Tensor) -> torch.Tensor:
        meeting.wait()  # Only passed by two that run at once.
        return brightness(batch)

    lanes = Lanes([Lane(network, (1, 2), side=64, classes=2) for _ in range(2)])
    with ThreadPoolExecutor(4) as threads:  # More threads than lanes: some have to wait.
        answers = list(threads.map(lanes.run, [pixels[start : start + 2] for start in (0, 2, 4, 6)]))
    np.testing.assert_allclose(np.concatenate(answers), expected_brightness(pixels), rtol=1e-5)


def test_a_lane_is_free_again_after_a_batch_that_failed(pixels: NDArray[np.uint8]) -> None:
    lanes = Lanes([Lane(brightness, (2,), side=64, classes=2)])
    with pytest.raises(ValueError, match="shape"):
        lanes.run([np.zeros((9, 9, 3), dtype=np.uint8)])
    np.testing.assert_allclose(lanes.run(pixels[:2]), expected_brightness(pixels[:2]), rtol=1e-5)


# On a GPU


def on_gpu_at(model_path: Path, precision: Precision) -> TorchEngine:
    artefacts = Artefacts(settings(model_path, max_batch_size=6))
    return TorchEngine(Build(artefacts, precision, "cuda", 1))


@pytest.fixture(scope="module")
def on_gpu(model_path: Path) -> TorchEngine:
    return on_gpu_at(model_path, "fp32")


def reference_logits(network: torch.nn.Module, pixels: NDArray[np.uint8]) -> Logits:
    with torch.inference_mode():
        logits: Logits = Normalized(network, SPEC).eval()(torch.from_numpy(pixels)).numpy()
    return logits


@NEEDS_GPU
@pytest.mark.parametrize("count", range(1, 7))
def test_on_a_gpu_every_batch_size_answers_as_the_reference(
    on_gpu: TorchEngine, network: torch.nn.Module, pixels: NDArray[np.uint8], count: int
) -> None:
    expected = reference_logits(network, pixels[8 - count :])
    on_gpu.infer(pixels[:6])  # What it leaves behind must not show.
    np.testing.assert_allclose(on_gpu.infer(pixels[8 - count :]), expected, rtol=0, atol=1e-4)


@NEEDS_GPU
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_on_a_gpu_half_precision_answers_with_float32_near_the_reference(
    model_path: Path, network: torch.nn.Module, pixels: NDArray[np.uint8], precision: Precision
) -> None:
    expected = reference_logits(network, pixels[:4])
    logits = on_gpu_at(model_path, precision).infer(pixels[:4])
    assert logits.dtype == np.dtype("float32")
    assert np.abs(logits - expected).max() < 2**-2 * np.abs(expected).max()


@NEEDS_GPU
def test_on_a_gpu_two_runners_at_once_get_their_own_answers(
    on_gpu: TorchEngine, network: torch.nn.Module, pixels: NDArray[np.uint8]
) -> None:
    assert on_gpu.runners() == 2
    batches = [np.roll(pixels, shift, axis=0)[:6] for shift in range(8)] * 8
    with ThreadPoolExecutor(on_gpu.runners()) as threads:
        answers = list(threads.map(on_gpu.infer, batches))
    for batch, answer in zip(batches, answers, strict=True):
        np.testing.assert_allclose(answer, reference_logits(network, batch), rtol=0, atol=1e-4)
