"""What engines are compared with, by the format of the weights.

Of torch's formats eager float32 on the CPU, of a graph of others the graph as it is, in float32 on the CPU, and of a
TensorRT plan only the plan itself.
"""

from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from deployments.repository import DESCRIBE_THEMSELVES

if TYPE_CHECKING:
    from deployments.engines.artefacts import Artefacts

BATCH: Final = 8


def name_of(artefacts: "Artefacts") -> str:
    """What computes the reference, for the names of what is made of it."""
    if artefacts.found is None or artefacts.format not in DESCRIBE_THEMSELVES:
        return f"torch-{version_of('torch')}"
    from deployments.engines.foreign import reference_name

    return reference_name(artefacts.found)


def logits_of(artefacts: "Artefacts", pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 (N, classes) of uint8 (N, H, W, 3), N > 0. Raises ConfigError if the weights cannot be loaded."""
    if artefacts.found is not None and artefacts.format in DESCRIBE_THEMSELVES:
        from deployments.engines.foreign import reference_logits

        return reference_logits(artefacts.found, pixels, artefacts.facts.preprocessing)
    if artefacts.found is not None and artefacts.format == "tensorrt":
        from deployments.engines.tensorrt_plan import plan_logits

        return plan_logits(artefacts, artefacts.found, pixels)
    return _eager_logits(artefacts, pixels)


def _eager_logits(artefacts: "Artefacts", pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    import torch

    # Others may serve on this machine; torch by itself would take all of its cores.
    torch.set_num_threads(artefacts.settings.threads or 1)
    with torch.inference_mode():
        batches = [
            artefacts.network(torch.from_numpy(pixels[start : start + BATCH])).numpy()
            for start in range(0, len(pixels), BATCH)
        ]
    return np.concatenate(batches)
