"""The sections of the PEFT methods: our own keys, and the fields of the installed peft, as the recipe checks them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from finetune.peft_fields import ADAPTER, OURS, Row, kinds
from finetune.peft_source import UNKNOWN, Field, Nested, fields_of
from finetune.recipe_peft import PeftSection
from finetune.schema.tidy import Node, nodes


def adapter_section(section: type[PeftSection], declared: Node) -> Node:
    """`declared` with every other field that the section takes, and no key beyond them.

    Args:
        declared: the schema of the keys that we declare ourselves.
    """
    known = fields_of(section.file, section.config)
    passed = {name: field for name, field in known.items() if name not in section.model_fields}
    properties = {name: _field(section.config, field, section.rows.get(name, Row())) for name, field in passed.items()}
    return declared | {"properties": declared["properties"] | properties, "additionalProperties": False}


def _field(config: str, field: Field, row: Row) -> Node:
    """One field of peft's. One that is refused may be null or false, which is to leave it out."""
    if row.refused or not field.init:
        said = f"Not taken: {row.refused or OURS}."
        return {"enum": [None, False], "description": said, "doNotSuggest": True}
    kind = _of_peft(field.type if row.type is None else row.type)
    if row.needed:
        kind["description"] = f"{row.needed[0].upper()}{row.needed[1:]}; a field of peft.{config}."
    else:
        kind["description"] = f"A field of peft.{config}."
    if field.default not in (UNKNOWN, None) and not isinstance(field.default, dict):
        kind["default"] = field.default
    return kind


def _of_peft(wanted: Any) -> Node:
    """The type of a field; null is to leave it out. Where it holds a configuration of peft's, its fields."""
    nested = [kind for kind in kinds(wanted) if isinstance(kind, type) and issubclass(kind, Nested)]
    told = [_mapping(nested[0].fields)] if nested else []
    told += [plain(kind) for kind in kinds(wanted) if kind not in nested and not (nested and kind is dict)]
    told = [kind for kind in told if kind != {"type": "null"}]  # said below
    return {"anyOf": [*told, {"type": "null"}]} if all(told) else {}


def _mapping(fields: Mapping[str, Field]) -> Node:
    properties = {name: _of_peft(field.type) for name, field in fields.items() if field.init}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def plain(wanted: Any) -> Node:
    """The schema of a plain type; an empty one where anything goes."""
    node: Node = TypeAdapter(wanted, config=ADAPTER).json_schema()
    for inner in nodes(node):
        inner.pop("title", None)
        inner.pop("additionalProperties", None) if inner.get("additionalProperties") is True else None
    return node
