"""Which input of a graph takes the images and which output has the answers: found in the graph, or as model.yaml says.

This module knows no model library: the graph comes as the names, shapes and types of its ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

from deployments.errors import ConfigError
from deployments.repository import GraphInput, GraphOutput

CHANNELS: Final = 3
# Probabilities below are taken for it, since zero has no logarithm: the smallest normal float32, about 1.2e-38, which
# all devices compute with.
SMALLEST_PROBABILITY: Final = 2.0**-126
Layout = Literal["nhwc", "nchw"]
# Where the channels are in a shape of four.
CHANNEL_AXES: Final[dict[Layout, int]] = {"nchw": 1, "nhwc": 3}
DTYPES: Final = ("float32", "uint8")
Shape = tuple[int | None, ...]  # None: of any size


@dataclass(frozen=True)
class Port:
    """One end of a graph."""

    names: tuple[str, ...]  # all mean the same; the first is the one that is shown
    shape: Shape | None  # None: of unknown rank
    dtype: str
    made_by: str = ""  # of an output: the type of the operator that it comes from

    def __str__(self) -> str:
        sizes = "of unknown rank" if self.shape is None else [("?" if size is None else size) for size in self.shape]
        return f"{self.names[0]} ({self.dtype} {str(sizes).replace(chr(39), '')})"


@dataclass(frozen=True)
class Graph:
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Binding:
    """How images go into a graph and logits come out of it."""

    input: str
    layout: Layout
    dtype: Literal["float32", "uint8"]
    side: int | None  # of the images, in pixels; None: any
    batch: int | None  # None: any
    output: str
    kind: Literal["logits", "probabilities"]
    classes: int | None  # None: the graph does not say


def bind(graph: Graph, stated_input: GraphInput, stated_output: GraphOutput, where: str) -> Binding:
    """`where` names the graph in sentences. Raises ConfigError with the candidates and the key to set."""
    source = _input(graph.inputs, stated_input, where)
    shape = source.shape or (None,) * 4
    layout = _layout(source, stated_input, where)
    if source.dtype not in DTYPES or stated_input.dtype not in (None, source.dtype):
        raise ConfigError(
            f"The input {source} of {where} must be {' or '.join(DTYPES)}"
            f"{f', and model.yaml says {stated_input.dtype}' if stated_input.dtype else ''}."
        )
    target = _output(graph.outputs, stated_output, where)
    return Binding(
        input=source.names[0],
        layout=layout,
        dtype=cast(Literal["float32", "uint8"], source.dtype),
        side=_side(source, layout, where),
        batch=shape[0],
        output=target.names[0],
        kind=stated_output.kind or _kind(target, where),
        classes=None if target.shape is None else target.shape[1],
    )


def needs_another_input(binding: Binding, name: str) -> ConfigError:
    return ConfigError(
        f"The output {binding.output!r} needs the input {name!r} beside {binding.input!r}, and this service has images "
        f"only; set output.name in model.yaml to one that does not."
    )


def _input(inputs: Sequence[Port], stated: GraphInput, where: str) -> Port:
    if stated.name is not None:
        port = _named(inputs, stated.name, "input", where)
        if port.shape is not None and len(port.shape) != 4:
            raise ConfigError(f"The input {port} of {where} takes no images, whose shape has four sizes.")
        return port
    candidates = [port for port in inputs if _layouts(port)]
    if not candidates and len(inputs) == 1 and stated.layout is not None and _may_be_images(inputs[0]):
        candidates = list(inputs)
    return _only(candidates, inputs, "input", "images, of four sizes and 3 channels", where)


def _output(outputs: Sequence[Port], stated: GraphOutput, where: str) -> Port:
    if stated.name is not None:
        port = _named(outputs, stated.name, "output", where)
    else:
        candidates = [port for port in outputs if port.shape is not None and len(port.shape) == 2]
        if not candidates and len(outputs) == 1 and outputs[0].shape is None:
            candidates = list(outputs)
        port = _only(candidates, outputs, "output", "answers, of two sizes, images and classes", where)
    if (port.shape is not None and len(port.shape) != 2) or not port.dtype.startswith("float"):
        raise ConfigError(f"The output {port} of {where} must be floats of two sizes, images and classes.")
    return port


def _only(candidates: Sequence[Port], ports: Sequence[Port], end: str, what: str, where: str) -> Port:
    if len(candidates) == 1:
        return candidates[0]
    count = "several" if candidates else "none"
    raise ConfigError(
        f"Of the {end}s of {where}, {count} could be that of {what}: {_listed(candidates or ports)}; set {end}.name in "
        f"model.yaml."
    )


def _named(ports: Sequence[Port], name: str, end: str, where: str) -> Port:
    for port in ports:
        if name in port.names:
            return port
    raise ConfigError(f"The {end} {name!r} that model.yaml names is none of {where}, which has {_listed(ports)}.")


def _listed(ports: Sequence[Port]) -> str:
    return ", ".join(str(port) for port in ports) or "none at all"


def _may_be_images(port: Port) -> bool:
    return port.shape is None or len(port.shape) == 4


def _layouts(port: Port) -> list[Layout]:
    """Those in which the shape has as many channels as images have."""
    if port.shape is None or len(port.shape) != 4:
        return []
    return [layout for layout, axis in CHANNEL_AXES.items() if port.shape[axis] == CHANNELS]


def _layout(port: Port, stated: GraphInput, where: str) -> Layout:
    if stated.layout is not None:
        if port.shape is not None and port.shape[CHANNEL_AXES[stated.layout]] not in (None, CHANNELS):
            raise ConfigError(f"The input {port} of {where} does not have 3 channels in the layout {stated.layout}.")
        return stated.layout
    found = _layouts(port)
    if len(found) != 1:
        raise ConfigError(
            f"The layout of the input {port} of {where} cannot be told; set input.layout in model.yaml to nhwc or nchw."
        )
    return found[0]


def _side(port: Port, layout: Layout, where: str) -> int | None:
    if port.shape is None:
        return None
    sizes = {port.shape[axis] for axis in ((2, 3) if layout == "nchw" else (1, 2))} - {None}
    if len(sizes) > 1:
        raise ConfigError(f"The input {port} of {where} takes images that are not square, which this service has not.")
    return sizes.pop() if sizes else None


def _kind(port: Port, where: str) -> Literal["logits", "probabilities"]:
    """By the operator that the output comes from."""
    if port.made_by == "Sigmoid":
        raise ConfigError(
            f"The output {port} of {where} comes from a sigmoid, whose classes do not exclude each other; set "
            f"output.kind in model.yaml to logits if it is to be served all the same."
        )
    return "probabilities" if port.made_by == "Softmax" else "logits"
