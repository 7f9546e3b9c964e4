"""The recipe as a file: what there is to tell as comments at its top, then the keys, section by section."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from finetune.errors import RecipeError
from finetune.migrate.draft import Draft, Note
from finetune.recipe import Recipe
from finetune.recipefile import section_class
from finetune.yamlfile import parse_scalar

TITLES = {
    "lost": "Without an equivalent:",
    "changed": "Means something else here:",
    "idle": "Not needed here:",
}
WIDTH = 116


def recipe_text(draft: Draft) -> str:
    """The file's text."""
    lines = [f"# {draft.peer}'s {draft.given.file.name} as a recipe, by finetune import.", *comments(draft.notes), ""]
    top: dict[str, Any] = {}
    for target in sorted(draft.recipe, key=_rank):
        _place(top, target.split("."), draft.recipe[target])
    lines += _lines(top, (), draft.said)
    return "\n".join(lines) + "\n"


def comments(notes: Sequence[Note]) -> list[str]:
    """What there is to tell, as comment lines under a title each."""
    lines = []
    for kind, title in TITLES.items():
        told = [note for note in notes if note.kind == kind]
        lines += ["#", f"# {title}"] if told else []
        for note in told:
            lines += textwrap.wrap(
                str(note), WIDTH, initial_indent="# - ", subsequent_indent="#   ", break_long_words=False,
                break_on_hyphens=False,
            )  # fmt: skip
    return lines


def _rank(target: str) -> tuple[int, ...]:
    """Where a key stands in the recipe's own sections; what peft alone knows comes after what is declared."""
    places: list[int] = []
    section: type[BaseModel] | None = Recipe
    for part in target.split("."):
        names = list(section.model_fields) if section else []
        places.append(names.index(part) if part in names else len(names))
        section = section_class(section.model_fields[part].annotation) if section and part in names else None
    return tuple(places)


def _place(into: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        into = into.setdefault(part, {})
    into[path[-1]] = value


def _lines(section: dict[str, Any], above: tuple[str, ...], said: dict[str, str]) -> list[str]:
    """A section's lines; a mapping below it is a section, unless the recipe has it as one value."""
    indent = "  " * len(above)
    lines: list[str] = []
    for key, value in section.items():
        whole = ".".join((*above, key))
        comment = f"  # {said[whole]}" if said.get(whole) else ""
        if isinstance(value, dict) and whole not in said:
            lines += [f"{indent}{key}:", *_lines(value, (*above, key), said)]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{indent}{key}:{comment}", *(f"{indent}  - {plain(item)}" for item in value)]
        else:
            lines.append(f"{indent}{key}: {plain(value)}{comment}")
    return lines


def plain(value: Any) -> str:
    """A value as it reads back in a recipe, on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(plain(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{plain(key)}: {plain(item)}" for key, item in value.items()) + "}"
    return str(value) if isinstance(value, int) else _text(value)


def _number(value: float) -> str:
    """As short as it can be and still read as a fraction: 5.0e-05, 0.1, 3.0."""
    text = repr(value)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _text(value: str) -> str:
    """Plain where it reads back as the same text, also within a list; else quoted."""
    risky = not value or value != value.strip() or any(mark in value for mark in ",[]{}#:\"'&*!|>%@`\n\\?")
    try:
        same = not risky and parse_scalar(value) == value
    except RecipeError:
        same = False
    return value if same else json.dumps(value, ensure_ascii=False)
