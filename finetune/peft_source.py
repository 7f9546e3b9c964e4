"""The fields of peft's configuration classes, read from the installed source: no peft and no torch is imported."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError

UNKNOWN = object()  # a default that is worked out


@dataclass(frozen=True)
class Field:
    """A field of a configuration class.

    Attributes:
        init: whether it may be given at all.
        default: peft's own; UNKNOWN where its source does not say it in plain.
        meaning: what peft says of it.
    """

    type: Any
    init: bool
    default: Any = UNKNOWN
    meaning: str = ""


class Nested:
    """Stands in a type for one of peft's configuration classes; a recipe gives its fields as a mapping."""

    fields: Mapping[str, Field] = {}


@cache
def fields_of(file: str, name: str) -> Mapping[str, Field]:
    """Fields of the class `name` in peft's `file`, inherited ones too, in the order of definition.

    Args:
        file: below peft's folder, as `tuners/lora/config.py`.

    Raises:
        RecipeError: peft is not installed, or has no such file or class.
    """
    try:
        return _fields(_peft() / file, name)
    except (OSError, KeyError, SyntaxError):
        raise RecipeError(f"the installed peft has no {name}; peft>=0.20,<0.22 is needed") from None


def _peft() -> Path:
    spec = importlib.util.find_spec("peft")
    if spec is None or spec.origin is None:
        raise RecipeError("the package peft is not installed; pip install peft")
    return Path(spec.origin).parent


@dataclass(frozen=True)
class _Source:
    """A file of peft's: its classes, and the files that it imports names from."""

    classes: dict[str, ast.ClassDef]
    imported: dict[str, Path] = field(default_factory=dict)


@cache
def _source(file: Path) -> _Source:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    imported: dict[str, Path] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            above = file.parents[node.level - 1] if node.level else _peft().parent
            place = above.joinpath(*(node.module or "").split("."))
            place = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
            imported |= {alias.asname or alias.name: place for alias in node.names}
    return _Source(classes, imported)


@cache
def _fields(file: Path, name: str) -> Mapping[str, Field]:
    source = _source(file)
    if name not in source.classes:
        return _fields(source.imported[name], name)
    found: dict[str, Field] = {}
    for base in reversed(source.classes[name].bases):
        if isinstance(base, ast.Name) and (base.id in source.classes or _in_peft(source.imported.get(base.id))):
            found |= _fields(file, base.id)
    for node in source.classes[name].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            told = _Told.of(node.value)
            found[node.target.id] = Field(_type(node.annotation, file), told.init, told.default, told.meaning)
    return found


def _in_peft(file: Path | None) -> bool:
    return file is not None and file.is_file() and file.is_relative_to(_peft())


@dataclass(frozen=True)
class _Told:
    """What stands after a field's type: a value, or `field(...)`."""

    init: bool = True
    default: Any = UNKNOWN
    meaning: str = ""

    @classmethod
    def of(cls, value: ast.expr | None) -> _Told:
        if not isinstance(value, ast.Call):
            return cls(default=_plain(value))
        words = {word.arg: word.value for word in value.keywords}
        factory = words.get("default_factory")
        made = (
            {"list": [], "dict": {}, "set": []}.get(factory.id, UNKNOWN) if isinstance(factory, ast.Name) else UNKNOWN
        )
        default = _plain(words["default"]) if "default" in words else made
        metadata = _plain(words.get("metadata"))
        meaning = metadata.get("help", "") if isinstance(metadata, dict) else ""
        return cls(_plain(words.get("init")) is not False, default, " ".join(meaning.split()))


def _plain(node: ast.expr | None) -> Any:
    """The value that an expression spells out; UNKNOWN for any other."""
    try:
        return UNKNOWN if node is None else ast.literal_eval(node)
    except ValueError:
        return UNKNOWN


class _Names(dict[str, Any]):
    """Names in an annotation: typing's, builtins, the file's own dataclasses; any other may be anything."""

    def __init__(self, file: Path) -> None:
        super().__init__({name: getattr(typing, name) for name in ("Optional", "Union", "Literal", "Any")})
        self.file = file

    def __missing__(self, name: str) -> Any:
        if _is_dataclass(_source(self.file).classes.get(name)):
            return type(name, (Nested,), {"fields": _fields(self.file, name)})
        return getattr(builtins, name, Any)


def _is_dataclass(node: ast.ClassDef | None) -> bool:
    """Else it is an enumeration or the like, whose values are for peft to judge."""
    return node is not None and any(
        isinstance(mark, ast.Name) and mark.id == "dataclass" for mark in node.decorator_list
    )


def _type(annotation: ast.expr, file: Path) -> Any:
    """The type that an annotation says; Any for what is no plain type (a torch module, an enumeration)."""
    try:
        return eval(compile(ast.Expression(annotation), str(file), "eval"), {"__builtins__": {}}, _Names(file))
    except (AttributeError, TypeError):
        return Any
