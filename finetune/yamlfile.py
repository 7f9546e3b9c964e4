"""Strict YAML for recipes and data templates: every key's line is known, and YAML 1.1's traps are closed.

`1e-5` is a number, `no` is a string, `12:30:00` is a string; duplicate keys, anchors and tags are errors.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import RecipeError

Lines = dict[tuple[str, ...], int]  # key path -> line, counted from 1

_NULL = re.compile(r"^(~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?(0|[1-9][0-9_]*)$")
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|(0|[1-9][0-9_]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """The mapping in the file and the line of each key.

    Raises:
        RecipeError: the file is missing, not UTF-8, not YAML, not a mapping, or uses what is refused here.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise RecipeError(f"{path}: is a directory; a YAML file is needed") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: can't be read: {error}") from None
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise RecipeError(f"{path}:{line}: anchors and aliases (& and *) are not allowed")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise RecipeError(_yaml_problem(path, error)) from None
    if not isinstance(root, yaml.MappingNode):
        raise RecipeError(f"{path}: holds no mapping of keys to values")
    lines: Lines = {}
    problems: list[str] = []
    data = _build(root, (), path, lines, problems)
    if problems:
        raise RecipeError(problems)
    return data, lines


def parse_scalar(text: str) -> Any:
    """A value as it would read in a file, for `--set key=value`: numbers, true/false, null, [a, b], else text."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return text
    if node is None:
        return None
    problems: list[str] = []
    value = _build(node, (), Path("--set"), {}, problems)
    if problems:
        raise RecipeError(problems)
    return value


def _build(node: yaml.Node, at: tuple[str, ...], path: Path, lines: Lines, problems: list[str]) -> Any:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                problems.append(f"{path}:{key_line}: a key must be a plain word")
                continue
            key = key_node.value
            if key in result:
                problems.append(f"{path}:{key_line}: {'.'.join((*at, key))}: given twice")
            lines[(*at, key)] = key_line
            result[key] = _build(value_node, (*at, key), path, lines, problems)
        return result
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*at, str(index))] = item.start_mark.line + 1
        return [_build(item, (*at, str(index)), path, lines, problems) for index, item in enumerate(node.value)]
    return _scalar(node, f"{path}:{line}: {'.'.join(at)}", problems)


def _scalar(node: yaml.Node, where: str, problems: list[str]) -> Any:
    text = node.value
    plain = node.style is None  # type: ignore[attr-defined]
    if node.tag not in yaml.SafeLoader.yaml_constructors and not node.tag.startswith("tag:yaml.org,2002:"):
        problems.append(f"{where}: tag {node.tag} is not allowed")
        return None
    if node.tag.startswith("tag:yaml.org,2002:python"):
        problems.append(f"{where}: tag {node.tag} is not allowed")
        return None
    if not plain:
        return text
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text.lower() == "true"
    if _INT.match(text):
        return int(text.replace("_", ""))
    if _FLOAT.match(text):
        return float(text.replace("_", ""))
    return text


def _yaml_problem(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{path}:{mark.line + 1}:{mark.column + 1}: {what}" if mark else f"{path}: {what}"
