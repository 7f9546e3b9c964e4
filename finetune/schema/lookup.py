"""Keys of a schema: the part that is about a key, and what it says in words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from finetune.schema.tidy import PLACE, Node

WORDS = {"boolean": "true or false", "string": "text", "null": "null", "object": "a mapping"}
ENTRIES = ("stages", "mixture")


def node_of(schema: Node, key: Sequence[str]) -> Node | None:
    """The part of the schema about a key path; None where it knows no such key.

    Of a key whose value may have several forms it is that of the form which holds the next word.
    """
    node: Node = schema
    for word in key:
        listed = _is_list(schema, node) and not word.isdigit()  # of a list's sections the number comes first
        forms = () if listed else _forms(schema, node)
        inner = next((found for form in forms if (found := _inside(form, word)) is not None), None)
        if inner is None:
            return None
        node = inner
    return node


def _is_list(schema: Node, node: Node) -> bool:
    return any(form.get("type") == "array" for form in _forms(schema, node))


def _forms(schema: Node, node: Node) -> Iterator[Node]:
    """The schemas that a value may fulfil, references followed."""
    if "$ref" in node:
        yield from _forms(schema, schema["definitions"][node["$ref"].removeprefix(PLACE)])
    yield node
    for inner in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from _forms(schema, inner)


def _inside(node: Node, word: str) -> Node | None:
    """The schema of one key of a mapping, or of one place of a list."""
    if word in node.get("properties", ()):
        found: Node = node["properties"][word]
        return found
    for pattern, inner in node.get("patternProperties", {}).items():
        if re.search(pattern, word):
            return inner
    if isinstance(node.get("additionalProperties"), dict):
        return node["additionalProperties"]
    return node["items"] if word.isdigit() and "items" in node else None


def keys_of(schema: Node, node: Node) -> dict[str, Node]:
    """The declared keys of a section that are to be used; none where it is no section."""
    for form in () if _is_list(schema, node) else _forms(schema, node):
        if "properties" in form:
            return {key: inner for key, inner in form["properties"].items() if not inner.get("doNotSuggest")}
    return {}


def all_keys(schema: Node) -> Iterator[str]:
    """Every key with dots, sections too; of stages and parts only the lists."""

    def below(node: Node, at: str) -> Iterator[str]:
        for key, inner in keys_of(schema, node).items():
            yield at + key
            yield from below(inner, f"{at}{key}.")

    yield from below(schema, "")


def near_keys(schema: Node, key: str) -> list[str]:
    """The nearest spellings: keys of that name in any section, else those whose letters are near."""
    known = [name for name in all_keys(schema) if name != "extends"]
    last = key.rpartition(".")[2]
    named = [name for name in known if name.rpartition(".")[2] == last]
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.75)
    ends: dict[str, list[str]] = {}
    for name in known:
        ends.setdefault(name.rpartition(".")[2], []).append(name)
    near += [name for end in difflib.get_close_matches(last, ends, n=2, cutoff=0.75) for name in ends[end]]
    return list(dict.fromkeys(named + near))[:3]


def in_words(schema: Node, node: Node) -> str:
    """What a value may be: type, bounds and choices."""
    forms = list(dict.fromkeys(filter(None, (_word(schema, form) for form in _ways(node)))))
    return " or ".join(forms) or "anything"


def _ways(node: Node) -> list[Node]:
    return [*node.get("anyOf", ()), *node.get("oneOf", ())] or [node]


def _word(schema: Node, node: Node) -> str:
    if "$ref" in node:
        return "a section of keys"
    if "enum" in node or "const" in node:
        values = node.get("enum", [node.get("const")])
        return f"one of {', '.join(map(_shown, values))}" if len(values) > 1 else _shown(values[0])
    kind = node.get("type")
    if kind in ("integer", "number"):
        return f"a {'whole ' if kind == 'integer' else ''}number{_bounds(node)}"
    if kind == "array":
        items = in_words(schema, node["items"]) if node.get("items") else ""
        return f"a list, each item {items}" if items else "a list"
    if kind == "object" and isinstance(node.get("additionalProperties"), dict):
        return f"a mapping of names, each to {in_words(schema, node['additionalProperties'])}"
    if kind == "string" and "pattern" in node:
        return f"text as {node['pattern']}"
    return WORDS.get(kind, "") if isinstance(kind, str) else ""


def _bounds(node: Node) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    said = [f"{word} {node[key]:g}" for key, word in words.items() if key in node]
    return f" {' '.join(said)}" if said else ""


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else {None: "null", True: "true", False: "false"}.get(value, str(value))
