"""The final values of a recipe, one a key, each with where it was said."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.origin import SET, Key, place_of
from finetune.recipe import resolved
from finetune.recipefile import Given, Loaded
from finetune.schema.lookup import ENTRIES


@dataclass(frozen=True)
class Source:
    """Where a value comes from.

    Attributes:
        kind: `file`, `set`, `default`, or `absent`: the recipe has no such section.
        part: of a value that a stage or part of a mixture says for itself, its name.
    """

    kind: str
    file: str | None = None
    line: int | None = None
    flag: str | None = None
    part: str | None = None

    def __str__(self) -> str:
        words = {"file": f"{self.file}:{self.line}", "default": "default", "absent": "not in this recipe"}
        place = self.flag or words[self.kind]
        return f"{place} ({self.part})" if self.part else place


@dataclass(frozen=True)
class Value:
    """A key of the resolved recipe, its final value, and where that was said."""

    key: Key
    value: Any
    source: Source

    @property
    def is_unset(self) -> bool:
        """Whether there is none, and nobody said so."""
        return self.value is None and self.source.kind == "default"


DEFAULT = Source("default")
ABSENT = Source("absent")


def values_of(loaded: Loaded, overrides: Sequence[str]) -> list[Value]:
    """Every key of the resolved recipe, in its order.

    Args:
        overrides: the `--set` flags that it was loaded with.
    """
    found = []
    for key, value in _leaves(resolved(loaded.recipe), ()):
        found.append(Value(key, value, _source(loaded, key, overrides)))
    return found


def _leaves(value: Any, at: Key) -> Iterator[tuple[Key, Any]]:
    """Values that are no sections; lists of sections are gone into."""
    if isinstance(value, dict) and (value or not at):
        for key, inner in value.items():
            yield from _leaves(inner, (*at, key))
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*at, str(index)))
    else:
        yield at, value


def _source(loaded: Loaded, key: Key, overrides: Sequence[str]) -> Source:
    given, inner = _run_of(loaded, key)
    in_entry = key[0] in ENTRIES
    if in_entry and inner == ("name",) and key not in loaded.whole.origin:
        return DEFAULT  # its stage
    place = place_of(given.data, given.origin, inner)
    if place is None:
        return DEFAULT
    if place == SET:
        return Source("set", flag=_flag(key, inner, overrides))
    file, _, line = place.rpartition(":")
    own = in_entry and place in {at for said, at in loaded.whole.origin.items() if said[:2] == key[:2]}
    return Source("file", _short(file), int(line), part=_part(loaded, key) if own else None)


def _run_of(loaded: Loaded, key: Key) -> tuple[Given, Key]:
    """What a key was checked as: the keys of its run, and its place there."""
    if key[0] in ENTRIES:
        return loaded.runs[int(key[1])], key[2:]
    if key in (("name",), ("output_dir",)):
        return loaded.whole, key
    return loaded.runs[-1 if loaded.recipe.stages else 0], key


def _flag(key: Key, inner: Key, overrides: Sequence[str]) -> str:
    """The `--set` that gave a value: one for this very stage or part goes before one for all, a later one before others."""
    for wanted in (key, inner):
        for override in reversed(overrides):
            words = tuple(override.partition("=")[0].split("."))
            if wanted[: len(words)] == words:
                return f"{SET} {override}"
    return SET


def _part(loaded: Loaded, key: Key) -> str:
    recipe = loaded.recipe
    parts = recipe.stages or recipe.mixture
    name = parts[int(key[1])].name.removeprefix(f"{recipe.name}.")
    return f"{'stage' if recipe.stages else 'part'} {name}"


def _short(file: str) -> str:
    """The path without `folder/..`, where that is the same file."""
    short = os.path.normpath(file)
    return short if Path(short).exists() and Path(short).samefile(file) else file
