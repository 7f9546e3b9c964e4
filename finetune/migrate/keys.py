"""What a peer's key is to us, as the rows of the peers' tables: the same under another name, read by a translation, without
an equivalent, or without effect on the result."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

TRUE, FALSE = ("true", "yes", "on"), ("false", "no", "off")
KINDS = {
    "whole": "a whole number", "number": "a number", "flag": "true or false", "text": "text", "names": "a list of names",
    "any": "",
}  # fmt: skip


@dataclass(frozen=True)
class Key:
    """One row. Of `to`, `lost` and `idle` at most one is said; where none is, a function of the peer's file reads it.

    Attributes:
        kind: what the value is, a name out of KINDS.
        to: the recipe's key that means the same.
        lost: why there is no equivalent. instead: what comes nearest.
        idle: why it changes nothing about what is trained.
        off: values with which the key says nothing: the peer's own default.
    """

    kind: str = "any"
    to: str = ""
    lost: str = ""
    instead: str = ""
    idle: str = ""
    off: tuple[Any, ...] = ()

    def says_nothing(self, value: Any) -> bool:
        return value in (None, False, "", "none") or value == [] or value == {} or value in self.off


def same(to: str, kind: str) -> Key:
    """The recipe has it, under this name."""
    return Key(kind, to=to)


def read(kind: str) -> Key:
    """A function translates it."""
    return Key(kind)


def lost(why: str, instead: str = "", off: Iterable[Any] = ()) -> Key:
    """Nothing here means it."""
    return Key(lost=why, instead=instead, off=tuple(off))


def idle(why: str, off: Iterable[Any] = ()) -> Key:
    """It changes how a run is told, kept or computed, not what is trained."""
    return Key(idle=why, off=tuple(off))


def each(names: str, row: Key) -> dict[str, Key]:
    """The same row for several keys."""
    return {name: replace(row) for name in names.split()}


def as_kind(value: Any, kind: str) -> Any:
    """The value as its kind; what YAML 1.1 or a command line would read as that is taken too.

    Raises:
        ValueError: it is something else.
    """
    if value is None or kind == "any":
        return value
    if kind == "flag":
        return _flag(value)
    if kind in ("whole", "number"):
        return _number(value, whole=kind == "whole")
    if kind == "names":
        return _names(value)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in TRUE + FALSE:
        return value.lower() in TRUE
    raise ValueError


def _number(value: Any, whole: bool) -> int | float:
    if isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    if whole and value != int(value):
        raise ValueError
    return int(value) if whole or isinstance(value, int) else value


def _names(value: Any) -> list[str]:
    """A list, or names with commas between them, or one name."""
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",")]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError
    return [item for item in value if item]
