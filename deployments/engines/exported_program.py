"""Archives of torch.export (.pt2): what may be in one, and the module that comes out.

torch.export.load runs code for whoever wrote the archive: it unpickles weights that are marked so, falls back to a full
unpickler for the example inputs, loads compiled libraries, resolves operators from the root of torch, and evaluates
shapes as Python (torch/export/pt2_archive/_package.py, torch/_export/serde/serialize.py of torch 2.15). None of that is
needed for a network. So an archive is read first, with torch's own reader, and refused unless it has plain tensors,
operators of ATen, and names and shapes that are nothing but that. This bars the ways that are known; that a version
with an archive needs a model.yaml with its sha256 bars those that are not.
"""

import io
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from deployments.errors import ConfigError

RECORDS: Final = re.compile(
    r"archive_format|archive_version|(\.data/)?version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id"
    r"|models/model\.json|extra/.*|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
)
PROGRAM: Final = "models/model.json"
PAYLOADS: Final = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
EXAMPLE_INPUTS: Final = "data/sample_inputs/model.pt"
OPERATORS: Final = re.compile(
    # The last of ATen's opens a file.
    r"torch\.ops\.aten\.(?!from_file\b)\w+\.\w+"
    # Arithmetic on shapes, and graphs within the graph, whose operators are looked at as well.
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|getitem|eq|ne|lt|le|gt|ge)"
    r"|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
)
# Of names of values, parameters, devices and the like: what can stand in Python, and be nothing but a name there.
NAMES: Final = re.compile(r"[\w.:-]*", re.ASCII)
# Shapes, as sympy writes them: symbols and functions of them, which it reads again with eval.
SHAPE_WORDS: Final = re.compile(
    r"[su]\d+|Symbol|Integer|Add|Mul|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|True|False"
    r"|positive|nonnegative|integer"
)
SHAPE_CHARACTERS: Final = re.compile(r"[\w\s'(),+*/=-]*", re.ASCII)
STRUCTURES: Final = (None, "builtins.tuple", "builtins.list", "builtins.dict")
# Text for people, which torch keeps as it is; and code, which is not asked for (check_guards).
NOT_READ: Final = ("metadata", "guards_code", "torch_version")


class ExportedModule(torch.nn.Module):
    """float32 (N, 3, H, W) to logits (N, classes), for any N, whatever batch size the program was exported for."""

    def __init__(self, program: torch.nn.Module, batch_size: int | None) -> None:
        super().__init__()
        self.program = program
        self._batch_size = batch_size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # As it was exported: its views of tensors need not fit channels that are last.
        images = images.contiguous()
        if self._batch_size is None:
            logits: torch.Tensor = self.program(images)
            return logits
        # Compiled by itself, not together with a loop whose length follows the batch.
        torch._dynamo.graph_break()
        return self._in_parts(images, self._batch_size)

    def _in_parts(self, images: torch.Tensor, size: int) -> torch.Tensor:
        count = len(images)
        missing = -count % size
        images = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing else images
        parts: tuple[torch.Tensor, ...] = torch.split(images, size)
        return torch.cat([self.program(part) for part in parts])[:count]

    def train(self, mode: bool = True) -> "ExportedModule":
        """Exported programs are either, and refuse to be asked."""
        return self


def load_exported_program(path: Path, side: int) -> ExportedModule:
    """Of a classifier of images of side x side pixels. Raises ConfigError if the archive is broken, has code in it, or
    takes or answers something else.
    """
    try:
        _check(torch._C.PyTorchFileReader(str(path)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
    except ConfigError as err:
        raise ConfigError(f"The archive {str(path)!r} {err}") from None
    except Exception as err:  # Of zip, JSON, torch's schema and its operators.
        raise ConfigError(
            f"The archive {str(path)!r} cannot be read: it is cut off, broken, or of another version of torch."
        ) from err
    batch_size = _batch_size(program, path, side)
    # Guards are code; the shapes that come are those that were checked.
    return ExportedModule(program.module(check_guards=False), batch_size)


def _check(archive: Any) -> None:
    """Raises ConfigError, the end of a sentence, if the archive is more than tensors and operators on them."""
    for record in archive.get_all_records():
        if not RECORDS.fullmatch(record):
            raise ConfigError(f"has the part {record!r}, where only tensors and one program are read.")
    for payload in PAYLOADS:
        for name, meta in json.loads(archive.get_record(payload))["config"].items():
            if meta["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", meta["path_name"]):
                raise ConfigError(f"has the tensor {name!r} as a pickle, which is never read.")
    try:
        torch.load(io.BytesIO(archive.get_record(EXAMPLE_INPUTS)), weights_only=True)
    except Exception:
        raise ConfigError("has example inputs that are no plain tensors, which are never read.") from None
    for key, text in _texts(json.loads(archive.get_record(PROGRAM)), ""):
        if not _is_plain(key, text):
            raise ConfigError(f"has the {key} {text[:80]!r}, where only operators of ATen and plain names are read.")


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """All texts in a JSON value with the key that they are under; names of keys are texts, too."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, key)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield "name", name
            if name not in NOT_READ:
                yield from _texts(each, name)


def _is_plain(key: str, text: str) -> bool:
    if key == "target":
        return OPERATORS.fullmatch(text) is not None
    if key == "expr_str":
        words = re.findall(r"[^\W\d]\w*", text)
        return SHAPE_CHARACTERS.fullmatch(text) is not None and all(SHAPE_WORDS.fullmatch(word) for word in words)
    if key in ("in_spec", "out_spec"):
        return all(kind in STRUCTURES for kind in _structures(json.loads(text) if text else None))
    return NAMES.fullmatch(text) is not None


def _structures(spec: Any) -> Iterator[Any]:
    if isinstance(spec, list):
        for each in spec:
            yield from _structures(each)
    elif isinstance(spec, dict):
        yield spec.get("type")
        yield from _structures(spec.get("children_spec"))


def _batch_size(program: Any, path: Path, side: int) -> int | None:
    """None: any. Raises ConfigError unless images go in and one value for each class comes out."""
    ends = (program.graph_signature.user_inputs, program.graph_signature.user_outputs)
    nodes = {node.name: node for node in program.graph.nodes}
    shapes = [tuple(getattr(nodes[name].meta.get("val"), "shape", ())) for names in ends for name in names]
    images = shapes[0] if [len(names) for names in ends] == [1, 1] else ()
    if len(images) != 4 or images[1] != 3 or len(shapes[1]) != 2:
        raise ConfigError(
            f"The archive {str(path)!r} must have one input (N, 3, H, W) and one output (N, classes), and has "
            f"{', '.join(str(tuple(map(str, shape))) for shape in shapes) or 'none'}."
        )
    for size in images[2:]:
        if isinstance(size, int) and size != side:
            raise ConfigError(
                f"The archive {str(path)!r} takes images of {size} pixels, but its preprocessing has crop_size {side}."
            )
    return images[0] if isinstance(images[0], int) else None
