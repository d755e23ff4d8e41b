"""Heat maps: the class activation mapping of a network that pools, whatever its layers are called; where shapes are."""

from functools import cache

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from deployments.engines.artefacts import Artefacts
from deployments.engines.heat_map import heat_map
from deployments.engines.network import Normalized
from deployments.errors import NotExplainable
from deployments.messages import Pixels
from deployments.settings import ModelSettings, PreprocessingSpec
from examples.shape_outlines import OUTLINES

SPEC = PreprocessingSpec(resize_size=64, crop_size=64)
CLASSES = 5


def noise(side: int = 64) -> Pixels:
    return np.random.default_rng(3).integers(0, 256, (side, side, 3), dtype=np.uint8)


def random_network(architecture: str) -> Normalized:
    torch.manual_seed(11)
    options = {"init_weights": True} if architecture == "googlenet" else {}
    module = torchvision.models.get_model(architecture, weights=None, num_classes=CLASSES, **options)
    # As they come, biases are zero and running means as well, and a whole map may be negative for a class.
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1 and name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return Normalized(module, SPEC).eval()


def class_activation(
    network: Normalized, last: torch.nn.Module, linear: torch.nn.Linear, index: int
) -> NDArray[np.float32]:
    """Zhou et al. 2016, section 2, with what `last` answers and the weights of the class: no gradient."""
    maps: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda module, inputs, answer: maps.append(answer))
    with torch.no_grad():
        network(torch.from_numpy(noise()[None]))
    hook.remove()
    ((features,),) = maps
    activation = np.maximum(0, np.tensordot(linear.weight[index].detach().numpy(), features.numpy(), axes=1))
    return np.asarray(activation / max(activation.max(), 1e-9))


@pytest.mark.parametrize(("architecture", "last"), [("resnet18", "layer4"), ("shufflenet_v2_x0_5", "conv5")])
def test_a_network_that_pools_over_all_places_gets_its_class_activation_mapping(architecture: str, last: str) -> None:
    network = random_network(architecture)
    layers: dict[str, torch.nn.Module] = dict(network.module.named_modules())
    linear = layers["fc"]
    assert isinstance(linear, torch.nn.Linear)
    expected = [class_activation(network, layers[last], linear, index) for index in range(CLASSES)]
    assert sum(bool(heat.any()) for heat in expected) >= 2
    for index in range(CLASSES):
        np.testing.assert_allclose(heat_map(network, noise(), index), expected[index], atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "side"),
    [
        *(("alexnet", 6), ("convnext_tiny", 2), ("densenet121", 2), ("efficientnet_b0", 2), ("googlenet", 2)),
        *(("mobilenet_v3_small", 2), ("regnet_y_400mf", 2), ("squeezenet1_1", 3), ("swin_t", 2)),
    ],
)
def test_every_family_of_networks_has_a_last_feature_map(architecture: str, side: int) -> None:
    heat = heat_map(random_network(architecture), noise(), 2)
    assert (heat.shape, heat.dtype.name) == ((side, side), "float32")
    assert (heat.min() >= 0, heat.max()) == (True, pytest.approx(1)) or not heat.any()


class Colours(torch.nn.Module):
    """By hand: a channel for each colour, of 4 x 4 places, and a class for each that the others speak against."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = torch.nn.functional.avg_pool2d(images, 16).relu()
        return features.mean(dim=(2, 3)) @ torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]])


def test_the_heat_is_where_the_class_is_and_nowhere_where_another_one_is() -> None:
    network = Normalized(Colours(), PreprocessingSpec(mean=(0, 0, 0), std=(1, 1, 1))).eval()
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:16, 48:, 0], pixels[48:, :16, 1] = 255, 255
    red, green = np.zeros((4, 4)), np.zeros((4, 4))
    red[0, 3] = green[3, 0] = 1
    np.testing.assert_allclose(heat_map(network, pixels, 0), red, atol=1e-6)
    np.testing.assert_allclose(heat_map(network, pixels, 1), green, atol=1e-6)
    assert not heat_map(network, pixels, 2).any()


def test_a_network_without_a_feature_map_is_refused() -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(0), torch.nn.Unflatten(0, (1, -1)), torch.nn.Linear(3 * 64 * 64, 2))
    with pytest.raises(NotExplainable, match="no feature map"):
        heat_map(Normalized(flat, SPEC).eval(), noise(), 0)
    transformer = torchvision.models.VisionTransformer(64, 16, 1, 2, 32, 64, num_classes=CLASSES)
    with pytest.raises(NotExplainable, match="no feature map"):
        heat_map(Normalized(transformer, SPEC).eval(), noise(), 0)


# The bundled model


@cache
def bundled() -> tuple[torch.nn.Module, tuple[str, ...]]:
    artefacts = Artefacts(ModelSettings(name="shapes", path="models/shapes"))
    return artefacts.network, artefacts.facts.labels


def in_corner(label: str, right: int, low: int) -> Pixels:
    """A plain shape of two fifths of the side, 128 pixels, in a corner."""
    side, scale = 128, 2
    outline = np.asarray(OUTLINES[label](np.random.default_rng(0)))
    outline = (outline - outline.min(axis=0)) / np.ptp(outline, axis=0).max()
    place = np.where([right, low], 0.55, 0.05)
    picture = Image.new("RGB", (side * scale, side * scale), (235, 235, 225))
    points = (outline * 0.4 + place) * side * scale
    ImageDraw.Draw(picture).polygon([(x, y) for x, y in points.tolist()], fill=(30, 60, 160))
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX))


@pytest.mark.parametrize("label", ["star", "heart", "triangle", "cross"])
@pytest.mark.parametrize(("right", "low"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_the_bundled_model_looks_at_the_corner_that_the_shape_is_in(label: str, right: int, low: int) -> None:
    network, labels = bundled()
    heat = heat_map(network, in_corner(label, right, low), labels.index(label))
    assert heat.shape == (4, 4)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert (int(column) // 2, int(row) // 2) == (right, low)
