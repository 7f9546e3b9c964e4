"""The layers of a recipe: parents below their child, `--set` on top of all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError
from finetune.origin import SET, Origin, laid_over, said
from finetune.shipped import PREFIX, recipe_file
from finetune.yamlfile import parse_scalar, read_yaml


def with_parents(path: Path, children: tuple[Path, ...] = ()) -> tuple[dict[str, Any], Origin]:
    """The keys of a file over those of its parents, and where each was said.

    Args:
        children: the files that led here.

    Raises:
        RecipeError: a file that can't be read, is no mapping, or extends itself.
    """
    if path.resolve() in children:
        raise RecipeError(f"{path}: extends itself through {' -> '.join(str(child) for child in children)}")
    data, lines = read_yaml(path)
    origin: Origin = {key: f"{path}:{line}" for key, line in lines.items()}
    parent = data.pop("extends", None)
    if parent is None:
        return data, origin
    if not isinstance(parent, str):
        raise RecipeError(f"{origin[('extends',)]}: extends: one file name is needed, got {parent!r}")
    file = parent_file(path, parent, origin[("extends",)])
    below, below_origin = with_parents(file, (*children, path.resolve()))
    return _merge(below, data), laid_over(below, below_origin, data, origin)


def parent_file(path: Path, parent: str, where: str) -> Path:
    """A shipped recipe's file for `pack:NAME`, else one from the folder of the recipe in `path`."""
    if not parent.startswith(PREFIX):
        return path.parent / parent
    try:
        return recipe_file(parent)
    except RecipeError as error:
        raise RecipeError([f"{where}: extends: {problem}" for problem in error.problems]) from None


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Sections merge key by key; anything else (lists too) is replaced."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def apply_overrides(data: dict[str, Any], origin: Origin, overrides: Sequence[str]) -> list[str]:
    """`--set KEY=VALUE` into the keys; what is wrong with them."""
    problems = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            problems.append(f"--set {override}: the form is key=value, for example train.learning_rate=1e-4")
            continue
        *sections, last = key.split(".")
        target = data
        for section in sections:
            target = _inside(target, section)
            if not isinstance(target, dict | list):
                break
        if not isinstance(target, dict):
            problems.append(f"--set {override}: {'.'.join(sections)} is not a section")
        else:
            target[last] = parse_scalar(text)
            said(origin, tuple(key.split(".")), SET)
    return problems


def _inside(target: Any, word: str) -> Any:
    """A section of `target`, made where there is none; of a list (the stages of a chain) the entry of that number."""
    if isinstance(target, list):
        return target[int(word)] if word.isdigit() and int(word) < len(target) else None
    return target.setdefault(word, {})
