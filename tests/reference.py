"""The bundled model as torchvision alone would run it: what every served answer is compared with."""

import io
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torchvision
import yaml
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

from tests.another_hand import draw


class Reference:
    """Knows nothing of Aperture's own code: it reads model.yaml and builds the usual torchvision pipeline from it."""

    def __init__(self, model_path: Path) -> None:
        directory = max(model_path.iterdir(), key=lambda version: int(version.name))
        manifest = yaml.safe_load((directory / "model.yaml").read_text())
        spec = manifest["preprocessing"]
        self.version = int(directory.name)
        self.labels: list[str] = manifest["labels"]
        self._transform = Compose(
            [
                Resize(spec["resize_size"]),
                CenterCrop(spec["crop_size"]),
                ToTensor(),
                Normalize(spec["mean"], spec["std"]),
            ]
        )
        self._network = torchvision.models.get_model(manifest["architecture"], num_classes=len(self.labels))
        self._network.load_state_dict(load_file(directory / manifest["weights"]))
        self._network.eval()

    @torch.inference_mode()
    def logits(self, picture: Image.Image) -> NDArray[np.float32]:
        """float32 (classes,)"""
        logits: NDArray[np.float32] = self._network(self._transform(picture.convert("RGB"))[None])[0].numpy()
        return logits

    def probabilities(self, encoded: bytes) -> dict[str, float]:
        """Probability by label, of an encoded picture."""
        probabilities = torch.softmax(torch.from_numpy(self.logits(Image.open(io.BytesIO(encoded)))), dim=0)
        return dict(zip(self.labels, probabilities.tolist(), strict=True))


@cache
def picture(label: str, seed: int = 0) -> bytes:
    """An encoded PNG of a drawn shape."""
    return encode(draw(label, seed), "PNG")


def encode(image: Image.Image, image_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format)
    return buffer.getvalue()
