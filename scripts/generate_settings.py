"""Writes docs/settings.md from the settings themselves: `python -m scripts.generate_settings`.

What a setting is for stands in the comment above its field, what a group of them is for in the docstring of its class;
types, bounds and defaults are the fields' own. The variables of Ray are those of configs/ray.env, with its comments.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deployments.repository import Manifest
from deployments.settings import LiveSettings, Settings

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs/settings.md"
RAY_ENV: Final = ROOT / "configs/ray.env"
WORDS: Final[dict[object, str]] = {int: "integer", float: "number", str: "text", bool: "true or false", Any: "anything"}
BOUNDS: Final = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}", "min_length": "at least {}", "pattern": "{}"}
MEBIBYTE: Final = 2**20
MEANT: Final = r"[|*_\\`\[\]<>&]"

HEAD: Final = """\
<!-- Written by scripts/generate_settings.py; do not edit. -->

# Settings

Everything that can be set, as the service itself reads it: names, types, bounds and defaults are those of the code. A
wrong key, value or combination stops the start with one sentence that names it;
`.venv/bin/python -m scripts.check_config FILE` says the same without a start. How to size what matters under load: see
[operations](operations.md).

Where a setting is written:

| in | what | applied |
|---|---|---|
| [`args:`](#args) of the application, in a file of `configs/` | what the service is | by new replicas |
| [`user_config:`](#user_config) of a model's deployment, likewise | versions, traffic, batches | while it serves |
| [`model.yaml`](#modelyaml) beside the weights | what a model is | with its version |
| [`configs/ray.env`](#rays-environment), or the environment | Ray's own processes | when the service starts |

`http_options`, `grpc_options`, and of each deployment `num_replicas`, `autoscaling_config`, `max_ongoing_requests`,
`max_queued_requests` and `ray_actor_options` are Ray Serve's own keys of that file.
"""
RAY_ENV_HEAD: Final = """\
## Ray's environment

`make serve` sets what `configs/ray.env` says, unless the environment says otherwise. `APERTURE_CACHE` is where exports,
compiled models and verdicts are kept (by default `~/.cache/aperture`).

| variable | value | what it is for |
|---|---|---|
"""


@dataclass(frozen=True)
class Section:
    """A group of settings: where it is written, and what it is."""

    path: str
    model: type[BaseModel]
    depth: int

    @property
    def link(self) -> str:
        # The anchor is what both MkDocs and GitHub make of the title.
        return f"[`{self.path}`](#{re.sub(r'[^a-z_]', '', self.path)})"


def page() -> str:
    """The whole of docs/settings.md."""
    roots = (("args", Settings), ("user_config", LiveSettings), ("model.yaml", Manifest))
    sections = [section for path, model in roots for section in _sections(Section(path, model, 2))]
    # A class that several settings are of is described where it comes first.
    links = {section.model: section.link for section in reversed(sections)}
    shown = [section for section in sections if links[section.model] == section.link]
    return "\n".join([HEAD, *(_rendered(section, links) for section in shown), RAY_ENV_HEAD + _ray_env()])


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """What the comments above the fields of `model` say, by the names of the fields."""
    source = inspect.getsource(model).splitlines()
    (definition,) = ast.parse("\n".join(source)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        node.target.id: _comment_above(source, node.lineno - 1)
        for node in definition.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def main() -> int:
    PAGE.write_text(page(), encoding="utf-8")
    return 0


def _comment_above(lines: list[str], index: int) -> str:
    above = (line.strip() for line in reversed(lines[:index]))
    comment = [line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), above)]
    return " ".join(reversed(comment))


def _sections(section: Section) -> Iterator[Section]:
    yield section
    for name, field in section.model.model_fields.items():
        for model in _models_in(field.annotation):
            yield from _sections(Section(f"{section.path}.{name}", model, 3))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _rendered(section: Section, links: dict[type[BaseModel], str]) -> str:
    said = descriptions(section.model)
    rows = [
        f"| `{name}` | {_values(field, links)} | {_default(name, field, said[name])} | {said[name] or _about(field)} |"
        for name, field in section.model.model_fields.items()
    ]
    title = f"{'#' * section.depth} `{section.path}`"
    about = inspect.cleandoc(section.model.__doc__ or "")
    return "\n".join([title, "", about, "", "| key | values | default | what it is |", "|---|---|---|---|", *rows, ""])


def _about(field: FieldInfo) -> str:
    """The first sentence of the docstring of the settings that a key holds."""
    model = next(_models_in(field.annotation), None)
    return "" if model is None else re.split(r"(?<=\.)\s", inspect.cleandoc(model.__doc__ or ""))[0]


def _values(field: FieldInfo, links: dict[type[BaseModel], str]) -> str:
    return _bounded(_type(field.annotation, links), field.metadata)


def _type(annotation: Any, links: dict[type[BaseModel], str]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in WORDS:
        return WORDS[annotation]
    if annotation is NoneType:
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return links[annotation]
    if origin is Annotated:
        return _bounded(_type(arguments[0], links), annotation.__metadata__)
    if origin is Literal:
        return ", ".join(f"`{_yaml(value)}`" for value in arguments)
    if origin in (Union, UnionType):
        return ", or ".join(_type(argument, links) for argument in arguments)
    if origin is dict:
        return f"map of {_type(arguments[0], links)} to {_type(arguments[1], links)}"
    if origin is tuple:
        count = "" if arguments[-1] is ... else f" of {len(arguments)}"
        return f"list{count}: {_type(arguments[0], links)}"
    raise TypeError(f"{annotation} has no words")


def _bounded(words: str, metadata: Any) -> str:
    """`words` with the bounds that stand in `metadata` (annotated_types, pydantic's Field)."""
    said = [
        template.format(_code(value) if name == "pattern" else value)
        for constraint in metadata
        for each in getattr(constraint, "metadata", [constraint])
        for name, template in BOUNDS.items()
        if (value := getattr(each, name, None)) is not None
    ]
    return f"{words}{';' * words.startswith('list')} {', '.join(said)}" if said else words


def _default(name: str, field: FieldInfo, said: str) -> str:
    if field.is_required():
        return "" if said.startswith("By default") else "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        stated = value.model_dump(mode="json", exclude_defaults=True)
        return _code(_yaml(stated)) if stated else ""
    if name.endswith("_bytes") and value is not None and value % MEBIBYTE == 0:
        return f"{value} ({value // MEBIBYTE} MiB)"
    return _code(_yaml(value))


def _yaml(value: Any) -> str:
    value = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _code(text: str) -> str:
    if "|" not in text:
        return f"`{text}`"
    # Backticks do not protect a bar in a table, and an element does not protect what Markdown has a meaning for.
    return f"<code>{re.sub(MEANT, lambda match: f'&#{ord(match[0])};', text)}</code>"


def _ray_env() -> str:
    lines = RAY_ENV.read_text(encoding="utf-8").splitlines()
    rows = [
        f"| `{name}` | `{value}` | {_comment_above(lines, index)} |"
        for index, line in enumerate(lines)
        if not line.startswith("#")
        for name, _, value in [line.partition("=")]
        if value
    ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
