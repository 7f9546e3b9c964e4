"""`finetune explain RECIPE [KEY]`: one key with its meaning, a section, or the whole resolved recipe."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from finetune.errors import RecipeError
from finetune.explain.values import ABSENT, DEFAULT, Value, values_of
from finetune.origin import Key
from finetune.peft_source import fields_of
from finetune.recipe_peft import PEFT_SECTIONS
from finetune.recipe_stages import STAGE_SECTIONS
from finetune.recipefile import load_traced
from finetune.schema.lookup import ENTRIES, in_words, keys_of, near_keys, node_of
from finetune.schema.recipe import recipe_schema
from finetune.schema.tidy import Node
from finetune.told import STDOUT, tell

WIDE = 48  # characters of a value beside others
FIELD_OF_PEFT = "A field of peft."  # begins what the schema says where only peft knows more


def explain_command(options: argparse.Namespace) -> list[str]:
    """The lines to print.

    Raises:
        RecipeError: the recipe does not load; there is no such key.
    """
    loaded = load_traced(options.recipe, options.set)
    schema = recipe_schema()
    every = values_of(loaded, options.set)
    found = every if options.key is None else chosen(schema, every, tuple(options.key.split(".")))
    told = [_as_json(schema, value) for value in found]
    tell(options.json, {"recipe": str(options.recipe), "key": options.key, "values": told})
    if options.json == STDOUT:
        return []
    if options.key is None:
        return _table([value for value in found if not value.is_unset]) + _unset(found, str(options.recipe))
    key = tuple(options.key.split("."))
    node = node_of(schema, key) or node_of(schema, found[0].key) or {}
    alone = len({_plain(value.key) for value in found}) == 1
    lines = (
        _table(found) if len(found) > 1 else [f"{'.'.join(found[0].key)}  {_shown(found[0].value)}  {found[0].source}"]
    )
    return lines if keys_of(schema, node) else lines + _about(schema, found[0].key if alone else key)


def chosen(schema: Node, every: Sequence[Value], key: Key) -> list[Value]:
    """The values at and under a key; of a key that each stage or part has for itself, that of each.

    Raises:
        RecipeError: there is no such key.
    """
    here = [value for value in every if value.key[: len(key)] == key]
    if not here:
        here = [value for value in every if value.key[0] in ENTRIES and value.key[2 : 2 + len(key)] == key]
    node = node_of(schema, key) or (node_of(schema, here[0].key[: 2 + len(key)]) if here else None)
    if node is None or key == ("extends",) or (key[0] in ENTRIES and not here):
        raise RecipeError(_unknown(schema, every, key))
    inner = keys_of(schema, node)
    if not inner:
        return here or [_left_out(schema, every, key)]
    if any(value.key[: len(key)] != key for value in here):  # a section of each stage
        return here
    told = {value.key[len(key)] for value in here if len(value.key) > len(key)}
    rest = [name for name, its in inner.items() if name not in told and not keys_of(schema, its)]
    return [value for value in here if value.key != key] + [_left_out(schema, every, (*key, name)) for name in rest]


def _left_out(schema: Node, every: Sequence[Value], key: Key) -> Value:
    """A key that the recipe says nothing of: it has its default, where the recipe has the section."""
    plain = _plain(key)
    of_one = plain[0] in (*STAGE_SECTIONS, *PEFT_SECTIONS) and len(plain) > 1
    absent = of_one and not any(value.key[: len(key) - 1] == key[:-1] for value in every)
    return Value(key, None, ABSENT) if absent else Value(key, _default(node_of(schema, key) or {}), DEFAULT)


def _default(node: Node) -> Any:
    return node.get("default")


def _unknown(schema: Node, every: Sequence[Value], key: Key) -> str:
    name = ".".join(key)
    if key[0] in ENTRIES and node_of(schema, key) is not None:
        count = len({value.key[1] for value in every if value.key[0] == key[0]})
        return f"{name}: this recipe has {f'{key[0]} 0 to {count - 1}' if count else f'no {key[0]}'}"
    if key == ("extends",):
        return "extends: names the parent; each value is shown with the file that it comes from"
    near = near_keys(schema, ".".join(_plain(key)))
    return f"{name or 'KEY'}: no such key{f'; did you mean {_or(near)}?' if near else ''}"


def _or(words: Sequence[str]) -> str:
    shown = [repr(word) for word in words]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


def _plain(key: Sequence[str]) -> Key:
    """A key of a stage or part as the key of a whole recipe."""
    return tuple(key[2:] if len(key) > 2 and key[0] in ENTRIES else key)


def _table(values: Sequence[Value]) -> list[str]:
    """`key  value  where`, aligned."""
    rows = [(".".join(value.key), _cut(_shown(value.value)), str(value.source)) for value in values]
    first = max((len(key) for key, _, _ in rows), default=0)
    second = max((len(text) for _, text, _ in rows), default=0)
    return [f"{key:<{first}}  {text:<{second}}  {where}" for key, text, where in rows]


def _cut(text: str) -> str:
    """A long value's beginning, of a path its end; alone, and as JSON, it is shown whole."""
    if len(text) <= WIDE:
        return text
    return f"…{text[1 - WIDE :]}" if text.startswith("/") else f"{text[: WIDE - 1]}…"


def _unset(values: Sequence[Value], recipe: str) -> list[str]:
    count = sum(value.is_unset for value in values)
    return (
        [f"({count} keys without a value are left out; finetune explain {recipe} SECTION lists them)"] if count else []
    )


def _about(schema: Node, key: Key) -> list[str]:
    told = _of_key(schema, key)
    default = "" if told["default"] is None else _shown(told["default"])
    lines = [("meaning", told["meaning"]), ("type", told["type"]), ("default", default)]
    return [f"  {name + ':':<9} {text}" for name, text in lines if text]


def _as_json(schema: Node, value: Value) -> dict[str, Any]:
    source = asdict(value.source) | {"text": str(value.source)}
    return {"key": ".".join(value.key), "value": value.value, "from": source} | _of_key(schema, value.key)


def _of_key(schema: Node, key: Key) -> dict[str, Any]:
    """What there is to say of a key, whatever its value."""
    plain = _plain(key)
    node = node_of(schema, plain) or node_of(schema, key) or {}
    return {"type": in_words(schema, node), "default": _default(node), "meaning": _meaning(node, plain)}


def _meaning(node: Node, key: Key) -> str:
    """The documents' words; of a field of peft's without any, peft's own."""
    told: str = node.get("description", "")
    if not told.startswith(FIELD_OF_PEFT) or key[0] not in PEFT_SECTIONS:
        return told
    section = PEFT_SECTIONS[key[0]]
    theirs = fields_of(section.file, section.config).get(key[1])
    return f"{told} {theirs.meaning}".strip() if theirs else told


def _shown(value: Any) -> str:
    """A value as a recipe would say it, on one line."""
    if isinstance(value, str):
        return (
            value if value and value == value.strip() and "\n" not in value else json.dumps(value, ensure_ascii=False)
        )
    return json.dumps(value, ensure_ascii=False)
