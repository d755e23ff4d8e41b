"""Where in an image a network has found what speaks for a class: Grad-CAM on its last feature map.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (ICCV 2017): the
channels of a feature map, each weighted by the mean gradient of the class' logit, summed, and what is negative left
out. Of a network that ends in global average pooling and a linear layer that is, up to scale, the class activation
mapping of Zhou et al., "Learning Deep Features for Discriminative Localization" (CVPR 2016).

The last feature map is not looked for by name: it is what goes into the last operation that takes the places out of
what it gets, as pooling over all of them does, or flattening. Gradients are computed from there on alone, so that a
heat map costs little more than an answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from deployments.errors import NotExplainable
from deployments.messages import Pixels

NO_MAP = "The network of this model has no feature map in which places could be told apart."


def heat_map(network: torch.nn.Module, pixels: Pixels, index: int) -> NDArray[np.float32]:
    """float32 (h, w) in [0, 1], the greatest value 1 unless nothing speaks for the class.

    network: uint8 (N, H, W, 3) to logits (N, classes), in evaluation mode. pixels: uint8 (H, W, 3).
    Raises NotExplainable if the network has no feature map, as a vision transformer.
    """
    network.requires_grad_(False)
    with torch.enable_grad(), _LastMap() as last:
        logits = network(torch.from_numpy(np.array(pixels[None])))
        if last.map is None or not logits.requires_grad:
            raise NotExplainable(NO_MAP)
        (gradient,) = torch.autograd.grad(logits[0, index], last.map)
    weights = gradient[0].mean(dim=(1, 2))  # (C,)
    heat = torch.einsum("c,chw->hw", weights, last.map.detach()[0]).relu()
    greatest = heat.max()
    values: NDArray[np.float32] = (heat / greatest if greatest > 0 else heat).numpy()
    return values


class _LastMap(TorchFunctionMode):
    """Cuts the graph in front of each operation that takes the places out; `map` is where it was cut last."""

    def __init__(self) -> None:
        super().__init__()
        self.map: torch.Tensor | None = None

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if args and _is_map(args[0]) and _has_no_places(result, len(args[0])):
            self.map = args[0].detach().requires_grad_()
            result = func(self.map, *args[1:], **kwargs)
        return result


def _is_map(value: Any) -> bool:
    """Float (N, C, H, W) with places above and beside each other."""
    return (
        isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim == 4 and min(value.shape[2:]) > 1
    )


def _has_no_places(value: Any, images: int) -> bool:
    """Whether it is (N, C) or (N, C, 1, 1), of that many images."""
    if not isinstance(value, torch.Tensor) or value.ndim not in (2, 4) or len(value) != images:
        return False
    return value.ndim == 2 or value.shape[2:] == (1, 1)
