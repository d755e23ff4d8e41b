"""An application like graph.py's, whose engine has the faults that pictures of certain colours ask for.

Served as `tests.faulty_graph:build`; the faults are real ones, in the thread in which engines run.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from ray.serve import Application

from deployments.classifier import Classifier
from deployments.engines.base import Images
from deployments.engines.dummy import DummyEngine
from deployments.ingress import Ingress
from deployments.preprocessor import Preprocessor
from deployments.settings import ModelSettings, Settings
from graph import model_deployment, watched_deployment

# Of a picture that asks for a fault; the first pixel's blue tells which.
RED, GREEN = 201, 13


def build(settings: Settings) -> Application:
    """graph.build, with engines that fail."""
    preprocessor = watched_deployment()(Preprocessor).bind(settings.limits, settings.preprocessor_threads)
    classifiers = {
        model.name: model_deployment(name=model.name)(Classifier).bind(model, FaultyEngine) for model in settings.models
    }
    return watched_deployment()(Ingress).bind(settings, preprocessor, classifiers)


def picture_of(fault: str) -> bytes:
    """A PNG that makes the engine do so."""
    return png((RED, GREEN, list(FAULTS).index(fault)))


def fault_floats(fault: str) -> list[object]:
    """The same as (3, 8, 8) numbers in [0, 1]."""
    colour = (RED, GREEN, list(FAULTS).index(fault))
    return [[[value / 255] * 8] * 8 for value in colour]


def png(colour: tuple[int, int, int]) -> bytes:
    file = BytesIO()
    Image.new("RGB", (224, 224), colour).save(file, "PNG")
    return file.getvalue()


class FaultyEngine(DummyEngine):
    def __init__(self, settings: ModelSettings, version: int | None) -> None:
        super().__init__(settings, version)
        self.is_broken = False
        self.failed_once = False
        self.delay_s = 0.0

    def infer(self, images: Images) -> NDArray[np.float32]:
        time.sleep(self.delay_s)
        logits = super().infer(images)
        for place, image in enumerate(images):
            red, green, blue = (int(value) for value in image[0, 0])
            if (red, green) == (RED, GREEN):
                logits = list(FAULTS.values())[blue](self, logits, place)
        if self.is_broken:
            raise RuntimeError("an illegal memory access was encountered")
        return logits


Fault = Callable[[FaultyEngine, NDArray[np.float32], int], NDArray[np.float32]]


def _throw(engine: FaultyEngine, logits: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    raise ValueError("secret text of the model library")


def _throw_once(engine: FaultyEngine, logits: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    if engine.failed_once or len(logits) > 1:
        return logits
    engine.failed_once = True
    raise ValueError("not again")


def _spoil(engine: FaultyEngine, logits: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    logits[place, 0] = np.nan
    return logits


def _reshape(engine: FaultyEngine, logits: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    return logits[:, :2]


def _run_out_of_memory(engine: FaultyEngine, logits: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    if len(logits) > 1:
        raise MemoryError
    return logits


def _break(engine: FaultyEngine, logits: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    engine.is_broken = True
    return logits


def _slow_down(engine: FaultyEngine, logits: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    engine.delay_s = 0.2
    return logits


def _name_process(engine: FaultyEngine, logits: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    logits[place] = os.getpid()
    return logits


def _read_null(engine: FaultyEngine, logits: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    ctypes.string_at(0)
    return logits


def _get_signal(engine: FaultyEngine, logits: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return logits


def _abort(engine: FaultyEngine, logits: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    os.abort()


def _hang(engine: FaultyEngine, logits: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    time.sleep(3600)
    return logits


def _hang_with_gil(engine: FaultyEngine, logits: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    ctypes.PyDLL(None).sleep(3600)
    return logits


FAULTS: dict[str, Fault] = {
    "throw": _throw,
    "throw once": _throw_once,
    "not a number": _spoil,
    "wrong shape": _reshape,
    "out of memory": _run_out_of_memory,
    "break": _break,
    "name the process": _name_process,
    "slow down": _slow_down,
    "read null": _read_null,
    "get a signal": _get_signal,
    "abort": _abort,
    "hang": _hang,
    "hang with the GIL": _hang_with_gil,
}
