"""Makes the directories beside this file: TensorFlow SavedModels, and what TensorFlow itself answers for some images.

    python -m tests.unit.saved_models.make

From the root of the repository, in a virtual environment of its own with tensorflow-cpu 2.21.0, since its pins are not
ours. `plain` is what `model.export` of Keras writes; `named` is a module with two inputs and two outputs, of which
model.yaml has to name one each; `scored` takes bytes of pixels and answers logits. Each answers.npz has `pixels`, uint8
(6, 32, 32, 3), and `answers`, float32 (6, 5): of `plain` and `named` for pixels normalised by the spec's default mean
and deviation, of `scored` for the pixels themselves.
"""

import shutil
from pathlib import Path
from typing import Any, Final

import keras  # type: ignore[import-not-found, unused-ignore]
import numpy as np
import tensorflow as tf  # type: ignore[import-untyped, unused-ignore]

FOLDER: Final = Path(__file__).parent
SIDE: Final = 32
CLASSES: Final = 5
IMAGES: Final = 6
SEED: Final = 7
MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)


def main() -> None:
    keras.utils.set_random_seed(SEED)
    pixels = _pictures()
    normalized = ((pixels / np.float32(255) - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)).astype(
        np.float32
    )
    plain, named, scored = (FOLDER / name / "1" for name in ("plain", "named", "scored"))
    for directory in (plain, named, scored):
        shutil.rmtree(directory, ignore_errors=True)
    model = _classifier("softmax")
    model.export(plain, verbose=False)
    _record(plain, pixels, model(normalized, training=False))
    pair = Pair(model)
    tf.saved_model.save(pair, named, signatures=pair.compare.get_concrete_function())
    zeros = tf.zeros_like(normalized)
    _record(named, pixels, pair.compare(picture=normalized, other=zeros)["probabilities"])
    module = Scored(_classifier(None))
    tf.saved_model.save(module, scored, signatures=module.score.get_concrete_function())
    _record(scored, pixels, module.score(pixels)["scores"])


class Pair(tf.Module):  # type: ignore[misc, unused-ignore]
    """Two pictures in, the probabilities of the first and how alike the two are out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32, "picture"),
            tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32, "other"),
        ]
    )  # type: ignore[untyped-decorator, unused-ignore]
    def compare(self, picture: Any, other: Any) -> dict[str, Any]:
        first, second = self.model(picture, training=False), self.model(other, training=False)
        return {"probabilities": first, "likeness": first * second}


class Scored(tf.Module):  # type: ignore[misc, unused-ignore]
    """Bytes of pixels in, logits out; the normalisation is in the graph."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8, "pixels")])  # type: ignore[untyped-decorator, unused-ignore]
    def score(self, pixels: Any) -> dict[str, Any]:
        return {"scores": self.model(tf.cast(pixels, tf.float32) / 127.5 - 1, training=False)}


def _classifier(activation: str | None) -> Any:
    """Convolutions and batch norm with the statistics of their own activations, so that answers differ by image."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((None, None, 3) if activation is None else (SIDE, SIDE, 3)),
            layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.0),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.0),
            layers.Activation("swish"),
            layers.Conv2D(32, 3, strides=2, padding="same"),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES, activation=activation, kernel_initializer=keras.initializers.RandomNormal(stddev=4)),
        ]
    )
    model(np.random.default_rng(SEED).normal(size=(64, SIDE, SIDE, 3)).astype(np.float32), training=True)
    return model


def _pictures() -> Any:
    """uint8 (IMAGES, SIDE, SIDE, 3): coarse noise, coloured, then fine noise."""
    random = np.random.default_rng(SEED)
    coarse = random.integers(0, 256, (IMAGES // 2, 4, 4, 3)).repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)
    fine = random.integers(0, 256, (IMAGES - IMAGES // 2, SIDE, SIDE, 3))
    return np.concatenate([coarse, fine]).astype(np.uint8)


def _record(directory: Path, pixels: Any, answers: Any) -> None:
    np.savez_compressed(directory.parent / "answers.npz", pixels=pixels, answers=np.asarray(answers, dtype=np.float32))


if __name__ == "__main__":
    main()
