"""What peft's configuration classes hold, read from the installed source: a recipe is checked without peft or torch."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from finetune.errors import RecipeError, did_you_mean

Problem = tuple[tuple[str, ...], str]  # the key's path in the section, and what is wrong
ADAPTER = ConfigDict(strict=True, arbitrary_types_allowed=True)
PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a mapping"}


@dataclass(frozen=True)
class Field:
    """A field of a configuration class. `init`: whether it may be given at all."""

    type: Any
    init: bool


@dataclass(frozen=True)
class Row:
    """Our own answer to a field, beside peft's.

    Attributes:
        refused: why it is not taken; empty: it passes through.
        type: narrower than peft's own, with `needed`, that type in words.
        not_these: values that peft knows and we don't take, as text: why.
    """

    refused: str = ""
    type: Any = None
    needed: str = ""
    not_these: Mapping[str, str] = field(default_factory=dict)


OURS = "is set by the run itself; leave it out"
# The fields that every configuration of peft has.
COMMON = {
    "task_type": Row("follows from the stage; leave it out"),
    "peft_type": Row("is a key of the whole recipe, not of the section; leave it out here"),
    "auto_mapping": Row("is for models outside of transformers; leave it out"),
    "peft_version": Row(OURS),
    "base_model_name_or_path": Row("is model.name_or_path; leave it out here"),
    "revision": Row("is model.revision; leave it out here"),
    "inference_mode": Row("would train nothing; leave it out"),
}


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


def problems_of(
    given: Mapping[str, Any], known: Mapping[str, Field], rows: Mapping[str, Row], config: str
) -> list[Problem]:
    """What is wrong with settings that pass through to peft; None is no setting.

    Args:
        known: the fields of the class, as from `fields_of`. rows: our own answers to some of them.
        config: the class's name, for the words.
    """
    problems: list[Problem] = []
    for key, value in given.items():
        row = rows.get(key, Row())
        if key not in known:
            may = [name for name in known if known[name].init and not rows.get(name, Row()).refused]
            problems.append(((key,), f"not a field of peft.{config}{did_you_mean(key, may)}"))
        elif value is None:
            continue
        elif row.refused or not known[key].init:
            if value is not False:
                problems.append(((key,), f"{row.refused or OURS}; got {value!r}"))
        elif str(value) in row.not_these:
            problems.append(((key,), f"{value!r} {row.not_these[str(value)]}"))
        elif row.type is not None:
            if not _fits(value, row.type):
                problems.append(((key,), f"should be {row.needed}; got {value!r}"))
        else:
            problems += [((key, *path), text) for path, text in _wrong(value, known[key].type)]
    return problems


def _wrong(value: Any, wanted: Any) -> list[Problem]:
    """What is wrong with one value; where it is the mapping of a nested configuration, with each of its keys."""
    nested = [kind for kind in _kinds(wanted) if isinstance(kind, type) and issubclass(kind, Nested)]
    if nested and isinstance(value, dict):
        return problems_of(value, nested[0].fields, {}, nested[0].__name__)
    if _fits(value, wanted):
        return []
    words = [word for kind in _kinds(wanted) if (word := _word(kind))]
    near = did_you_mean(value, _choices(wanted)) if isinstance(value, str) and _choices(wanted) else ""
    return [((), f"should be {' or '.join(dict.fromkeys(words))}; got {value!r}{near if 'mean' in near else ''}")]


def _fits(value: Any, wanted: Any) -> bool:
    try:
        TypeAdapter(wanted, config=ADAPTER).validate_python(value)
    except ValidationError:
        return False
    return True


def _kinds(wanted: Any) -> tuple[Any, ...]:
    """The members of a union, else the type itself."""
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return tuple(kind for inner in typing.get_args(wanted) for kind in _kinds(inner))
    return (wanted,)


def _choices(wanted: Any) -> list[str]:
    literals = [kind for kind in _kinds(wanted) if typing.get_origin(kind) is typing.Literal]
    return [choice for kind in literals for choice in typing.get_args(kind) if isinstance(choice, str)]


def _word(kind: Any) -> str:
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if kind is type(None):
        return ""
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, inside))}"
    if origin in (list, tuple):
        return f"a list of {' or '.join(_plural(_word(k)) for item in inside[:1] for k in _kinds(item))}"
    if origin is dict:
        return (
            f"a mapping of {_plural(_word(inside[0]))} to {' or '.join(_plural(_word(k)) for k in _kinds(inside[1]))}"
        )
    if isinstance(kind, type) and issubclass(kind, Nested):
        return f"a section with keys of {', '.join(name for name, one in kind.fields.items() if one.init)}"
    return PLAIN.get(kind, "another value")


def _plural(word: str) -> str:
    plurals = {"text": "names", "a whole number": "whole numbers", "a number": "numbers"}
    return plurals.get(word, word.replace("a list", "lists"))


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
            found[node.target.id] = Field(_type(node.annotation, file), _in_init(node.value))
    return found


def _in_peft(file: Path | None) -> bool:
    return file is not None and file.is_file() and file.is_relative_to(_peft())


def _in_init(value: ast.expr | None) -> bool:
    """Not for `field(init=False)`."""
    words = value.keywords if isinstance(value, ast.Call) else []
    return not any(
        word.arg == "init" and isinstance(word.value, ast.Constant) and word.value.value is False for word in words
    )


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
