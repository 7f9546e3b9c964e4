"""What peft's configuration classes hold, read from the installed source: a recipe is checked without peft or torch."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from finetune.errors import did_you_mean
from finetune.peft_source import Field, Nested

Problem = tuple[tuple[str, ...], str]  # the key's path in the section, and what is wrong
ADAPTER = ConfigDict(strict=True, arbitrary_types_allowed=True)
PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a mapping"}


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
    nested = [kind for kind in kinds(wanted) if isinstance(kind, type) and issubclass(kind, Nested)]
    if nested and isinstance(value, dict):
        return problems_of(value, nested[0].fields, {}, nested[0].__name__)
    if _fits(value, wanted):
        return []
    words = [word for kind in kinds(wanted) if (word := _word(kind))]
    near = did_you_mean(value, _choices(wanted)) if isinstance(value, str) and _choices(wanted) else ""
    return [((), f"should be {' or '.join(dict.fromkeys(words))}; got {value!r}{near if 'mean' in near else ''}")]


def _fits(value: Any, wanted: Any) -> bool:
    try:
        TypeAdapter(wanted, config=ADAPTER).validate_python(value)
    except ValidationError:
        return False
    return True


def kinds(wanted: Any) -> tuple[Any, ...]:
    """The members of a union, else the type itself."""
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return tuple(kind for inner in typing.get_args(wanted) for kind in kinds(inner))
    return (wanted,)


def _choices(wanted: Any) -> list[str]:
    literals = [kind for kind in kinds(wanted) if typing.get_origin(kind) is typing.Literal]
    return [choice for kind in literals for choice in typing.get_args(kind) if isinstance(choice, str)]


def _word(kind: Any) -> str:
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if kind is type(None):
        return ""
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, inside))}"
    if origin in (list, tuple):
        return f"a list of {' or '.join(_plural(_word(k)) for item in inside[:1] for k in kinds(item))}"
    if origin is dict:
        return f"a mapping of {_plural(_word(inside[0]))} to {' or '.join(_plural(_word(k)) for k in kinds(inside[1]))}"
    if isinstance(kind, type) and issubclass(kind, Nested):
        return f"a section with keys of {', '.join(name for name, one in kind.fields.items() if one.init)}"
    return PLAIN.get(kind, "another value")


def _plural(word: str) -> str:
    plurals = {"text": "names", "a whole number": "whole numbers", "a number": "numbers"}
    return plurals.get(word, word.replace("a list", "lists"))
