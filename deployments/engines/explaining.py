"""The process that makes heat maps of one version, beside a replica that serves it (explanation.py).

    python -P -m deployments.engines.explaining

On stdin comes a line of JSON, with the settings, the version and the parent's id; then REQUESTs, each with the pixels
behind it. On stdout goes an ANSWER for each, the line among them, with what its kind has behind it. It ends with its
stdin, or with its parent.
"""

import faulthandler
import json
import logging
import os
import struct
import sys
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np

from deployments.engines.rehearsal import NICENESS, give_way
from deployments.errors import NotExplainable
from deployments.messages import Pixels
from deployments.settings import ModelSettings

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("ray.serve")

# The class, and both sides of the image.
REQUEST: Final = struct.Struct("<II")
# The kind, and the rows and columns of float32 that follow, or one row of so many bytes of text.
ANSWER: Final = struct.Struct("<cII")
READY: Final = b"!"
HEAT: Final = b"H"
REFUSED: Final = b"R"  # Of this version, whatever the image is.
FAILED: Final = b"F"
MAX_TEXT_BYTES: Final = 4000
# What there is besides are graphs of other libraries, and exported programs, of which those for any batch size do not
# run under torch's function modes, by which heat_map.py finds the last feature map (torch 2.15).
EXPLAINABLE: Final = "state_dict"


def main() -> None:
    # What libraries print goes to the log.
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    start = json.loads(requests.readline())
    give_way(start["parent"], NICENESS)
    faulthandler.enable()
    settings = ModelSettings.model_validate(start["settings"])
    logging.basicConfig(level=logging.WARNING, format=f"%(levelname)s heat maps of {settings.name}: %(message)s")
    try:
        network = _network(settings, start["version"])
    except NotExplainable as refusal:
        _say(answers, REFUSED, refusal.message)
        return
    except Exception as err:
        logger.exception("The network cannot be loaded")
        _say(answers, FAILED, f"The network cannot be loaded: {err}")
        return
    answers.write(ANSWER.pack(READY, 0, 0))
    answers.flush()
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        index, side = REQUEST.unpack(head)
        content = requests.read(3 * side * side)
        if len(content) == 3 * side * side:
            _explain(answers, network, np.frombuffer(content, np.uint8).reshape(side, side, 3), index)


def _network(settings: ModelSettings, version: int) -> "torch.nn.Module":
    """Raises NotExplainable, or whatever loading it raises."""
    from deployments.engines.artefacts import Artefacts

    artefacts = Artefacts(settings, version)
    if artefacts.format != EXPLAINABLE:
        raise NotExplainable(
            f"Heat maps are made of torch networks with their weights, and version {version} of model "
            f"{settings.name!r} is a graph of the format {artefacts.format!r}."
        )
    import torch

    torch.set_num_threads(1)
    return artefacts.network


def _explain(answers: BinaryIO, network: "torch.nn.Module", pixels: Pixels, index: int) -> None:
    from deployments.engines.heat_map import heat_map

    try:
        heat = heat_map(network, pixels, index)
    except NotExplainable as refusal:
        _say(answers, REFUSED, refusal.message)
        return
    except Exception as err:
        logger.exception("A heat map failed")
        _say(answers, FAILED, f"{type(err).__name__}: {err}")
        return
    answers.write(ANSWER.pack(HEAT, *heat.shape) + np.ascontiguousarray(heat).tobytes())
    answers.flush()


def _say(answers: BinaryIO, kind: bytes, text: str) -> None:
    content = text.encode()[:MAX_TEXT_BYTES]
    answers.write(ANSWER.pack(kind, len(content), 1) + content)
    answers.flush()


if __name__ == "__main__":
    main()
