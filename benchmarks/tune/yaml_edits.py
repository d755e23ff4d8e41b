"""Changes to a YAML file that leave the rest of it, its comments included, as it is.

PyYAML says of each value where in the text it stands, so that a change touches nothing else. Each comes with comment
lines above it that begin with MARK; those of an earlier run are taken out first.
"""

import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress

import yaml

from benchmarks.tune.candidate import Config, Edit, Path, applied
from deployments.errors import ConfigError

MARK = "# tuned: "
# As the rest of the project.
LINE_LENGTH = 120
INDENT = 2


def edited(text: str, changes: Sequence[Edit], reasons: Mapping[str, str], head: Sequence[str]) -> str:
    """The text with the changes, each with the reason of its knob above it, and with `head` on top.

    Raises ConfigError if the text is written in a way in which they cannot be made one by one, as with anchors.
    """
    text = without_comments(text)
    before: Config = yaml.safe_load(text)
    made, after = text, None
    with suppress(yaml.YAMLError):  # An anchor that is gone, for instance.
        for change in changes:
            made = _edit(made, change, reasons.get(change.knob, ""))
        after = yaml.safe_load(made)
    if after != applied(before, list(changes)):
        wanted = ", ".join(f"{'.'.join(map(str, change.path))}: {change.value}" for change in changes)
        raise ConfigError(f"The config is written in a way that cannot be edited; what it should have is {wanted}.")
    return "".join(_comment(line, 0) for line in head) + made


def without_comments(text: str) -> str:
    """What `edited` was given, but for the values that it has changed."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith(MARK.rstrip()))


def _edit(text: str, change: Edit, reason: str) -> str:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert node is not None  # It has been loaded before.
    line = 0
    for depth, key in enumerate(change.path):
        below = _below(node, key)
        if below is None:
            return _inserted(text, node, line, change.path[depth:], change.value, reason)
        line, node = below
    start, end = node.start_mark.index, node.end_mark.index
    old = text[start:end]
    value = str(change.value) if old else f" {change.value}"  # Nothing stands there: right behind the colon.
    why = f"{old or 'nothing'} -> {change.value}: {reason}"
    return _with_comment(f"{text[:start]}{value}{text[end:]}", line, why)


def _below(node: yaml.Node, key: str | int) -> tuple[int, yaml.Node] | None:
    """The line of the key and its value; None if there is no such key."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == key:
                return name.start_mark.line, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key].start_mark.line, node.value[key]
    return None


def _inserted(text: str, node: yaml.Node, line: int, path: Path, value: object, reason: str) -> str:
    """With the rest of the path below `node`, which has no such key; `line` is that of the node's own key."""
    why = f"not stated -> {value}: {reason}"
    if not isinstance(node, yaml.MappingNode):  # null, or nothing at all
        start, end = node.start_mark.index, node.end_mark.index
        return _with_comment(f"{text[:start]}{'' if start < end else ' '}{_flow(path, value)}{text[end:]}", line, why)
    if node.flow_style:
        brace = node.end_mark.index - 1
        comma = ", " if node.value else ""
        return _with_comment(f"{text[:brace]}{comma}{_flow(path, value)[1:-1]}{text[brace:]}", line, why)
    at, column = _line_after(node), node.value[0][0].start_mark.column
    lines = [
        f"{' ' * (column + INDENT * depth)}{key}:{f' {value}' if depth == len(path) - 1 else ''}\n"
        for depth, key in enumerate(path)
    ]
    before = text.splitlines(keepends=True)
    if at == len(before) and before and not before[-1].endswith("\n"):
        before[-1] += "\n"
    return "".join([*before[:at], _comment(why, column), *lines, *before[at:]])


def _line_after(mapping: yaml.MappingNode) -> int:
    """Behind the first entry that is one line, such as a name; else behind the last one."""
    for _, value in mapping.value:
        if isinstance(value, yaml.ScalarNode) and value.style not in ("|", ">") and value.value:
            return int(value.end_mark.line) + 1
    node: yaml.Node = mapping
    while isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        node = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
    is_block_scalar = isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")
    return int(node.end_mark.line) + (0 if is_block_scalar else 1)


def _flow(path: Path, value: object) -> str:
    """{key: {key: value}}"""
    return "".join(f"{{{key}: " for key in path) + str(value) + "}" * len(path)


def _with_comment(text: str, line: int, comment: str) -> str:
    """Above that line, as far indented as it is."""
    lines = text.splitlines(keepends=True)
    column = len(lines[line]) - len(lines[line].lstrip(" "))
    return "".join([*lines[:line], _comment(comment, column), *lines[line:]])


def _comment(text: str, column: int) -> str:
    width = max(LINE_LENGTH - column - len(MARK), 40)
    return "".join(f"{' ' * column}{MARK}{part}\n" for part in textwrap.wrap(text, width, break_on_hyphens=False))
