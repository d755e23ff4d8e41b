"""What an engine may do instead of answering, and what the Classifier makes of it."""

import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.engines.base import Images
from deployments.engines.dummy import DummyEngine
from deployments.served import _infer
from deployments.settings import ModelSettings

BATCH = [np.full((32, 32, 3), value, np.uint8) for value in (10, 20, 30)]
Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Faulty(DummyEngine):
    def __init__(self, change: Change) -> None:
        super().__init__(ModelSettings(name="model", engine="dummy"))
        self._change = change

    def infer(self, images: Images) -> NDArray[np.float32]:
        return self._change(super().infer(images))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_fails_alone(value: float) -> None:
    def spoil(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        logits[1, 2] = value
        return logits

    first, second, third = _infer(Faulty(spoil), BATCH, classes=3)
    assert isinstance(second, RuntimeError)
    assert not isinstance(first, Exception)
    assert not isinstance(third, Exception)
    np.testing.assert_array_equal(first, np.full(3, 10 / 32, np.float32))
    np.testing.assert_array_equal(third, np.full(3, 30 / 32, np.float32))


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits[:2],
        lambda logits: logits[:, :2],
        lambda logits: logits[None],
        lambda logits: logits.ravel(),
        lambda logits: np.float32(1),
    ],
    ids=["too few rows", "too few classes", "one dimension more", "one less", "a number"],
)
def test_a_wrong_shape_is_a_failure_of_the_batch(change: Change) -> None:
    with pytest.raises(RuntimeError, match="in place of"):
        _infer(Faulty(change), BATCH, classes=3)


@pytest.mark.parametrize("kind", [StopIteration, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_a_future_cannot_carry_becomes_an_error_that_it_can(kind: type[BaseException]) -> None:
    def leave(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        raise kind

    with pytest.raises(RuntimeError, match=kind.__name__):
        _infer(Faulty(leave), BATCH, classes=3)


def test_what_a_failed_batch_had_allocated_is_free_while_its_error_is_kept() -> None:
    allocated: list[weakref.ref[NDArray[np.float32]]] = []

    def exhaust(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        large = np.zeros(10**6, np.float32)
        allocated.append(weakref.ref(large))
        raise MemoryError

    try:
        _infer(Faulty(exhaust), BATCH, classes=3)
    except MemoryError as err:
        kept = err
    gc.collect()
    assert kept.__traceback__ is not None
    assert allocated[0]() is None
