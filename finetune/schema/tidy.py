"""What pydantic says of a model, as a JSON Schema that editors of YAML understand (draft-07) and people can read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

Node = dict[str, Any]  # a schema, or a part of one
DRAFT = "http://json-schema.org/draft-07/schema#"  # the newest that every editor's YAML support reads
PLACE = "#/definitions/"


def definitions_of(model: type[BaseModel]) -> dict[str, Node]:
    """The schema of `model` and of each model in it, by class name.

    Titles that only repeat a key, empty defaults and defaults of whole sections (whose keys have their own) are left out.
    """
    whole = model.model_json_schema(ref_template=PLACE + "{model}")
    definitions = whole.pop("$defs")
    definitions.setdefault(model.__name__, whole)
    for definition in definitions.values():
        for node in nodes(definition):
            _tidy(node)
    return definitions


def nodes(node: Any) -> Iterator[Node]:
    """A schema and every schema inside it; of `properties` and the like the values."""
    yield node
    for key in ("properties", "patternProperties", "definitions"):
        for inner in node.get(key, {}).values():
            yield from nodes(inner)
    for key in ("anyOf", "oneOf", "allOf"):
        for inner in node.get(key, []):
            yield from nodes(inner)
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from nodes(node[key])


def ref(name: str) -> Node:
    """The schema that is defined under this name."""
    return {"$ref": PLACE + name}


def document(title: str, top: Node, definitions: dict[str, Node]) -> Node:
    """The whole file."""
    return {"$schema": DRAFT, "title": title} | top | {"definitions": dict(sorted(definitions.items()))}


def _tidy(node: Node) -> None:
    node.pop("title", None)
    if node.get("format") == "path":
        del node["format"]
    if node.get("default", 0) is None or isinstance(node.get("default"), dict):
        del node["default"]
    if "gt" in node:  # of a union of numbers
        node["exclusiveMinimum"] = node.pop("gt")
    if "patternProperties" in node:
        node.setdefault("additionalProperties", False)
    if node.get("anyOf", [])[:2] == [{"type": "integer"}, {"type": "number"}]:
        del node["anyOf"][0]
    if "description" in node:
        node["description"] = unwrapped(node["description"])


def unwrapped(text: str) -> str:
    """A docstring's paragraphs, a line each."""
    paragraphs = text.strip().replace("\nAttributes:\n", "\n").split("\n\n")
    return "\n\n".join("\n".join(_lines(paragraph)) for paragraph in paragraphs)


def _lines(paragraph: str) -> list[str]:
    """The lines of a paragraph joined; a list of attributes (`    name: what`) keeps an item a line."""
    if not paragraph.startswith("    "):
        return [" ".join(paragraph.split())]
    items: list[str] = []
    for line in paragraph.splitlines():
        if line.startswith("    ") and not line.startswith("     "):
            items.append(line.strip())
        else:
            items[-1] += f" {line.strip()}"
    return items
