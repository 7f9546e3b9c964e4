"""Where each key of a recipe was said: `file:line`, or `--set`. What is replaced takes the places of all under it along."""

from __future__ import annotations

from typing import Any

Key = tuple[str, ...]
Origin = dict[Key, str]  # key path -> "file:line" or "--set"
SET = "--set"


def inside(data: Any, key: Key) -> Any:
    """The value at a key path of mappings and lists; None where there is none."""
    for word in key:
        if isinstance(data, list):
            data = data[int(word)] if word.isdigit() and int(word) < len(data) else None
        else:
            data = data.get(word) if isinstance(data, dict) else None
    return data


def said(origin: Origin, key: Key, place: str) -> None:
    """`key` is given anew at `place`: what was said under it is gone."""
    for inner in [known for known in origin if known[: len(key)] == key]:
        del origin[inner]
    origin[key] = place


def laid_over(below: dict[str, Any], below_origin: Origin, above: dict[str, Any], above_origin: Origin) -> Origin:
    """The places of `above` merged over `below`: sections key by key, anything else with all that stood in it."""
    origin = dict(below_origin)
    for key in sorted(above_origin, key=len):
        if isinstance(inside(below, key), dict) and isinstance(inside(above, key), dict):
            origin[key] = above_origin[key]
        else:
            said(origin, key, above_origin[key])
    return origin


def place_of(data: dict[str, Any], origin: Origin, key: Key) -> str | None:
    """Where the value of `key` was said, by itself or inside what was given whole; None: nowhere, it is a default."""
    if key in origin:
        return origin[key]
    held: Any = data
    for word in key[:-1]:
        held = inside(held, (word,))
    given = word_in(held, key[-1])
    return next((origin[key[:n]] for n in range(len(key) - 1, 0, -1) if key[:n] in origin), None) if given else None


def word_in(held: Any, word: str) -> bool:
    """Whether a mapping has this key, or a list this place."""
    if isinstance(held, list):
        return word.isdigit() and int(word) < len(held)
    return isinstance(held, dict) and word in held
