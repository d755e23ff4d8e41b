"""Graphs that others have exported: what they are, told by themselves, and what they answer as they are.

ONNX files are read by onnx where it is installed and by OpenVINO where it is not, SavedModels by OpenVINO. The answers
of the unchanged graph, in float32 on the CPU, are what the guard compares with: of ONNX those of ONNX Runtime with its
optimiser switched off, where it is installed, otherwise OpenVINO's.
"""

import logging
from importlib.metadata import version as version_of
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deployments.engines.binding import SMALLEST_PROBABILITY, Binding, Graph, bind
from deployments.errors import ConfigError
from deployments.repository import ModelVersion
from deployments.settings import PreprocessingSpec

logger = logging.getLogger("ray.serve")

# Images are made of this size and answers of that many classes before anything else can check them; today's largest
# classifiers have sides of 1024 and 21,843 classes (ImageNet-21k).
MAX_SIDE: Final = 4096
MAX_CLASSES: Final = 100_000
REFERENCE_BATCH: Final = 8
# What is called probabilities has to be some, up to rounding in half precision.
SUM_TOLERANCE: Final = 1e-2


def binding_of(found: ModelVersion) -> Binding:
    """Raises ConfigError if the graph cannot be read, or its ends not be told."""
    manifest = found.manifest
    binding = bind(_graph(found), manifest.input, manifest.output, repr(str(found.weights_path)))
    for what, size, most in (("images of", binding.side, MAX_SIDE), ("classes:", binding.classes, MAX_CLASSES)):
        if size is not None and size > most:
            raise ConfigError(f"{str(found.weights_path)!r} has {what} {size}, where {most} is the most.")
    return binding


def labels_and_spec(found: ModelVersion) -> tuple[tuple[str, ...], PreprocessingSpec]:
    """Those of model.yaml, and for what it does not state, what the graph says. Raises ConfigError."""
    binding, manifest, where = binding_of(found), found.manifest, str(found.weights_path)
    labels, spec = manifest.labels, manifest.preprocessing
    if not labels:
        if binding.classes is None:
            raise ConfigError(f"{where!r} does not say how many classes it has, and there are no labels beside it.")
        labels = tuple(str(number) for number in range(binding.classes))
    if "preprocessing" not in manifest.model_fields_set and binding.side is not None:
        # In the proportion of the default, 256 to 224.
        spec = PreprocessingSpec(resize_size=round(binding.side * 8 / 7), crop_size=binding.side)
    if binding.classes not in (None, len(labels)):
        raise ConfigError(f"{where!r} has {binding.classes} classes, but there are {len(labels)} labels.")
    if binding.side not in (None, spec.crop_size):
        raise ConfigError(
            f"{where!r} takes images of {binding.side} pixels, but its preprocessing has crop_size {spec.crop_size}."
        )
    return labels, spec


def log_defaults(found: ModelVersion, labels: tuple[str, ...], spec: PreprocessingSpec) -> None:
    """Says what nobody has stated."""
    stated = found.manifest.model_fields_set
    assumed = [] if "labels" in stated else [f"labels {labels[0]!r} to {labels[-1]!r}"]
    if "preprocessing" not in stated:
        assumed.append(f"preprocessing {spec.model_dump(mode='json')}")
    if assumed:
        logger.warning("%s is served with defaults: %s.", found.weights_path, ", ".join(assumed))


def reference_name(found: ModelVersion) -> str:
    """What computes the reference, for the name of an artefact."""
    library = "onnxruntime" if _by_onnxruntime(found) else "openvino"
    return f"{library}-{version_of(library)}"


def reference_logits(found: ModelVersion, pixels: NDArray[np.uint8], spec: PreprocessingSpec) -> NDArray[np.float32]:
    """What the unchanged graph answers to uint8 (N, H, W, 3), which numpy normalises: float32 (N, classes).

    Raises ConfigError if the answers are not what the graph or model.yaml says they are.
    """
    binding = binding_of(found)
    images = _images(pixels, binding, spec)
    size = binding.batch or REFERENCE_BATCH
    count, missing = len(images), -len(images) % size
    images = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
    if _by_onnxruntime(found):
        from deployments.engines.onnxruntime_engine import run_as_it_is

        answers = run_as_it_is(found.weights_path, binding, images, size)
    else:
        from deployments.engines import openvino_graph

        answers = openvino_graph.run_as_it_is(found.weights_path, binding, images, size)
    return _logits(answers[:count], binding, found)


def _graph(found: ModelVersion) -> Graph:
    if found.manifest.format == "onnx" and find_spec("onnx"):
        from deployments.engines import onnx_graph

        return onnx_graph.graph_of(onnx_graph.read_model(found.weights_path, with_weights=False))
    if find_spec("openvino"):
        from deployments.engines import openvino_graph

        return openvino_graph.graph_of(openvino_graph.read_graph(found.weights_path))
    needed = "onnx and onnxruntime, the extra 'onnxruntime' of this project," if _is_onnx(found) else "openvino"
    raise ConfigError(f"{str(found.weights_path)!r} cannot be read, because {needed} must be installed for it.")


def _is_onnx(found: ModelVersion) -> bool:
    return found.manifest.format == "onnx"


def _by_onnxruntime(found: ModelVersion) -> bool:
    return _is_onnx(found) and find_spec("onnxruntime") is not None and find_spec("onnx") is not None


def _images(pixels: NDArray[np.uint8], binding: Binding, spec: PreprocessingSpec) -> NDArray[Any]:
    """What the graph takes, made without any model library."""
    images: NDArray[Any] = pixels
    if binding.dtype == "float32":
        scaled = pixels.astype(np.float32) / np.float32(255)
        images = (scaled - np.asarray(spec.mean, dtype=np.float32)) / np.asarray(spec.std, dtype=np.float32)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2) if binding.layout == "nchw" else images)


def _logits(answers: NDArray[np.float32], binding: Binding, found: ModelVersion) -> NDArray[np.float32]:
    where = f"The output {binding.output!r} of {str(found.weights_path)!r}"
    if answers.ndim != 2:
        raise ConfigError(f"{where} has the shape {answers.shape}, where images and classes are expected.")
    sums = answers.sum(axis=1, dtype=np.float64)
    look_like_probabilities = bool((answers >= 0).all() and (np.abs(sums - 1) <= SUM_TOLERANCE).all())
    if binding.kind == "probabilities":
        if not look_like_probabilities and np.isfinite(answers).all():
            raise ConfigError(f"{where} is said to be probabilities, but its numbers do not add up to 1.")
        return np.log(np.maximum(answers, np.float32(SMALLEST_PROBABILITY)))
    if look_like_probabilities and found.manifest.output.kind is None:
        raise ConfigError(
            f"{where} adds up to 1 as probabilities do, but no softmax is seen; set output.kind in model.yaml to "
            f"probabilities or logits."
        )
    return answers
